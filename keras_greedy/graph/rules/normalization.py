"""Rules of layers that normalise.

A BatchNormalization has statistics of its own for each channel. The others take them
over the channels there are, so that cutting some changes the output of the rest: the
compact model computes that way, and so do the gated one and the measurements, with
statistics over the kept channels only.
"""

from collections.abc import Collection, Sequence

import keras
import numpy as np
from keras import layers, ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import (
    OUT,
    Rule,
    Tensor,
    Unprunable,
    pin_axes,
)
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace


@register_rule(layers.BatchNormalization)
class BatchNormalizationRule(Rule):
    """Normalises each channel by statistics over examples and positions."""

    any_axis = True
    weight_axes = {
        "gamma": (OUT,),
        "beta": (OUT,),
        "moving_mean": (OUT,),
        "moving_variance": (OUT,),
    }

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        last = len(call.inputs[0].shape) - 1
        if call.operation.axis not in (-1, last):
            raise Unprunable(f"it normalises axis {call.operation.axis}, not the last")
        return channels[0]


@register_rule(layers.Normalization)
class NormalizationRule(Rule):
    """Normalises each channel by fixed statistics."""

    any_axis = True
    weight_axes = {"mean": (OUT,), "variance": (OUT,), "count": ()}

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        layer = call.operation
        rank = len(call.inputs[0].shape)
        axes = [axis % rank for axis in layer.axis]
        if axes != [rank - 1]:
            raise Unprunable(f"it normalises axes {layer.axis}, not just the last")
        if layer.input_mean is not None:
            raise Unprunable("its mean and variance are part of its config")
        return channels[0]


class ChannelStatisticsRule(Rule):
    """Divides each channel by statistics over all of them."""

    any_axis = True
    normalizes = True

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        rank = len(call.inputs[0].shape)
        normalized = [axis - rank for axis in _axes(call.operation, rank)]
        pin_axes(call, channels, [axis for axis in normalized if axis != -1], space)
        return super().carry_axes(call, channels, space)

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        rank = len(call.inputs[0].shape)
        axes = _axes(call.operation, rank)
        if axes[-1] != rank - 1:
            raise Unprunable(f"it normalises axes {axes}, without the last")
        return channels[0]


@register_rule(layers.LayerNormalization)
class LayerNormalizationRule(ChannelStatisticsRule):
    """Normalises by mean and variance over the channels, and maybe positions."""

    weight_axes = {"gamma": (OUT,), "beta": (OUT,)}

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        axes = _axes(layer, len(x.shape))
        mean = mean_of_kept(x, mask, axes)
        variance = mean_of_kept(ops.square(x - mean), mask, axes)
        # Keras' `rms_scaling` leaves the mean in, but divides by the deviation.
        centred = x if layer.rms_scaling else x - mean
        y = centred * ops.rsqrt(variance + layer.epsilon)
        beta = None if layer.rms_scaling else layer.beta
        return _affine(y, layer.gamma, beta, axes)


@register_rule(layers.RMSNormalization)
class RMSNormalizationRule(ChannelStatisticsRule):
    """Divides by the root mean square over the channels."""

    weight_axes = {"scale": (OUT,)}

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        axes = _axes(layer, len(x.shape))
        square = mean_of_kept(ops.square(x), mask, axes)
        return x * ops.rsqrt(square + layer.epsilon) * layer.scale


@register_rule(layers.UnitNormalization, ops.normalize)
class UnitNormalizationRule(Rule):
    """Divides by the norm along any axes, to which a channel of zeros adds nothing."""

    normalizes = True

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        order = getattr(call.operation, "order", 2)
        if order <= 0:
            raise Unprunable(f"it divides by the norm of order {order}")
        return channels[0]

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        return layer(x * mask)


@register_rule(layers.GroupNormalization)
class GroupNormalizationRule(ChannelStatisticsRule):
    """Groups stay of equal size: the n-th channels of all groups are one channel."""

    any_axis = False
    weight_axes = {"gamma": (OUT,), "beta": (OUT,)}

    def specialised(self, operation: keras.Operation) -> Rule:
        for weight in operation.weights:
            has_group_per_channel = weight.shape[0] == operation.groups
            if has_group_per_channel:
                return InstanceNormalizationRule()
        return self

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        ids = super().carry(call, channels, space)
        space.unify_groups(ids, call.operation.groups)
        return ids

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        def grouped(tensor: Tensor) -> Tensor:
            """Splits the last axis into `(groups, channels per group)`."""
            *leading, _ = ops.shape(tensor)
            return ops.reshape(tensor, (*leading, layer.groups, -1))

        shape = ops.shape(x)
        # The mask may come with one entry for all channels; each group needs its own.
        *leading, _ = ops.shape(mask)
        mask = ops.broadcast_to(mask, (*leading, x.shape[-1]))
        mask = grouped(mask)
        x = grouped(x)
        # Over the positions and the channels of a group, not the batch and the groups.
        last = len(x.shape) - 1
        axes = [*range(1, last - 1), last]
        mean = mean_of_kept(x, mask, axes)
        variance = mean_of_kept(ops.square(x - mean), mask, axes)
        y = (x - mean) * ops.rsqrt(variance + layer.epsilon)
        y = ops.reshape(y, shape)
        channel_axis = len(shape) - 1
        return _affine(y, layer.gamma, layer.beta, [channel_axis])


class InstanceNormalizationRule(Rule):
    """A GroupNormalization with a group for each channel."""

    weight_axes = {"gamma": (OUT,), "beta": (OUT,)}

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, int]:
        return {"groups": int(kept_out.sum())}


def _axes(
    layer: keras.Layer,
    rank: int,
) -> list[int]:
    """Returns the axes of a tensor of this rank that a layer normalises, in order."""
    axes = keras.tree.flatten(layer.axis)
    return sorted(axis % rank for axis in axes)


def mean_of_kept(
    x: Tensor,
    mask: Tensor,
    axes: Sequence[int],
) -> Tensor:
    """Returns the mean of `x` along axes, the channels of `mask` 0 left out.

    The mask has no positions: the share of kept channels is that of kept entries.
    """
    share = ops.mean(mask, axis=-1, keepdims=True)
    # A group of which nothing is kept has zeros for mean, not a division by zero.
    share = ops.maximum(share, keras.config.epsilon())
    # sum(x * mask) / (n * share), with n the number of all entries.
    mean = ops.mean(x * mask, axis=axes, keepdims=True)
    return mean / share


def _affine(
    x: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    axes: Collection[int],
) -> Tensor:
    """Returns `x * gamma + beta`, of which either may be missing.

    Args:
        x: A tensor.
        gamma: Factors, of the shape of `x` along `axes`.
        beta: Shifts, of the same shape.
        axes: The axes of `x` that they run along.
    """
    shape = []
    for axis, size in enumerate(x.shape):
        shape.append(size if axis in axes else 1)
    if gamma is not None:
        x = x * ops.reshape(gamma, shape)
    if beta is not None:
        x = x + ops.reshape(beta, shape)
    return x
