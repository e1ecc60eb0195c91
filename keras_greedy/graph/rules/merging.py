"""Rules of layers and operations in which several tensors meet."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers, ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import Rule, Unprunable, cut_constant
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


@register_rule(*MERGING_LAYERS, CUSTOM_SCALE_LAYER)
class JoinRule(Rule):
    """Channels that meet position by position are one channel from there on."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        width = max(len(ids) for ids in channels)
        first, *rest = [ids for ids in channels if len(ids) == width]
        for ids in rest:
            space.unify(first, ids)
        for ids in channels:
            if len(ids) != width:
                space.pin(ids, None, "its one channel is broadcast over many")
        return first

    def cut_arguments(
        self,
        call: Call,
        args: tuple,
        kept_out: np.ndarray,
    ) -> tuple:
        operands = [_cut_operand(operand, kept_out) for operand in args[0]]
        return (operands,)


@register_rule(*ARITHMETIC, *COMPARISONS, *LOGIC)
class JoinOperationRule(JoinRule):
    """A join whose operands are arguments of their own, constants among them."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        if any(isinstance(argument, keras.Variable) for argument in call.args):
            raise Unprunable("it combines the channels with a variable")
        return super().carry(call, channels, space)

    def cut_arguments(
        self,
        call: Call,
        args: tuple,
        kept_out: np.ndarray,
    ) -> tuple:
        return tuple(_cut_operand(operand, kept_out) for operand in args)


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
