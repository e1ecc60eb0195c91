"""Rules of layers and operations in which several tensors meet."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from keras_greedy.graph.axes import axes_of_any, axis_from_end, join
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import Rule, Unprunable, cut_constant
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace

MERGING_LAYERS = (
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
# A sum with one branch scaled, in `keras.applications.inception_resnet_v2`.
CUSTOM_SCALE_LAYER = "CustomScaleLayer"
ARITHMETIC = (
    ops.add,
    ops.subtract,
    ops.multiply,
    ops.divide,
    ops.true_divide,
    ops.floor_divide,
    ops.mod,
    ops.power,
    ops.maximum,
    ops.minimum,
)
COMPARISONS = (
    ops.equal,
    ops.not_equal,
    ops.greater,
    ops.greater_equal,
    ops.less,
    ops.less_equal,
)
LOGIC = (
    ops.logical_and,
    ops.logical_or,
    ops.where,
)


@register_rule(*MERGING_LAYERS, CUSTOM_SCALE_LAYER)
class JoinRule(Rule):
    """Channels that meet position by position are one channel from there on."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        axes = axes_of_any(channels)
        return [join(call.channel_inputs, channels, axes, space)]

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        operands = [_cut_operand(operand, call, kept) for operand in args[0]]
        return (operands,)


@register_rule(*ARITHMETIC, *COMPARISONS, *LOGIC)
class JoinOperationRule(JoinRule):
    """A join whose operands are arguments of their own, constants among them."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        if any(isinstance(argument, keras.Variable) for argument in call.args):
            raise Unprunable("it combines the channels with a variable")
        return super().carry_axes(call, channels, space)

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        return tuple(_cut_operand(operand, call, kept) for operand in args)


@register_rule(layers.Concatenate, ops.concatenate)
class ConcatenateRule(Rule):
    """Puts tensors in a row: channels along the axis, or positions of the same ones."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        tensors = call.channel_inputs
        if len(tensors) < len(keras.tree.flatten(call.args)):
            raise Unprunable("it puts the channels in a row with a constant")
        along = axis_from_end(call.operation.axis, call.outputs[0])
        axes = axes_of_any(channels)
        others = [axis for axis in axes if axis != along]
        made = join(tensors, channels, others, space)
        if along in axes:
            row = []
            for tensor, by_axis in zip(tensors, channels, strict=True):
                ids = by_axis.get(along)
                row.append(space.fixed(tensor.shape[along]) if ids is None else ids)
            made[along] = np.concatenate(row)
        return [made]


def _cut_operand(
    operand: Any,
    call: Call,
    kept: Kept,
) -> Any:
    """Returns a constant with its kept channels; a tensor comes cut already."""
    if isinstance(operand, KerasTensor):
        return operand
    (made,) = call.outputs
    for axis in kept.axes(made):
        operand = cut_constant(operand, kept(made, axis), axis)
    return operand
