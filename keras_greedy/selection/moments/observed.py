"""The moments that a search has observed, in two parts, without a third copy of them.

The moments of a wide network take gigabytes. The search needs those of all examples to
select channels, and those of the examples that it does not measure with for the weights
of the cuts it measures. All are the sum of both parts, made layer by layer as it is
asked for.
"""

from collections.abc import Iterator, Mapping

from keras_greedy.selection.moments.scatter import Moments, Scatter


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
