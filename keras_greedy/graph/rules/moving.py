"""Rules of operations that move axes, or channels along their axis."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from keras_greedy.graph.axes import axes_of_any, axis_from_end, join, rearranged
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import Rule, Unprunable
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace


class PermutationRule(Rule):
    """Gives the axes, with the channels on them, another order."""

    takes_parts = True

    def order(self, call: Call) -> Sequence[int]:
        """Returns for each axis that comes out the number of the one that it was."""
        raise NotImplementedError

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        (made,) = call.outputs
        rank = len(made.shape)
        return [rearranged(channels[0], rank, self.order(call), made, space)]


@register_rule(layers.Permute)
class PermuteRule(PermutationRule):
    """The layer, which leaves the batch where it is."""

    def order(self, call: Call) -> Sequence[int]:
        return (0, *call.operation.dims)


@register_rule(ops.transpose)
class TransposeRule(PermutationRule):
    """The operation, which without axes turns them around."""

    def order(self, call: Call) -> Sequence[int]:
        rank = len(call.inputs[0].shape)
        axes = call.operation.axes
        if axes is None:
            return range(rank)[::-1]
        return [axis % rank for axis in axes]


@register_rule(ops.moveaxis)
class MoveAxisRule(PermutationRule):
    """Moves some axes, and leaves the others in their order."""

    def order(self, call: Call) -> Sequence[int]:
        rank = len(call.inputs[0].shape)
        source = [axis % rank for axis in call.operation.source]
        destination = [axis % rank for axis in call.operation.destination]
        order = [axis for axis in range(rank) if axis not in source]
        for to, axis in sorted(zip(destination, source, strict=True)):
            order.insert(to, axis)
        return order


@register_rule(ops.swapaxes)
class SwapAxesRule(PermutationRule):
    """Lets two axes change places."""

    def order(self, call: Call) -> Sequence[int]:
        order = [*range(len(call.inputs[0].shape))]
        one, other = call.operation.axis1, call.operation.axis2
        order[one], order[other] = order[other], order[one]
        return order


@register_rule(ops.flip)
class FlipRule(Rule):
    """Turns channels around, as positions."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        axes = _axes(call)
        flipped = {}
        for axis, ids in channels[0].items():
            flipped[axis] = ids[::-1] if axis in axes else ids
        return [flipped]


@register_rule(ops.roll)
class RollRule(Rule):
    """Moves the last channels to the front, as positions."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        if call.operation.axis is None:
            raise Unprunable("axis=None rolls channels and positions as one axis")
        rolled = dict(channels[0])
        for axis, shift in _shifts(call):
            if axis in rolled:
                rolled[axis] = np.roll(rolled[axis], shift)
        return [rolled]

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        (read,) = call.inputs
        shifts = []
        for axis, shift in _shifts(call):
            if axis in kept.axes(read):
                mask = kept(read, axis)
                # What is left of those that come to the front.
                shift = int(np.roll(mask, shift)[: shift % len(mask)].sum())
            shifts.append(shift)
        is_one = isinstance(call.operation.shift, int)
        return {"shift": shifts[0] if is_one else tuple(shifts)}


@register_rule(ops.stack)
class StackRule(Rule):
    """Puts tensors on a new axis: the channels that meet are one channel."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        tensors = call.channel_inputs
        (made,) = call.outputs
        if len(tensors) < len(keras.tree.flatten(call.args)):
            raise Unprunable("it stacks the channels with a constant")
        joined = join(tensors, channels, axes_of_any(channels), space)
        rank = len(made.shape)
        sources: list[int | None] = [*range(rank - 1)]
        sources.insert(call.operation.axis % rank, None)
        return [rearranged(joined, rank - 1, sources, made, space)]


@register_rule(ops.repeat)
class RepeatRule(Rule):
    """Repeats each entry of an axis."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        repeats = call.operation.repeats
        if call.operation.axis is None or np.size(repeats) > 1:
            raise Unprunable(f"it repeats by axis={call.operation.axis}, {repeats}")
        axis = axis_from_end(call.operation.axis, call.inputs[0])
        repeated = dict(channels[0])
        if axis in repeated:
            repeated[axis] = np.repeat(repeated[axis], np.ravel(repeats))
        return [repeated]


@register_rule(ops.tile)
class TileRule(Rule):
    """Repeats axes as a whole."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        # NumPy's rule: they are those of the last axes.
        repeats = dict(enumerate(np.ravel(call.operation.repeats)[::-1], 1))
        tiled = {}
        for axis, ids in channels[0].items():
            tiled[axis] = np.tile(ids, repeats.get(-axis, 1))
        return [tiled]


# It makes a sequence of one vector.
register_rule(layers.RepeatVector)(Rule)


def _axes(call: Call) -> list[int]:
    """Returns an operation's axes, counted from the end; all where it names none."""
    (read,) = call.inputs
    axes = call.operation.axis
    if axes is None:
        axes = range(len(read.shape))
    return [axis_from_end(axis, read) for axis in np.ravel(axes)]


def _shifts(call: Call) -> list[tuple[int, int]]:
    """Returns `(axis, shift)` of a roll, the axes counted from the end."""
    axes = _axes(call)
    shifts = np.broadcast_to(np.ravel(call.operation.shift), len(axes))
    return list(zip(axes, shifts.tolist(), strict=True))
