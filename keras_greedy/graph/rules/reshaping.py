"""Rules of reshapes, which take channels along or part them."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from keras import layers, ops

from keras_greedy.graph.axes import rearranged
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.parted import rows_of, settled
from keras_greedy.graph.rules.base import (
    Rule,
    Unprunable,
    pin_axes,
    require_channels_last,
)
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace

Shape: TypeAlias = tuple[int | None, ...]


class ReshapeRule(Rule):
    """Follows the channels through a reshape.

    Where it parts them, as `(h, w, C)` into `(h, w, groups, C / groups)`, the channels
    that have the same place in all groups become one channel.
    """

    takes_parts = True

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        require_channels_last(call)
        (made,) = call.outputs
        before = call.inputs[0].shape
        blocks = [*_blocks(before, made.shape)]
        # Channels parted before go together where they come to the last axis.
        by_axis = settled(channels[0], space, wanted=blocks[0].before)
        moved: ByAxis = {}
        for block in blocks:
            for axis, ids in _channels_in(call, block, by_axis, space).items():
                numbers = _numbers(ids, axis, before, block, made.shape)
                moved |= _apart(numbers, block.after)
        every = range(len(made.shape))
        return [rearranged(moved, len(every), every, made, space)]


def _cut_sizes(
    sizes: Sequence[int],
    call: Call,
    kept: Kept,
) -> tuple[int, ...]:
    """Returns the sizes that a reshape is given, with those that a cut changes.

    Args:
        sizes: Of the last axes of what it makes; one of them may be -1.
        call: The call of the reshape.
        kept: What is kept.
    """
    (made,) = call.outputs
    left = list(sizes)
    for axis in kept.axes(made):
        if left[axis] != -1:
            left[axis] = int(kept(made, axis).sum())
    return tuple(left)


register_rule(layers.Flatten)(ReshapeRule)


@register_rule(layers.Reshape)
class ReshapeLayerRule(ReshapeRule):
    """The layer, which has the shape of one example in its config."""

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        return {"target_shape": _cut_sizes(call.operation.target_shape, call, kept)}


@register_rule(ops.reshape)
class ReshapeOperationRule(ReshapeRule):
    """The operation, which has the batch axis in its config too."""

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        sizes = kept.shape(call.outputs[0])[1:]
        if None in sizes:
            return {"newshape": _cut_sizes(call.operation.newshape, call, kept)}
        return {"newshape": (-1, *sizes)}


@register_rule(ops.squeeze, ops.expand_dims)
class SqueezeRule(ReshapeRule):
    """Drops or adds axes of size 1."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        if call.operation.axis is None:
            raise Unprunable("axis=None would squeeze a last remaining channel too")
        return super().carry_axes(call, channels, space)


class DepthToSpaceRule(Rule):
    """Moves blocks of channels to positions: the n-th ones of all are one channel."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        require_channels_last(call)
        blocks = call.operation.block_size**2
        space.unify_groups(channels[0], blocks)
        return channels[0][: len(channels[0]) // blocks]


class SpaceToDepthRule(Rule):
    """Moves positions to blocks of channels, each of all channels."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        require_channels_last(call)
        return np.tile(channels[0], call.operation.block_size**2)


# They are not in every version of Keras.
if hasattr(ops, "depth_to_space"):
    register_rule(ops.depth_to_space)(DepthToSpaceRule)
    register_rule(ops.space_to_depth)(SpaceToDepthRule)


class _Block(NamedTuple):
    """Axes of both shapes, counted from the end, that have the same entries.

    Attributes:
        before: In the shape before.
        after: In the shape after.
        is_known: Whether their sizes are known, and none of them is the batch's.
    """

    before: range
    after: range
    is_known: bool


def _blocks(before: Shape, after: Shape) -> Iterator[_Block]:
    """Yields the smallest blocks that a reshape goes through, the last axes first.

    The axes that cannot be told apart are one block, with the batch.
    """
    end = end_after = 0
    first, first_after = -len(before), -len(after)
    while end - 1 > first and end_after - 1 > first_after:
        start = end - 1
        start_after = end_after - 1
        entries = before[start]
        entries_after = after[start_after]
        # One of them takes an axis more until they have as many entries.
        while entries != entries_after:
            if entries is None or entries_after is None:
                break
            if entries < entries_after:
                start -= 1
                entries = _product(entries, before, start)
            else:
                start_after -= 1
                entries_after = _product(entries_after, after, start_after)
        if entries != entries_after:
            break
        yield _Block(range(start, end), range(start_after, end_after), True)
        end = start
        end_after = start_after
    yield _Block(range(first, end), range(first_after, end_after), False)


def _product(entries: int, shape: Shape, axis: int) -> int | None:
    """Returns the entries with another axis, `None` where its size is not known."""
    is_batch = axis == -len(shape)
    size = None if is_batch else shape[axis]
    return None if size is None else entries * size


def _channels_in(
    call: Call,
    block: _Block,
    by_axis: ByAxis,
    space: ChannelSpace,
) -> ByAxis:
    """Returns the channels in a block, of one axis at most; others have to stay."""
    shape = call.inputs[0].shape
    found = {}
    for axis in block.before:
        if axis in by_axis and shape[axis] is not None:
            found[axis] = by_axis[axis]
    if len(found) > 1:
        cut = {axis: ids for axis, ids in found.items() if not space.is_whole(ids)}
        last = [*cut][-1:]
        pin_axes(call, [cut], [axis for axis in cut if axis not in last], space)
        found = {axis: cut[axis] for axis in last}
    if not block.is_known and all(len(ids) == 1 for ids in found.values()):
        # A single channel is not cut in any case.
        pin_axes(call, [found], [*found], space)
        return {}
    if found and not block.is_known:
        after = call.outputs[0].shape
        raise Unprunable(f"it reshapes {shape} to {after}: unknown or other sizes")
    return found


def _numbers(
    ids: np.ndarray,
    axis: int,
    before: Shape,
    block: _Block,
    after: Shape,
) -> np.ndarray:
    """Returns the channel number of each entry of a block, in the shape after.

    Args:
        ids: `(C,)` channel numbers of an axis of the block.
        axis: That axis.
        before: The shape before.
        block: The block.
        after: The shape after.
    """
    sizes = [before[own] or 0 for own in block.before]
    behind = [1] * (block.before.stop - 1 - axis)
    numbers = np.broadcast_to(ids.reshape(-1, *behind), sizes)
    return numbers.reshape([after[own] for own in block.after])


def _apart(numbers: np.ndarray, axes: range) -> ByAxis:
    """Returns the axis that has the channels, or all axes where none can be told.

    Args:
        numbers: The channel number of each entry of the axes.
        axes: The axes, counted from the end.
    """
    for place, axis in reversed([*enumerate(axes)]):
        rows = rows_of(numbers, place)
        if (rows == rows[0]).all():
            return {axis: rows[0]}
    longer = [axis for axis in axes if numbers.shape[axis - axes.stop] > 1]
    return {tuple(longer): numbers.squeeze()}
