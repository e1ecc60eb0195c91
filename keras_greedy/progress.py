"""Progress of the search's stages, shown as Keras shows an epoch's."""

import keras


class Progress:
    """A title and a bar for each of some consecutive stages.

    Args:
        verbose: `"auto"` or 1 for a bar, 2 for a line per stage, 0 for silence.

    Raises:
        ValueError: For any other `verbose`.
    """

    def __init__(self, verbose="auto"):
        if verbose not in ("auto", 0, 1, 2):
            raise ValueError(
                f"Expected `verbose` to be 'auto', 0, 1 or 2. Received: {verbose!r}"
            )
        self._verbose = 1 if verbose == "auto" else int(verbose)

    def over(self, items, title: str, target: int | None = None):
        """Yields `items` while the bar of this stage advances."""
        if not self._verbose:
            yield from items
            return
        print(title)
        bar, seen = keras.utils.Progbar(target) if self._verbose == 1 else None, 0
        for seen, item in enumerate(items, 1):
            yield item
            if bar:
                bar.update(seen)
        if bar and seen != target:
            print()
