"""Rules of layers and operations that act on each channel alone."""

from collections.abc import Collection, Sequence
from typing import Any

import keras
import numpy as np
from keras import activations, layers, ops

from keras_greedy.graph.axes import axis_from_end
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    Rule,
    Unprunable,
    cut_constant,
)
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace

ACTIVATIONS = (
    layers.Activation,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
)
IDENTITIES = (
    layers.Identity,
    layers.ActivityRegularization,
)
NOISE = (
    layers.GaussianNoise,
    layers.GaussianDropout,
)
SPATIAL_DROPOUT = (
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
POOLING = (
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
)
GLOBAL_POOLING = (
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
RESIZING = (
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
)
# The dropout of whole branches in `keras.applications.convnext`.
STOCHASTIC_DEPTH = "StochasticDepth"
DEPTHWISE = (
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
)

# By name: some are activations, some operations, most are both, and a few are not in
# every version of Keras.
ELEMENTWISE = """
    absolute cast ceil celu cos elu erf exp expm1 exponential floor gelu hard_shrink
    hard_sigmoid hard_silu hard_tanh leaky_relu linear log log1p log_sigmoid
    logical_not mish negative reciprocal relu relu6 round rsqrt selu sigmoid sign silu
    sin soft_shrink softplus softsign sparse_plus sparse_sigmoid sqrt square squareplus
    stop_gradient tanh tanh_shrink threshold zeros_like
"""

register_rule(*POOLING)(Rule)
register_rule(*GLOBAL_POOLING)(Rule)
register_rule(*RESIZING)(Rule)


@register_rule(
    *ACTIVATIONS,
    *IDENTITIES,
    *NOISE,
    *SPATIAL_DROPOUT,
    STOCHASTIC_DEPTH,
)
class ElementwiseRule(Rule):
    """Acts on each entry alone, whatever its axes are."""

    any_axis = True


for name in ELEMENTWISE.split():
    for module in (activations, ops):
        if hasattr(module, name):
            register_rule(getattr(module, name))(ElementwiseRule)


SOFTMAX = (activations.softmax, activations.log_softmax, ops.softmax, ops.log_softmax)


@register_rule(layers.Softmax, *SOFTMAX)
class SoftmaxRule(Rule):
    """Keeps all channels along its axes: each output depends on all of them."""

    def positions_of(self, call: Call) -> Collection[int]:
        axes = keras.tree.flatten(call.operation.axis)
        return [axis_from_end(axis, call.inputs[0]) for axis in axes]

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        for axis in self.positions_of(call):
            ids = channels[0].get(axis)
            if ids is not None:
                space.pin(ids, call.name, "a softmax mixes the channels")
        return [channels[0]]


@register_rule(ops.clip)
class ClipRule(ElementwiseRule):
    """Clips at the same bounds for all channels."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        if np.ndim(call.operation.x_min) or np.ndim(call.operation.x_max):
            raise Unprunable("its bounds are arrays")
        return channels[0]


@register_rule(layers.PReLU)
class PReLURule(Rule):
    """Has a slope for each channel, whichever other axes share theirs."""

    weight_axes = {"alpha": (OUT,)}

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        if call.operation.alpha.shape[-1] != len(channels[0]):
            raise Unprunable("its alpha is shared by all channels")
        return channels[0]


@register_rule(layers.Dropout, layers.AlphaDropout)
class DropoutRule(Rule):
    """Drops entries by a mask of any number of channels."""

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        shape = call.operation.noise_shape
        for axis in channels[0]:
            if shape and shape[axis] not in (None, 1):
                raise Unprunable(
                    f"its noise_shape={shape} fixes the number of channels"
                )
        return [channels[0]]


@register_rule(layers.Rescaling)
class RescalingRule(ElementwiseRule):
    """Has constants in its config, which may have a value for each channel."""

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        changes = {}
        (made,) = call.outputs
        for name in ("scale", "offset"):
            value = np.asarray(getattr(call.operation, name))
            if value.ndim:
                for axis in kept.axes(made):
                    value = cut_constant(value, kept(made, axis), axis)
                changes[name] = value.tolist()
        return changes


@register_rule("LayerScale")
class LayerScaleRule(Rule):
    """ConvNeXt's learned factor for each channel."""

    any_axis = True
    width = "projection_dim"
    weight_axes = {"gamma": (OUT,)}


@register_rule(*DEPTHWISE)
class DepthwiseConvRule(Rule):
    """A channel of the input makes `depth_multiplier` ones of the output, in a row."""

    weight_axes = {"kernel": (IN, None), "bias": (OUT,)}

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        ids = super().carry(call, channels, space)
        return np.repeat(ids, call.operation.depth_multiplier)
