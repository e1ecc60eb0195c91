"""Progress of the search's stages, shown as Keras shows an epoch's."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeAlias, TypeVar

import keras

Item = TypeVar("Item")
# `"auto"` or 1 for a bar, 2 for a line per stage, 0 for silence.
Verbose: TypeAlias = str | int


# By the environment of a program that PyCharm runs, whose console draws bars.
PYCHARM = "PYCHARM_HOSTED"


class Progress:
    """A title and a bar for each of some consecutive stages.

    A file or a pipe gets the titles only: a bar is drawn over itself, with control
    characters.

    Args:
        verbose: `"auto"` or 1 for a bar, 2 for a line per stage, 0 for silence.

    Attributes:
        of_fit: The `verbose` of Keras' `fit` that shows as much.

    Raises:
        ValueError: For any other `verbose`.
    """

    def __init__(self, verbose: Verbose = "auto"):
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f"Expected `verbose` to be 'auto', 0, 1 or 2. Received: {verbose!r}"
            )
        asks_for_bars = verbose in ("auto", 1)
        self._has_titles = verbose != 0
        self._has_bars = asks_for_bars and _draws_bars()
        is_per_epoch = asks_for_bars and not self._has_bars
        self.of_fit: Verbose = 2 if is_per_epoch else verbose

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
            # Flushed: whoever follows a file wants to see the stage that runs.
            print(title, flush=True)
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

    def say(self, line: str) -> None:
        """Prints a line about the result."""
        if self._has_titles:
            print(line, flush=True)


def _is_in_notebook() -> bool:
    """Returns whether the program is a cell's: others may import IPython as well."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _draws_bars() -> bool:
    """Returns whether a bar is seen as one: in a terminal, a notebook or PyCharm."""
    if _is_in_notebook() or PYCHARM in os.environ:
        return True
    # There may be no output at all.
    return sys.stdout is not None and sys.stdout.isatty()
