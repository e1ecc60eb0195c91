"""Rules of operations that reduce positions, or pad."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_greedy.graph.axes import axis_from_end, rearranged
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import Rule, RuleKey, Unprunable, pin_axes
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace

# By name: a few are not in every version of Keras.
REDUCTIONS = """
    all any argmax argmin count_nonzero median prod
"""


def _operations(names: str) -> list[RuleKey]:
    return [getattr(ops, name) for name in names.split() if hasattr(ops, name)]


@register_rule(*_operations(REDUCTIONS))
class ReduceRule(Rule):
    """Reduces positions."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        (read,) = call.inputs
        rank = len(read.shape)
        axes = call.operation.axis
        if axes is None:
            raise Unprunable("it reduces all axes")
        reduced = {axis_from_end(axis, read) for axis in np.ravel(axes)}
        for axis in reduced:
            ids = channels[0].get(axis)
            if axis == -rank or (ids is not None and not space.is_whole(ids)):
                raise Unprunable(
                    f"it reduces axis {axes}, the channels' or the batch's"
                )
        keepdims = getattr(call.operation, "keepdims", False)
        sources: list[int | None] = []
        for axis in range(-rank, 0):
            if axis not in reduced:
                sources.append(axis + rank)
            elif keepdims:
                sources.append(None)
        return [rearranged(channels[0], rank, sources, call.outputs[0], space)]


@register_rule(*_operations("argsort cumprod cumsum sort"))
class ScanRule(Rule):
    """Goes along an axis of positions."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        axis = call.operation.axis
        if axis is None:
            raise Unprunable("axis=None goes along channels and positions")
        pin_axes(call, channels, [axis_from_end(axis, call.inputs[0])], space)
        return [channels[0]]


@register_rule(ops.pad)
class PadRule(Rule):
    """Padding an axis of channels makes constant ones: they have numbers too."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        mode = call.operation.mode
        padding = _padding(call)
        padded = {}
        for axis, ids in channels[0].items():
            before, after = padding[axis]
            if (before or after) and mode != "constant":
                raise Unprunable(f"it pads the channels with mode={mode}")
            first = space.fresh(before)
            last = space.fresh(after)
            padded[axis] = np.concatenate([first, ids, last])
        return [padded]

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        (made,) = call.outputs
        padding = _padding(call)
        for axis in kept.axes(made):
            before, after = padding[axis]
            mask = kept(made, axis)
            first_after = len(mask) - after
            padding[axis] = (int(mask[:before].sum()), int(mask[first_after:].sum()))
        return {"pad_width": tuple(padding)}


def _padding(call: Call) -> list[tuple[int, int]]:
    """Returns the padding at both ends of each axis."""
    padding = call.operation.pad_width
    if len(padding) != len(call.inputs[0].shape):
        raise Unprunable("it pads every axis, the batch's too")
    return [(before, after) for before, after in padding]
