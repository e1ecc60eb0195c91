"""Progress of the search's stages, shown as Keras shows an epoch's."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias, TypeVar

import keras

Item = TypeVar("Item")
# `"auto"` or 1 for a bar, 2 for a line per stage, 0 for silence.
Verbose: TypeAlias = str | int


class Progress:
    """A title and a bar for each of some consecutive stages.

    Args:
        verbose: `"auto"` or 1 for a bar, 2 for a line per stage, 0 for silence.

    Raises:
        ValueError: For any other `verbose`.
    """

    def __init__(self, verbose: Verbose = "auto"):
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f"Expected `verbose` to be 'auto', 0, 1 or 2. Received: {verbose!r}"
            )
        self._has_titles = verbose != 0
        self._has_bars = verbose in ("auto", 1)

    def over(
        self,
        items: Iterable[Item],
        title: str,
        target: int | None = None,
    ) -> Iterator[Item]:
        """Yields `items` while the bar of this stage advances.

        Args:
            items: The work of the stage, passed on one by one.
            title: Printed above the bar.
            target: The number of items, if it is known.
        """
        if self._has_titles:
            print(title)
        if not self._has_bars:
            yield from items
            return
        bar = keras.utils.Progbar(target)
        seen = 0
        for item in items:
            yield item
            seen += 1
            bar.update(seen)
        # The bar ends its line itself, but only when it gets to its target.
        if seen != target:
            print()
