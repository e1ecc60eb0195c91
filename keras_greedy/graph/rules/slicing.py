"""Rules of operations that take a part of an axis.

Parts of the channels have bounds, which move with those that are cut in front of them.
Each part is of a group of its own, so that it keeps one channel at least.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from keras import KerasTensor, ops

from keras_greedy.graph.axes import axis_from_end, rearranged
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import Rule, Unprunable
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace


@register_rule(ops.get_item)
class GetItemRule(Rule):
    """Slices axes, as `x[:, ::2, ::2]` or `x[..., :4]` do."""

    def positions_of(self, call: Call) -> Collection[int]:
        items = [item for item in _items(call) if item is not None]
        places = range(-len(items), 0)
        return [
            axis
            for axis, item in zip(places, items, strict=True)
            if item != slice(None)
        ]

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        read = call.channel_inputs[0]
        rank = len(read.shape)
        taken: ByAxis = {}
        sources: list[int | None] = []
        axis = -rank
        for item in _items(call):
            if item is None:
                sources.append(None)
                continue
            if isinstance(item, slice):
                sources.append(axis + rank)
                if axis in channels[0]:
                    taken[axis] = _sliced(channels[0][axis], item, space)
            else:
                require_positions(channels[0], axis, f"takes entry {item} of", space)
            axis += 1
        return [rearranged(taken, rank, sources, call.outputs[0], space)]

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        read = call.channel_inputs[0]
        if kept.all_of(read):
            return args
        items = []
        axis = -len(read.shape)
        for item in _items(call):
            if isinstance(item, slice) and axis in kept.axes(read):
                item = _cut_slice(item, kept(read, axis))
            items.append(item)
            axis += item is not None
        return (args[0], tuple(items))


@register_rule(ops.slice)
class SliceRule(Rule):
    """Takes a part of each axis, by its start and its length."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        taken = {}
        for axis, ids in channels[0].items():
            taken[axis] = ids[_part(call, axis)]
        return [taken]

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        (made,) = call.outputs
        shape = list(call.operation.shape)
        for axis in kept.axes(made):
            if shape[axis] != -1:
                shape[axis] = int(kept(made, axis).sum())
        return {"shape": tuple(shape)}

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        read = call.channel_inputs[0]
        starts = list(args[1])
        for axis in kept.axes(read):
            starts[axis] = int(kept(read, axis)[: starts[axis]].sum())
        return (args[0], tuple(starts))


@register_rule(ops.take)
class TakeRule(Rule):
    """Takes entries of an axis by their indices."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        read, indices = _taken(call)
        rank = len(read.shape)
        along = axis_from_end(call.operation.axis, read)
        places = list(range(rank))
        taken = dict(channels[0])
        if along in taken and indices.ndim == 1:
            taken[along] = taken[along][indices]
            return [taken]
        require_positions(taken, along, "takes entries of", space)
        sources = [*places[:along], *[None] * indices.ndim, *places[rank + along + 1 :]]
        return [rearranged(taken, rank, sources, call.outputs[0], space)]

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        read, indices = _taken(call)
        along = axis_from_end(call.operation.axis, read)
        if along not in kept.axes(read) or indices.ndim != 1:
            return args
        mask = kept(read, along)
        # The place of each channel among those that are kept.
        places = np.cumsum(mask) - 1
        return (args[0], places[indices[mask[indices]]].tolist())


def require_positions(
    by_axis: ByAxis,
    axis: int,
    what: str,
    space: ChannelSpace,
) -> None:
    """Raises `Unprunable` where an axis has channels that may be cut."""
    ids = by_axis.get(axis)
    if ids is not None and not space.is_whole(ids):
        raise Unprunable(f"it {what} axis {axis}, the channels'")


def _items(call: Call) -> list[Any]:
    """Returns a key's items, one for each axis that is read, `None` for new ones."""
    if len(call.args) < 2:
        raise Unprunable("its key is no positional argument")
    read = call.channel_inputs[0]
    key = call.args[1]
    items = list(key) if isinstance(key, (tuple, list)) else [key]
    rank = len(read.shape)
    # NumPy's rule: axes that the key does not name are taken whole.
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    named = sum(item is not None and item is not Ellipsis for item in items)
    expanded = []
    for item in items:
        if item is Ellipsis:
            expanded += [slice(None)] * (rank - named)
        else:
            expanded.append(item)
    return expanded


def _sliced(
    ids: np.ndarray,
    item: slice,
    space: ChannelSpace,
) -> np.ndarray:
    """Returns the channels that a slice takes of `(C,)` ones.

    Of a stride all channels in a row live together, so that it stays the same stride.
    """
    bounds = (item.start, item.stop, item.step)
    if not all(bound is None or isinstance(bound, int) for bound in bounds):
        raise Unprunable(f"it slices the channels by {item}, which is not constant")
    start, stop, step = item.indices(len(ids))
    if step < -1:
        raise Unprunable(f"it slices the channels by {item}, backwards by a stride")
    if step > 1:
        first = start - start % step
        for block in range(first, stop, step):
            one, *others = ids[block : block + step]
            space.unify(np.full(len(others), one), np.array(others, int))
    return ids[item]


def _cut_slice(item: slice, kept: np.ndarray) -> slice:
    """Returns the slice that takes what a cut leaves of the channels taken.

    Args:
        item: The slice of all channels.
        kept: `(C,)` mask of the channels kept.
    """
    start, _, step = item.indices(len(kept))
    if kept.all():
        return item
    taken = int(kept[item].sum())
    if step < 0:
        # The first one taken is the last of those up to it.
        last = int(kept[: start + 1].sum()) - 1
        end = last - taken
        return slice(last, end if end >= 0 else None, step)
    # A stride's blocks of channels begin at multiples of it.
    offset = start % step if step > 1 else 0
    begin = int(kept[: start - offset].sum()) + offset
    end = begin + (taken - 1) * step + 1
    if step == 1 and taken == kept.sum():
        return slice(None)
    return slice(begin, end, None if step == 1 else step)


def _part(call: Call, axis: int) -> slice:
    """Returns the slice of an axis that an `ops.slice` takes."""
    starts = call.args[1]
    if isinstance(starts, KerasTensor):
        raise Unprunable("it slices from indices that are computed")
    start, size = int(starts[axis]), call.operation.shape[axis]
    return slice(start, None if size == -1 else start + size)


def _taken(call: Call) -> tuple[KerasTensor, np.ndarray]:
    """Returns what entries are taken of, and their constant indices."""
    read, indices = call.args
    if not isinstance(read, KerasTensor) or isinstance(indices, KerasTensor):
        raise Unprunable("it takes entries by indices that are computed")
    return read, np.asarray(indices)
