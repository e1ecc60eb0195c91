"""Layers that act on each channel alone."""

import numpy as np
from keras import activations, layers, ops

from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    Rule,
    Unprunable,
    cut_constant,
    register_rule,
)

register_rule(
    *(layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU),
    *(layers.Identity, layers.ActivityRegularization),
    *(layers.GaussianNoise, layers.GaussianDropout),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    layers.GlobalAveragePooling3D,
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    "StochasticDepth",
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


@register_rule(layers.Rescaling)
class RescalingRule(Rule):
    def cut_config(self, call, kept_in, kept_out):
        layer = call.operation
        return {
            name: cut_constant(np.asarray(value), kept_out).tolist()
            for name, value in (("scale", layer.scale), ("offset", layer.offset))
            if np.ndim(value)
        }


@register_rule("LayerScale")
class LayerScaleRule(Rule):
    """ConvNeXt's learned factor for each channel."""

    width = "projection_dim"
    weight_axes = {"gamma": (OUT,)}


@register_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
class DepthwiseConvRule(Rule):
    """A channel of the input makes `depth_multiplier` ones of the output, in a row."""

    weight_axes = {"kernel": (IN, None), "bias": (OUT,)}

    def carry(self, call, channels, space):
        ids = super().carry(call, channels, space)
        return np.repeat(ids, call.operation.depth_multiplier)
