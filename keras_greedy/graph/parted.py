"""Channels that a reshape has parted into several axes, as `(C,)` into `(groups, n)`.

What a cut leaves must have such a shape again. So one of the axes has the channels, and
those with the same place on it are one channel. Which one shows by what is done to
them: transposes come first. Until then the axes have their numbers together.
"""

from collections.abc import Collection

import numpy as np

from keras_greedy.graph.space import ByAxis, ChannelSpace


def settled(
    by_axis: ByAxis,
    space: ChannelSpace,
    wanted: Collection[int] = (-1,),
) -> ByAxis:
    """Returns the channels of a tensor with one axis for all that have been parted.

    Args:
        by_axis: The channels.
        space: The `ChannelSpace` to declare numbers equal in.
        wanted: The axes that should have the channels: the last of them does, else the
            last one that the channels were parted into. One that has them, has them.
    """
    alone = {}
    for axes, numbers in by_axis.items():
        if isinstance(axes, tuple):
            place = _settled_place(numbers, space)
            if place is None:
                *_, axis = [axis for axis in axes if axis in wanted] or axes
                place = axes.index(axis)
            first, *rest = rows_of(numbers, place)
            for others in rest:
                space.unify(first, others)
            alone[axes[place]] = first
            if -1 in axes and axes[place] != -1:
                alone[-1] = space.fixed(numbers.shape[axes.index(-1)])
        else:
            alone[axes] = numbers
    return alone


def _settled_place(numbers: np.ndarray, space: ChannelSpace) -> int | None:
    """Returns the place of the axis that has the channels already, if one has."""
    roots = space.resolve(numbers.ravel()).reshape(numbers.shape)
    for place in range(numbers.ndim)[::-1]:
        rows = rows_of(roots, place)
        if (rows == rows[0]).all():
            return place
    return None


def rows_of(numbers: np.ndarray, place: int) -> np.ndarray:
    """Returns `(entries of the other axes, entries of the axis at this place)`."""
    return np.moveaxis(numbers, place, -1).reshape(-1, numbers.shape[place])
