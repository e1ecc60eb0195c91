"""Layers that make channels, and read all channels of their input."""

import numpy as np
from keras import layers

from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    Rule,
    pin_mixed,
    register_rule,
    require_channels_last,
)


@register_rule(layers.Dense)
class DenseRule(Rule):
    produces = consumes = True
    width = "units"
    weight_axes = {"kernel": (IN, OUT), "bias": (OUT,)}


@register_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
class ConvRule(Rule):
    produces = consumes = True
    width = "filters"
    weight_axes = {"kernel": (IN, OUT), "bias": (OUT,)}

    def specialised(self, operation):
        if operation.groups == 1:
            return self
        of_each = operation.kernel.shape[-2]
        return ConvPerChannelRule() if of_each == 1 else GroupedConvRule()


@register_rule(
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    *([layers.Conv3DTranspose] if hasattr(layers, "Conv3DTranspose") else []),
)
class ConvTransposeRule(Rule):
    produces = consumes = True
    width = "filters"
    weight_axes = {"kernel": (OUT, IN), "bias": (OUT,)}


@register_rule(layers.SeparableConv1D, layers.SeparableConv2D)
class SeparableConvRule(Rule):
    """Its depthwise half is linear: a channel that is 0 before is 0 behind it."""

    produces = consumes = True
    width = "filters"
    weight_axes = {
        "depthwise_kernel": (IN, None),
        "pointwise_kernel": (IN, OUT),
        "bias": (OUT,),
    }


class ConvPerChannelRule(Rule):
    """A convolution with as many groups as channels: a depthwise one."""

    weight_axes = {"kernel": (None, OUT), "bias": (OUT,)}

    def carry(self, call, channels, space):
        ids = super().carry(call, channels, space)
        return np.repeat(ids, call.operation.filters // len(ids))

    def cut_config(self, call, kept_in, kept_out):
        return {"filters": int(kept_out.sum()), "groups": int(kept_in.sum())}


class GroupedConvRule(ConvRule):
    """Groups stay of equal size: the n-th channels of all groups are one channel.

    The kernel's input axis has an entry for each channel of one group.
    """

    def carry(self, call, channels, space):
        require_channels_last(call)
        made = space.fresh(call.operation.filters)
        for ids in (channels[0], made):
            space.unify_groups(ids, call.operation.groups)
        pin_mixed(call, made, space)
        return made
