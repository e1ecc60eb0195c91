"""Layers and operations that move channels to other places."""

import math

import numpy as np
from keras import layers, ops

from keras_greedy.graph.rules.base import (
    Rule,
    Unprunable,
    register_rule,
    require_channels_last,
)


class ReshapeRule(Rule):
    """Follows the channels through a reshape that keeps them apart."""

    def carry(self, call, channels, space):
        require_channels_last(call)
        before, after = call.inputs[0].shape[1:], call.outputs[0].shape[1:]
        if before[-1:] == after[-1:]:
            return channels[0]
        if None in before + after or math.prod(before) != math.prod(after):
            raise Unprunable(f"it reshapes {before} to {after}: unknown or other sizes")
        ids = np.broadcast_to(channels[0], before or 1).reshape(-1, *after[-1:])
        if (ids != ids[0]).any():
            raise Unprunable(f"it reshapes {before} to {after} across the channel axis")
        return ids[0]

    @staticmethod
    def _new_shape(call, kept_out):
        """The shape behind the batch axis; what is unknown is inferred."""
        known = (-1 if n is None else n for n in call.outputs[0].shape[1:-1])
        return (*known, int(kept_out.sum()))


register_rule(layers.Flatten)(ReshapeRule)


@register_rule(layers.Reshape)
class ReshapeLayerRule(ReshapeRule):
    def cut_config(self, call, kept_in, kept_out):
        return {"target_shape": self._new_shape(call, kept_out)}


@register_rule(ops.reshape)
class ReshapeOperationRule(ReshapeRule):
    def cut_config(self, call, kept_in, kept_out):
        return {"newshape": (-1, *self._new_shape(call, kept_out))}


@register_rule(ops.squeeze, ops.expand_dims)
class SqueezeRule(ReshapeRule):
    def carry(self, call, channels, space):
        if call.operation.axis is None:
            raise Unprunable("axis=None would squeeze a last remaining channel too")
        return super().carry(call, channels, space)


@register_rule(ops.get_item)
class GetItemRule(Rule):
    """Slices the other axes, as `x[:, ::2, ::2]` does in a shortcut."""

    def carry(self, call, channels, space):
        key = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
        if Ellipsis not in key and len(key) < len(call.inputs[0].shape):
            key = (*key, Ellipsis)
        if None in key or key[-1] not in (Ellipsis, slice(None)):
            raise Unprunable(f"it takes a part of the channels: {key}")
        return channels[0]


@register_rule(ops.mean, ops.max, ops.min, ops.sum)
class ReduceRule(Rule):
    def carry(self, call, channels, space):
        rank, axes = len(call.inputs[0].shape), call.operation.axis
        axes = [axes] if isinstance(axes, int) else axes
        if axes is None or any(axis % rank in (0, rank - 1) for axis in axes):
            raise Unprunable(f"it reduces axis {axes}, the channels' or the batch's")
        return channels[0]


@register_rule(ops.pad)
class PadRule(Rule):
    """Padding the channel axis makes constant channels: they have numbers too."""

    def carry(self, call, channels, space):
        before, after = self._channel_padding(call)
        if (before or after) and call.operation.mode != "constant":
            raise Unprunable(f"it pads the channels with mode={call.operation.mode}")
        return np.concatenate([space.fresh(before), channels[0], space.fresh(after)])

    def cut_config(self, call, kept_in, kept_out):
        before, after = self._channel_padding(call)
        kept = (
            int(kept_out[:before].sum()),
            int(kept_out[len(kept_out) - after :].sum()),
        )
        return {"pad_width": (*map(tuple, call.operation.pad_width[:-1]), kept)}

    @staticmethod
    def _channel_padding(call):
        padding = call.operation.pad_width
        if len(padding) != len(call.inputs[0].shape):
            raise Unprunable("it pads every axis, the batch's too")
        return padding[-1]
