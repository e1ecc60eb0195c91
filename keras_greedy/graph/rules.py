"""How each kind of layer carries channels: one small rule per layer class.

A rule says which channels come out of a call, which axes of the layer's weights
belong to the channels going in or out, and how its config changes when some are
cut. Raw operations are registered under their public `keras.ops` function.
"""

import math

import keras
import numpy as np
from keras import layers, ops

IN, OUT = "in", "out"

RULES: dict = {}


class Unprunable(Exception):
    """Raised by a rule when a call's channels cannot be cut; says why."""


class Rule:
    """A layer that acts on each channel alone (a follower); the base of all rules.

    Attributes:
        produces: Whether the call makes channels of its own.
        consumes: Whether it reads all channels of its input at once.
        weight_axes: Weight name -> what each of its axes runs over: the channels
            going `IN`, the channels coming `OUT`, or `None` for neither.
    """

    produces = False
    consumes = False
    weight_axes: dict[str, tuple] = {}

    def carry(self, call, channels, space):
        """Returns the `(C,)` channel numbers of the call's output."""
        _require_channels_last(call)
        if not _activation_is_per_channel(call.operation):
            space.pin(channels[0], call.name, "its activation mixes the channels")
        return channels[0]

    def cut_config(self, call, kept_in, kept_out) -> dict:
        """Returns the config entries that change; masks are over positions."""
        return {}

    def cut_arguments(self, call, args, kept_out):
        """Returns the positional arguments with per-channel constants cut."""
        return args


def register_rule(*keys):
    """Class decorator: this rule is the one for these layers or operations."""

    def register(rule):
        RULES.update(dict.fromkeys(keys, rule()))
        return rule

    return register


register_rule(
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU),
    *(layers.Identity, layers.ActivityRegularization),
    *(layers.GaussianNoise, layers.GaussianDropout, layers.AlphaDropout),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.UpSampling1D, layers.UpSampling2D),
    *(ops.relu, ops.relu6, ops.leaky_relu, ops.elu, ops.selu, ops.gelu, ops.silu),
    *(ops.sigmoid, ops.hard_sigmoid, ops.hard_silu, ops.tanh, ops.softplus),
    *(ops.softsign, ops.exp, ops.log, ops.sqrt, ops.square, ops.absolute),
    *(ops.negative, ops.clip, ops.cast),
)(Rule)


@register_rule(layers.Softmax, ops.softmax, ops.log_softmax)
class SoftmaxRule(Rule):
    def carry(self, call, channels, space):
        space.pin(channels[0], call.name, "a softmax mixes the channels")
        return channels[0]


@register_rule(layers.Dropout)
class DropoutRule(Rule):
    def carry(self, call, channels, space):
        shape = call.operation.noise_shape
        if shape and shape[-1] not in (None, 1):
            raise Unprunable(f"its noise_shape={shape} fixes the number of channels")
        return super().carry(call, channels, space)


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
            name: _cut_constant(np.asarray(value), kept_out).tolist()
            for name, value in (("scale", layer.scale), ("offset", layer.offset))
            if np.ndim(value)
        }


@register_rule(layers.Conv2D)
class Conv2DRule(Rule):
    produces = consumes = True
    weight_axes = {"kernel": (None, None, IN, OUT), "bias": (OUT,)}

    def carry(self, call, channels, space):
        _require_channels_last(call)
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
        _require_channels_last(call)
        before, after = call.inputs[0].shape[1:], call.outputs[0].shape[1:]
        if None in before or None in after:
            raise Unprunable("it reshapes an input of unknown size")
        if len(before) == 1 == math.prod(after[:-1]):
            return channels[0]
        ids = np.broadcast_to(channels[0], before).reshape(after)
        ids = ids.reshape(-1, ids.shape[-1])
        if (ids != ids[0]).any():
            raise Unprunable(f"it reshapes {before} to {after} across the channel axis")
        return ids[0]


register_rule(layers.Flatten)(ReshapeRule)


@register_rule(layers.Reshape)
class ReshapeLayerRule(ReshapeRule):
    def cut_config(self, call, kept_in, kept_out):
        return {"target_shape": (*call.outputs[0].shape[1:-1], int(kept_out.sum()))}


@register_rule(ops.reshape)
class ReshapeOperationRule(ReshapeRule):
    def cut_config(self, call, kept_in, kept_out):
        return {"newshape": (-1, *call.outputs[0].shape[1:-1], int(kept_out.sum()))}


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

    produces = True

    def carry(self, call, channels, space):
        before, after = self._channel_padding(call)
        if (before or after) and call.operation.mode != "constant":
            raise Unprunable(f"it pads the channels with mode={call.operation.mode}")
        return np.concatenate([space.fresh(before), channels[0], space.fresh(after)])

    def cut_config(self, call, kept_in, kept_out):
        before, after = self._channel_padding(call)
        kept = int(kept_out[:before].sum()), int(kept_out[len(kept_out) - after :].sum())
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


@register_rule(
    *(ops.add, ops.subtract, ops.multiply, ops.divide, ops.true_divide),
    *(ops.maximum, ops.minimum, ops.power),
)
class JoinOperationRule(JoinRule):
    """A join whose other side may be a constant, per channel or not."""

    def carry(self, call, channels, space):
        widest = max(map(len, channels))
        if call.kwargs:
            raise Unprunable(f"it is called with keyword arguments {[*call.kwargs]}")
        for argument in call.args:
            if isinstance(argument, keras.KerasTensor):
                continue
            if isinstance(argument, keras.Variable):
                raise Unprunable("it combines the channels with a variable")
            if np.shape(argument)[-1:] > (max(1, widest),):
                raise Unprunable("a constant broadcasts its channels to more")
        return super().carry(call, channels, space)

    def cut_arguments(self, call, args, kept_out):
        return tuple(
            arg if isinstance(arg, keras.KerasTensor) else _cut_constant(arg, kept_out)
            for arg in args
        )


@register_rule(layers.Concatenate)
class ConcatenateRule(Rule):
    def carry(self, call, channels, space):
        if call.operation.axis not in (-1, len(call.outputs[0].shape) - 1):
            raise Unprunable(f"it joins along axis {call.operation.axis}, not the last")
        return np.concatenate(channels)


PER_CHANNEL_ACTIVATIONS = {
    getattr(keras.activations, name)
    for name in (
        "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
        "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink "
        "softplus softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink "
        "threshold"
    ).split()
    if hasattr(keras.activations, name)
}


def _activation_is_per_channel(operation) -> bool:
    activation = getattr(operation, "activation", None)
    if activation is None or activation in PER_CHANNEL_ACTIVATIONS:
        return True
    return RULES.get(type(activation)).__class__ is Rule and (
        _activation_is_per_channel(activation)
    )


def _fresh_output(call, space):
    ids = space.fresh(call.outputs[0].shape[-1])
    if not _activation_is_per_channel(call.operation):
        space.pin(ids, call.name, "its activation mixes the channels")
    return ids


def _require_channels_last(call):
    if getattr(call.operation, "data_format", None) == "channels_first":
        raise Unprunable("data_format='channels_first': only channels last is supported")


def _cut_constant(value, kept):
    per_channel = np.ndim(value) and np.shape(value)[-1] == len(kept) > 1
    return np.asarray(value)[..., kept] if per_channel else value
