"""Rules of layers and operations in which several tensors meet."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from keras_greedy.graph.axes import axes_of_any, axis_from_end, join
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import (
    Rule,
    Unprunable,
    cut_constant,
    pin_mixed,
    require_channels_last,
)
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


class JoinRule(Rule):
    """The rule of a layer in which several tensors meet, channel by channel.

    They are arguments of their own, by position or by name, or in lists. Channels that
    meet are one channel from there on: they are cut in all of the tensors. A tensor of
    one channel goes with all channels of the others. Constants with a value for each
    channel are cut, too, if they are given by position.

    Example:

    ```python
    import keras

    import keras_greedy


    class GatedAdd(keras.layers.Layer):
        def call(self, x, other, gate):
            return x + other * keras.ops.sigmoid(gate)


    @keras_greedy.register_rule(GatedAdd)
    class GatedAddRule(keras_greedy.JoinRule):
        pass


    inputs = keras.Input((8,))
    a, b, c = (keras.layers.Dense(16, name=name)(inputs) for name in "abc")
    outputs = keras.layers.Dense(3)(GatedAdd()(a, b, gate=c))
    model = keras.Model(inputs, outputs)
    (group,) = keras_greedy.trace(model).groups
    assert [call.name for call in group.producers] == ["a", "b", "c"]
    ```
    """

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        for leaf in keras.tree.flatten((call.args, call.kwargs)):
            if isinstance(leaf, keras.Variable):
                raise Unprunable("it combines the channels with a variable")
        widths = [len(by_axis[-1]) for by_axis in channels]
        if any(width not in (1, max(widths)) for width in widths):
            raise Unprunable(f"its inputs have {widths} channels, which its rule mixes")
        for name, value in call.kwargs.items():
            for leaf in keras.tree.flatten(value):
                is_constant = not isinstance(leaf, KerasTensor) and np.ndim(leaf)
                if is_constant and np.shape(leaf)[-1] == max(widths):
                    raise Unprunable(
                        f"its argument {name!r} has a constant for each channel: only "
                        "those given by position are cut"
                    )
        require_channels_last(call)
        axes = axes_of_any(channels)
        joined = join(call.channel_inputs, channels, axes, space)
        if -1 in joined:
            pin_mixed(call, joined[-1], space)
        return [joined]

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        cut = []
        for own, value in zip(call.args, args, strict=True):
            leaves = keras.tree.flatten(own)
            is_structure = any(isinstance(leaf, KerasTensor) for leaf in leaves)
            if is_structure and isinstance(value, list | tuple):
                value = [_cut_operand(operand, call, kept) for operand in value]
            else:
                value = _cut_operand(value, call, kept)
            cut.append(value)
        return tuple(cut)


register_rule(*MERGING_LAYERS, CUSTOM_SCALE_LAYER)(JoinRule)
register_rule(*ARITHMETIC, *COMPARISONS, *LOGIC)(JoinRule)


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
