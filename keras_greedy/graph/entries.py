"""The entries that a cut leaves of a weight."""

from collections.abc import Sequence

import numpy as np

from keras_greedy.graph.rules.base import IN, OUT


def entries_left(
    axes: Sequence[str | None],
    shape: Sequence[int],
    kept_in: np.ndarray,
    kept_out: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Returns the index of the entries that are left of a weight.

    Args:
        axes: For each axis the channels that it runs over: `IN`, `OUT` or `None`.
        shape: The weight's full shape.
        kept_in: `(C,)` mask of the channels kept of the input.
        kept_out: The same of the output.

    Returns:
        An index as of `np.ix_`: an array of entries for each axis, which broadcast.
    """
    kept = {IN: kept_in, OUT: kept_out}
    masks = []
    for axis, size in zip(axes, shape, strict=True):
        # (size,): True for the entries of the weight's axis that stay.
        mask = np.ones(size, bool)
        if axis:
            mask = _spread(kept[axis], size)
        masks.append(mask)
    entries: list[np.ndarray] = [*np.ix_(*masks)]
    for place, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        # The input axis of a grouped convolution, whose last one is the output's.
        if axis == IN and size < len(kept_in):
            entries[place] = _of_groups(kept_in, kept_out, size).T
    return tuple(entries)


def _spread(
    channels: np.ndarray,
    size: int,
) -> np.ndarray:
    """Spreads values of channels over the entries of a weight's axis.

    An axis may have several entries in a row for each channel, or, in a grouped
    convolution, entries for the channels of one group only.

    Args:
        channels: `(C,)` a value for each channel.
        size: The number of the axis' entries.

    Returns:
        `(size,)` the value of each entry's channel.
    """
    # One or more entries per channel: size = C * per_channel. The first of several
    # groups: size < C, one entry for each of the first channels.
    per_channel = max(1, size // len(channels))
    return np.repeat(channels, per_channel)[:size]


def _of_groups(
    kept_in: np.ndarray,
    kept_out: np.ndarray,
    size: int,
) -> np.ndarray:
    """Returns the entries left of a grouped kernel's input axis, for each output.

    Args:
        kept_in: `(C,)` mask of the input's channels, as many in each group.
        kept_out: `(F,)` mask of the output's.
        size: The number of channels in a group.

    Returns:
        `(outputs left, inputs left of a group)`.
    """
    by_group = kept_in.reshape(-1, size)
    groups = len(by_group)
    of_all = np.nonzero(by_group)[1].reshape(groups, -1)
    group_of = np.repeat(np.arange(groups), len(kept_out) // groups)
    return of_all[group_of[kept_out]]
