"""Channels on the axes of tensors, counted from the end.

The last axis of every tensor has channel numbers. Others have some where a layer has
moved channels there, as a `Permute` does.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from keras import KerasTensor

from keras_greedy.graph.space import ByAxis, ChannelSpace


def all_numbers(by_axis: ByAxis) -> np.ndarray:
    """Returns the channel numbers on all axes of a tensor, one behind the other."""
    return np.concatenate([numbers.ravel() for numbers in by_axis.values()])


def axis_from_end(axis: int, tensor: KerasTensor) -> int:
    """Returns the number of a tensor's axis counted from the end, -1 for the last."""
    rank = len(tensor.shape)
    return axis % rank - rank


def join(
    tensors: Sequence[KerasTensor],
    channels: Sequence[ByAxis],
    axes: Iterable[int],
    space: ChannelSpace,
) -> ByAxis:
    """Declares the channels equal that meet where tensors are broadcast together.

    Channels that meet positions are positions from there on, and have to stay.

    Args:
        tensors: The tensors.
        channels: Of each of them.
        axes: The axes to look at.
        space: The `ChannelSpace` to declare numbers equal in, or to pin them.

    Returns:
        The channels of what comes out, on those of the axes that have some.
    """
    joined = {}
    for axis in axes:
        rows = [by_axis[axis] for by_axis in channels if axis in by_axis]
        width = max(len(ids) for ids in rows)
        wide = [ids for ids in rows if len(ids) == width]
        for ids in rows:
            if len(ids) != width:
                space.pin(ids, None, "its one channel is broadcast over many")
        meets_positions = False
        for tensor, by_axis in zip(tensors, channels, strict=True):
            if axis not in by_axis and _size(tensor, axis) != 1:
                meets_positions = True
        if meets_positions:
            for ids in wide:
                space.pin(ids, None, "positions are not cut")
            continue
        first, *rest = wide
        for ids in rest:
            space.unify(first, ids)
        joined[axis] = first
    return joined


def rearranged(
    by_axis: ByAxis,
    rank: int,
    sources: Sequence[int | None],
    made: KerasTensor,
    space: ChannelSpace,
) -> ByAxis:
    """Returns the channels of a tensor whose axes come from those of another.

    Args:
        by_axis: The channels of the other.
        rank: Its number of axes.
        sources: For each axis of the tensor the one that it was, counted from the
            first; `None` for a new one, of positions.
        made: The tensor.
        space: The `ChannelSpace` to draw numbers from for positions on the last axis.
    """
    places = {}
    for axis, source in enumerate(sources, -len(sources)):
        # An axis of unknown size has no channels.
        if source is not None and made.shape[axis] is not None:
            places[source - rank] = axis
    moved: ByAxis = {}
    for axis, numbers in by_axis.items():
        if isinstance(axis, tuple):
            moved[tuple(places[part] for part in axis)] = numbers
        elif axis in places:
            moved[places[axis]] = numbers
    if -1 not in np.hstack([*moved, 0]):
        moved[-1] = space.fixed(width_of(made))
    return moved


def width_of(tensor: KerasTensor) -> int:
    """Returns the size of a tensor's last axis, 1 where there is none or no size."""
    has_channels = len(tensor.shape) > 1
    if not has_channels:
        return 1
    return tensor.shape[-1] or 1


def axes_of_any(channels: Iterable[ByAxis]) -> list[int]:
    """Returns the axes on which some of several tensors have channels."""
    found: set[int] = set()
    for by_axis in channels:
        found.update(by_axis)
    return sorted(found)


def _size(tensor: KerasTensor, axis: int) -> int | None:
    """Returns the size of an axis, 1 where broadcasting would add it."""
    return tensor.shape[axis] if -axis <= len(tensor.shape) else 1
