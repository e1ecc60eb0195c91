"""The moments that a search has observed, in two parts, without a third copy of them.

The moments of a wide network take gigabytes. The search needs those of all examples to
select channels, and those of the examples that it does not measure with for the weights
of the cuts it measures. All are the sum of both parts, made layer by layer as it is
asked for.
"""

import math
from collections.abc import Iterator, Mapping

from keras_greedy.batches import BATCH_SIZE, Batches
from keras_greedy.selection.moments.scatter import Moments, Scatter

DIVISIBLE = 8
"""Batches of this or of more examples are multiples of it."""


def half_unseen(batches: Batches, images: int) -> tuple[Batches, int]:
    """Returns the data, and how many of its examples to measure cuts on.

    Of few examples these are half: the weights that make up for a cut fit the others,
    and how well they do shows only on examples that they have not seen. Of one example
    there is no half.

    Args:
        batches: The calibration data.
        images: How many to measure on at most.
    """
    found = 0
    for batch in batches:
        found += len(batch[0])
        if found >= 2 * images:
            return batches, images
    if found == 1:
        return batches, images
    # The boundary between both parts is that of a batch.
    half = found // 2
    parts = math.ceil(half / BATCH_SIZE)
    size = half // parts
    if size > DIVISIBLE:
        # So several devices share it as they are, and find what one device finds.
        size -= size % DIVISIBLE
    return batches.of_size(size), size * parts


class Observed:
    """The moments of the examples that cuts are measured on, and of the others.

    Args:
        apart: Moments of the examples that cuts are measured on.
        others: Of those that are not.

    Attributes:
        all: Moments of all examples.
        unseen: Moments to reconstruct weights with that are measured: an overfitted
            reconstruction shows only on examples it has not seen. They are those of
            the other examples, where these are no fewer.
    """

    def __init__(self, apart: Moments, others: Moments):
        if others.examples >= apart.examples:
            scatters = _Merged(apart, others)
            self.all = Moments(scatters, apart.examples + others.examples)
            self.unseen = others
        else:
            self.all = self.unseen = apart.merge(others)

    def whole(self) -> Moments:
        """Returns the moments of all examples, merged; the parts are used up."""
        scatters = self.all.scatters
        if not isinstance(scatters, _Merged):
            return self.all
        # Each part goes as soon as it is merged, if nothing else holds it.
        self.unseen = Moments.zero({})
        return Moments(scatters.taken(), self.all.examples)


class _Merged(Mapping[str, Scatter]):
    """The scatters of two `Moments`, each merged whenever it is asked for."""

    def __init__(self, one: Moments, other: Moments):
        self._one = dict(one.scatters)
        self._other = dict(other.scatters)

    def __getitem__(self, name: str) -> Scatter:
        return self._one[name].merge(self._other[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._one)

    def __len__(self) -> int:
        return len(self._one)

    def taken(self) -> dict[str, Scatter]:
        """Returns all of them merged, and holds none any more."""
        taken = {}
        for name in list(self._one):
            taken[name] = self._one.pop(name).merge(self._other.pop(name))
        return taken
