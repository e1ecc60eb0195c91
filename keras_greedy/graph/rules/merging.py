"""Rules of layers and operations in which several tensors meet."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import (
    Rule,
    Unprunable,
    cut_constant,
    pin_mixed,
    require_channels_last,
    tie_inputs,
)
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ChannelSpace

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

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        for leaf in keras.tree.flatten((call.args, call.kwargs)):
            if isinstance(leaf, keras.Variable):
                raise Unprunable("it combines the channels with a variable")
        width = max(len(ids) for ids in channels)
        for name, value in call.kwargs.items():
            for leaf in keras.tree.flatten(value):
                is_constant = not isinstance(leaf, KerasTensor) and np.ndim(leaf)
                if is_constant and np.shape(leaf)[-1] == width:
                    raise Unprunable(
                        f"its argument {name!r} has a constant for each channel: only "
                        "those given by position are cut"
                    )
        require_channels_last(call)
        # Nobody expects the one channel to be cut that many others are multiplied by.
        carried = tie_inputs(call, channels, space, layer=None)
        pin_mixed(call, carried, space)
        return carried

    def cut_arguments(
        self,
        call: Call,
        args: tuple,
        kept_out: np.ndarray,
    ) -> tuple:
        cut = []
        for own, value in zip(call.args, args, strict=True):
            leaves = keras.tree.flatten(own)
            is_structure = any(isinstance(leaf, KerasTensor) for leaf in leaves)
            if is_structure and isinstance(value, list | tuple):
                value = [_cut_operand(operand, kept_out) for operand in value]
            else:
                value = _cut_operand(value, kept_out)
            cut.append(value)
        return tuple(cut)


register_rule(*MERGING_LAYERS, CUSTOM_SCALE_LAYER)(JoinRule)
register_rule(*ARITHMETIC, *COMPARISONS, *LOGIC)(JoinRule)


@register_rule(layers.Concatenate, ops.concatenate)
class ConcatenateRule(Rule):
    """Puts the channels of all inputs in a row."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        last = len(call.outputs[0].shape) - 1
        if call.operation.axis not in (-1, last):
            raise Unprunable(f"it joins along axis {call.operation.axis}, not the last")
        return np.concatenate(channels)


def _cut_operand(operand: Any, kept: np.ndarray) -> Any:
    """Returns a constant with its kept channels; a tensor comes cut already."""
    if isinstance(operand, KerasTensor):
        return operand
    return cut_constant(operand, kept)
