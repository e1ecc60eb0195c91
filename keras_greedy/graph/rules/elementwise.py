"""Rules of layers and operations that act on each channel alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import activations, layers, ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    Rule,
    Unprunable,
    cut_constant,
)
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ChannelSpace

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
    stop_gradient tanh tanh_shrink threshold
"""

register_rule(*ACTIVATIONS)(Rule)
register_rule(*IDENTITIES)(Rule)
register_rule(*NOISE)(Rule)
register_rule(*SPATIAL_DROPOUT)(Rule)
register_rule(*POOLING)(Rule)
register_rule(*GLOBAL_POOLING)(Rule)
register_rule(*RESIZING)(Rule)
register_rule(STOCHASTIC_DEPTH)(Rule)

for name in ELEMENTWISE.split():
    for module in (activations, ops):
        if hasattr(module, name):
            register_rule(getattr(module, name))(Rule)


SOFTMAX = (activations.softmax, activations.log_softmax, ops.softmax, ops.log_softmax)


@register_rule(layers.Softmax, *SOFTMAX)
class SoftmaxRule(Rule):
    """Keeps all channels: each output depends on all of them."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        space.pin(channels[0], call.name, "a softmax mixes the channels")
        return channels[0]


@register_rule(ops.clip)
class ClipRule(Rule):
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

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        shape = call.operation.noise_shape
        if shape and shape[-1] not in (None, 1):
            raise Unprunable(f"its noise_shape={shape} fixes the number of channels")
        return channels[0]


@register_rule(layers.Rescaling)
class RescalingRule(Rule):
    """Has constants in its config, which may have a value for each channel."""

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        changes = {}
        for name in ("scale", "offset"):
            value = getattr(call.operation, name)
            if np.ndim(value):
                changes[name] = cut_constant(np.asarray(value), kept_out).tolist()
        return changes


@register_rule("LayerScale")
class LayerScaleRule(Rule):
    """ConvNeXt's learned factor for each channel."""

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
