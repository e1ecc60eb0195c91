"""How each kind of layer carries channels: one small rule per layer class."""

import math

import keras
import numpy as np
from keras import activations, layers, ops

from keras_greedy.graph.registry import (
    IN,
    OUT,
    RULES,
    Rule,
    Unprunable,
    cut_constant,
    pin_mixed,
    register_rule,
    require_channels_last,
)

__all__ = ["IN", "OUT", "RULES", "Rule", "Unprunable", "register_rule"]

register_rule(
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU),
    *(layers.Identity, layers.ActivityRegularization),
    *(layers.GaussianNoise, layers.GaussianDropout),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.UpSampling1D, layers.UpSampling2D),
)(Rule)

ELEMENTWISE = """
    absolute cast ceil celu cos elu erf exp expm1 exponential floor gelu hard_shrink
    hard_sigmoid hard_silu hard_tanh leaky_relu linear log log1p log_sigmoid
    logical_not mish negative reciprocal relu relu6 round rsqrt selu sigmoid sign silu
    sin soft_shrink softplus softsign sparse_plus sparse_sigmoid sqrt square squareplus
    stop_gradient tanh tanh_shrink threshold
"""

register_rule(
    *(
        getattr(module, name)
        for module in (activations, ops)
        for name in ELEMENTWISE.split()
        if hasattr(module, name)
    )
)(Rule)


@register_rule(layers.Softmax, ops.softmax, ops.log_softmax)
class SoftmaxRule(Rule):
    def carry(self, call, channels, space):
        space.pin(channels[0], call.name, "a softmax mixes the channels")
        return channels[0]


@register_rule(ops.clip)
class ClipRule(Rule):
    def carry(self, call, channels, space):
        if np.ndim(call.operation.x_min) or np.ndim(call.operation.x_max):
            raise Unprunable("its bounds are arrays")
        return channels[0]


@register_rule(layers.PReLU)
class PReLURule(Rule):
    weight_axes = {"alpha": (OUT,)}

    def carry(self, call, channels, space):
        if call.operation.alpha.shape[-1] != len(channels[0]):
            raise Unprunable("its alpha is shared by all channels")
        return channels[0]


@register_rule(layers.Dropout, layers.AlphaDropout)
class DropoutRule(Rule):
    def carry(self, call, channels, space):
        shape = call.operation.noise_shape
        if shape and shape[-1] not in (None, 1):
            raise Unprunable(f"its noise_shape={shape} fixes the number of channels")
        return channels[0]


@register_rule(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    weight_axes = dict.fromkeys(
        ("gamma", "beta", "moving_mean", "moving_variance"), (OUT,)
    )

    def carry(self, call, channels, space):
        if call.operation.axis not in (-1, len(call.inputs[0].shape) - 1):
            raise Unprunable(f"it normalises axis {call.operation.axis}, not the last")
        return channels[0]


@register_rule(layers.Rescaling)
class RescalingRule(Rule):
    def cut_config(self, call, kept_in, kept_out):
        layer = call.operation
        return {
            name: cut_constant(np.asarray(value), kept_out).tolist()
            for name, value in (("scale", layer.scale), ("offset", layer.offset))
            if np.ndim(value)
        }


@register_rule(layers.Conv2D)
class Conv2DRule(Rule):
    produces = consumes = True
    weight_axes = {"kernel": (None, None, IN, OUT), "bias": (OUT,)}

    def carry(self, call, channels, space):
        require_channels_last(call)
        if call.operation.groups != 1:
            raise Unprunable(f"groups={call.operation.groups}: only 1 is supported")
        return _fresh_output(call, space)

    def cut_config(self, call, kept_in, kept_out):
        return {"filters": int(kept_out.sum())}


@register_rule(layers.Dense)
class DenseRule(Rule):
    produces = consumes = True
    weight_axes = {"kernel": (IN, OUT), "bias": (OUT,)}

    def carry(self, call, channels, space):
        return _fresh_output(call, space)

    def cut_config(self, call, kept_in, kept_out):
        return {"units": int(kept_out.sum())}


@register_rule(layers.DepthwiseConv2D)
class DepthwiseConv2DRule(Rule):
    weight_axes = {"kernel": (None, None, IN, None), "bias": (OUT,)}

    def carry(self, call, channels, space):
        ids = super().carry(call, channels, space)
        return np.repeat(ids, call.operation.depth_multiplier)


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


@register_rule(
    *(layers.Add, layers.Subtract, layers.Multiply),
    *(layers.Average, layers.Maximum, layers.Minimum),
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


def _fresh_output(call, space):
    ids = space.fresh(call.outputs[0].shape[-1])
    pin_mixed(call, ids, space)
    return ids
