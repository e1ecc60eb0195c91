"""Splits the user's data in two: examples to learn from, and a few to judge by."""

import zlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_greedy.batch_arrays import unpacked
from keras_greedy.data_forms import Source, to_numpy

LEAST_HELD = 8
"""One of so many examples is held apart, and no fewer than so many can judge."""

MOST_HELD = 1024
"""About so many of a large data set are enough to judge by."""


class Part:
    """The examples of a source that are held apart, or all others.

    An example's own bytes say which it is: the parts are the same in each pass, in
    whatever order the data come, and two copies of an example are in the same one.

    Args:
        source: The data.
        every: One of so many examples is held apart.
        turn: How often the source has been parted before; other examples are held apart
            each time.
        is_held: Whether the part is these, and not the others.
        name: Of the argument that the data are, for the errors.

    Attributes:
        length: `None`: it is not known how many batches have examples of the part.
    """

    length: int | None = None

    def __init__(
        self,
        source: "Source | Part",
        every: int,
        turn: int,
        is_held: bool,
        name: str,
    ):
        self._source = source
        self._every = every
        self._remainder = turn % every
        self._is_held = is_held
        self._name = name

    def __call__(self) -> Iterator[Any]:
        """Yields the own examples of each batch that has some."""
        for batch in self._source():
            own = self._own_examples(batch)
            if own.any():
                yield _rows(batch, own)

    def __iter__(self) -> Iterator[Any]:
        return self()

    def check_ends(self) -> None:
        """Raises a ValueError when the data may never end, as `Source` does."""
        self._source.check_ends()

    def examples(self) -> int:
        """Returns how many there are; reads the data for it."""
        return sum(int(self._own_examples(batch).sum()) for batch in self._source())

    def of_arrays(self, data: Any) -> Any:
        """Returns the own examples of whole arrays."""
        return _rows(data, self._own_examples(data))

    def _own_examples(self, batch: Any) -> np.ndarray:
        """Returns a Boolean for each example of a batch."""
        x, _, _ = unpacked(batch, self._name)
        leaves = [to_numpy(leaf) for leaf in keras.tree.flatten(x)]
        is_held = np.zeros(len(leaves[0]), dtype=bool)
        for i in range(len(is_held)):
            checksum = 0
            for leaf in leaves:
                checksum = zlib.crc32(np.asarray(leaf[i]).tobytes(), checksum)
            is_held[i] = checksum % self._every == self._remainder
        return is_held == self._is_held


def one_of(examples: int) -> int | None:
    """Returns of how many examples one is to be held apart; `None` if too few.

    Args:
        examples: How many there are.
    """
    if examples < LEAST_HELD**2:
        return None
    return max(LEAST_HELD, examples // MOST_HELD)


def _rows(structure: Any, rows: np.ndarray) -> Any:
    """Returns some rows of each array in a structure."""

    def own(leaf: Any) -> Any:
        return leaf if leaf is None else to_numpy(leaf)[rows]

    return keras.tree.map_structure(own, structure)
