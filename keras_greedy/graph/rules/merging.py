"""Layers and operations in which several tensors meet."""

import keras
import numpy as np
from keras import layers, ops

from keras_greedy.graph.rules.base import Rule, Unprunable, cut_constant, register_rule


@register_rule(
    *(layers.Add, layers.Subtract, layers.Multiply),
    *(layers.Average, layers.Maximum, layers.Minimum),
    "CustomScaleLayer",
)
class JoinRule(Rule):
    """Channels that meet position by position are one channel from there on."""

    def carry(self, call, channels, space):
        width = max(map(len, channels))
        first, *rest = [ids for ids in channels if len(ids) == width]
        for ids in rest:
            space.unify(first, ids)
        for ids in channels:
            if len(ids) != width:
                space.pin(ids, None, "its one channel is broadcast over many")
        return first

    def cut_arguments(self, call, args, kept_out):
        return ([self._cut(operand, kept_out) for operand in args[0]],)

    @staticmethod
    def _cut(operand, kept_out):
        if isinstance(operand, keras.KerasTensor):
            return operand
        return cut_constant(operand, kept_out)


@register_rule(
    *(ops.add, ops.subtract, ops.multiply, ops.divide, ops.true_divide),
    *(ops.floor_divide, ops.mod, ops.power, ops.maximum, ops.minimum, ops.where),
    *(ops.equal, ops.not_equal, ops.greater, ops.greater_equal),
    *(ops.less, ops.less_equal, ops.logical_and, ops.logical_or),
)
class JoinOperationRule(JoinRule):
    """A join whose operands are arguments of their own, constants among them."""

    def carry(self, call, channels, space):
        if any(isinstance(argument, keras.Variable) for argument in call.args):
            raise Unprunable("it combines the channels with a variable")
        return super().carry(call, channels, space)

    def cut_arguments(self, call, args, kept_out):
        return tuple(self._cut(operand, kept_out) for operand in args)


@register_rule(layers.Concatenate, ops.concatenate)
class ConcatenateRule(Rule):
    def carry(self, call, channels, space):
        if call.operation.axis not in (-1, len(call.outputs[0].shape) - 1):
            raise Unprunable(f"it joins along axis {call.operation.axis}, not the last")
        return np.concatenate(channels)
