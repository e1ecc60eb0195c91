"""Layers that normalise.

A BatchNormalization has statistics of its own for each channel. The others take them
over the channels there are, so that cutting some changes what the rest become: that
is how the compact model computes, and so the gated one, and what is measured, take
the statistics over the kept channels only.
"""

import keras
from keras import layers, ops

from keras_greedy.graph.rules.base import OUT, Rule, Unprunable, register_rule


@register_rule(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    weight_axes = dict.fromkeys(
        ("gamma", "beta", "moving_mean", "moving_variance"), (OUT,)
    )

    def carry(self, call, channels, space):
        if call.operation.axis not in (-1, len(call.inputs[0].shape) - 1):
            raise Unprunable(f"it normalises axis {call.operation.axis}, not the last")
        return channels[0]


@register_rule(layers.Normalization)
class NormalizationRule(Rule):
    """By fixed statistics of each channel."""

    weight_axes = {"mean": (OUT,), "variance": (OUT,), "count": ()}

    def carry(self, call, channels, space):
        layer, last = call.operation, len(call.inputs[0].shape) - 1
        if tuple(axis % (last + 1) for axis in layer.axis) != (last,):
            raise Unprunable(f"it normalises axes {layer.axis}, not just the last")
        if layer.input_mean is not None:
            raise Unprunable("its mean and variance are part of its config")
        return channels[0]


class ChannelStatisticsRule(Rule):
    """Divides each channel by statistics over all of them."""

    normalizes = True

    def carry(self, call, channels, space):
        axes = _axes(call.operation, len(call.inputs[0].shape))
        if axes[-1] != len(call.inputs[0].shape) - 1:
            raise Unprunable(f"it normalises axes {axes}, without the last")
        return channels[0]


@register_rule(layers.LayerNormalization)
class LayerNormalizationRule(ChannelStatisticsRule):
    weight_axes = {"gamma": (OUT,), "beta": (OUT,)}

    def over_kept(self, layer, x, mask):
        axes = _axes(layer, len(x.shape))
        mean = _mean_of_kept(x, mask, axes)
        variance = _mean_of_kept(ops.square(x - mean), mask, axes)
        # Keras' `rms_scaling` leaves the mean in, but divides by the deviation.
        centred = x if layer.rms_scaling else x - mean
        y = centred * ops.rsqrt(variance + layer.epsilon)
        beta = None if layer.rms_scaling else layer.beta
        return _affine(y, layer.gamma, beta, axes)


if hasattr(layers, "RMSNormalization"):

    @register_rule(layers.RMSNormalization)
    class RMSNormalizationRule(ChannelStatisticsRule):
        weight_axes = {"scale": (OUT,)}

        def over_kept(self, layer, x, mask):
            square = _mean_of_kept(ops.square(x), mask, _axes(layer, len(x.shape)))
            return x * ops.rsqrt(square + layer.epsilon) * layer.scale


@register_rule(layers.UnitNormalization)
class UnitNormalizationRule(ChannelStatisticsRule):
    def over_kept(self, layer, x, mask):
        return layer(x * mask)


@register_rule(layers.GroupNormalization)
class GroupNormalizationRule(ChannelStatisticsRule):
    """Groups stay of equal size: the n-th channels of all groups are one channel."""

    weight_axes = {"gamma": (OUT,), "beta": (OUT,)}

    def specialised(self, operation):
        widths = {operation.groups} & {weight.shape[0] for weight in operation.weights}
        return InstanceNormalizationRule() if widths else self

    def carry(self, call, channels, space):
        ids = super().carry(call, channels, space)
        space.unify_groups(ids, call.operation.groups)
        return ids

    def over_kept(self, layer, x, mask):
        def grouped(tensor):
            return ops.reshape(tensor, (*ops.shape(tensor)[:-1], layer.groups, -1))

        mask = grouped(ops.broadcast_to(mask, (*ops.shape(mask)[:-1], x.shape[-1])))
        x, shape = grouped(x), ops.shape(x)
        axes = [*range(1, len(x.shape) - 2), len(x.shape) - 1]
        mean = _mean_of_kept(x, mask, axes)
        variance = _mean_of_kept(ops.square(x - mean), mask, axes)
        y = ops.reshape((x - mean) * ops.rsqrt(variance + layer.epsilon), shape)
        return _affine(y, layer.gamma, layer.beta, [len(shape) - 1])


class InstanceNormalizationRule(Rule):
    """A GroupNormalization with a group for each channel."""

    weight_axes = {"gamma": (OUT,), "beta": (OUT,)}

    def cut_config(self, call, kept_in, kept_out):
        return {"groups": int(kept_out.sum())}


def _axes(layer, rank: int) -> list[int]:
    axes = keras.tree.flatten(layer.axis)
    return sorted(axis % rank for axis in axes)


def _mean_of_kept(x, mask, axes):
    share = ops.maximum(ops.mean(mask, axis=-1, keepdims=True), keras.config.epsilon())
    return ops.mean(x * mask, axis=axes, keepdims=True) / share


def _affine(x, gamma, beta, axes):
    """`x * gamma + beta`, of which either may be missing, along these axes of `x`."""
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    if gamma is not None:
        x = x * ops.reshape(gamma, shape)
    return x if beta is None else x + ops.reshape(beta, shape)
