"""Rules of layers that make channels, and read all channels of their input."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    Rule,
    pin_mixed,
    require_channels_last,
)
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.rules.sliding import SlidingRule, can_slide
from keras_greedy.graph.space import ChannelSpace

CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
)
TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
SEPARABLE = (
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)


@register_rule(layers.Dense)
class DenseRule(Rule):
    """A matrix from the channels of the input to those of the output."""

    any_axis = True
    produces = True
    consumes = True
    width = "units"
    weight_axes = {"kernel": (IN, OUT), "bias": (OUT,)}


@register_rule(*CONVOLUTIONS)
class ConvRule(Rule):
    """A matrix of channels at each offset of the kernel, `(*size, in, out)`."""

    produces = True
    consumes = True
    width = "filters"
    weight_axes = {"kernel": (IN, OUT), "bias": (OUT,)}

    def specialised(self, operation: keras.Operation) -> Rule:
        if operation.groups == 1:
            return self
        is_per_channel = operation.built and operation.kernel.shape[-2] == 1
        if is_per_channel:
            return ConvPerChannelRule()
        return GroupedConvRule()

    def of_call(self, call: Call) -> Rule:
        return SlidingRule(self) if can_slide(call) else self


@register_rule(*TRANSPOSED)
class ConvTransposeRule(Rule):
    """A convolution backwards, whose kernel is `(*size, out, in)`."""

    produces = True
    consumes = True
    width = "filters"
    weight_axes = {"kernel": (OUT, IN), "bias": (OUT,)}


@register_rule(*SEPARABLE)
class SeparableConvRule(Rule):
    """Its depthwise half is linear: a channel that is 0 before is 0 behind it."""

    produces = True
    consumes = True
    width = "filters"
    # The pointwise half reads `depth_multiplier` channels in a row for each of the
    # input's, so that its kernel's input axis has that many entries for each.
    weight_axes = {
        "depthwise_kernel": (IN, None),
        "pointwise_kernel": (IN, OUT),
        "bias": (OUT,),
    }


@register_rule(layers.Embedding)
class EmbeddingRule(Rule):
    """A table of vectors, whose entries are channels; it reads numbers of rows."""

    produces = True
    width = "output_dim"
    weight_axes = {"embeddings": (None, OUT)}

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray | Sequence[np.ndarray]:
        space.pin(channels[0], call.name, "it reads them as numbers of rows")
        return super().carry(call, channels, space)

    def tied(self, call: Call) -> list[KerasTensor]:
        # Sequences of several lengths may be looked up in it.
        return list(call.outputs)


class ConvPerChannelRule(Rule):
    """A convolution with as many groups as channels: a depthwise one."""

    # The kernel is (*size, 1, out): each filter reads one channel of the input.
    weight_axes = {"kernel": (None, OUT), "bias": (OUT,)}

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        ids = super().carry(call, channels, space)
        filters_per_channel = call.operation.filters // len(ids)
        return np.repeat(ids, filters_per_channel)

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        return {
            "filters": int(kept_out.sum()),
            "groups": int(kept_in.sum()),
        }


class GroupedConvRule(ConvRule):
    """Groups stay of equal size: each channel cut is one of every group.

    The kernel's input axis has an entry for each channel of one group.
    """

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        require_channels_last(call)
        made = space.fresh(call.operation.filters)
        for ids in (channels[0], made):
            balance(ids, call.operation.groups, space)
        pin_mixed(call, made, space)
        return made


def balance(
    ids: np.ndarray,
    groups: int,
    space: ChannelSpace,
) -> None:
    """Declares channels equal, so that all groups in a row have each equally often.

    Of channels that are all different, these are the n-th ones of all groups.

    Args:
        ids: `(C,)` channel numbers.
        groups: The number of groups.
        space: The `ChannelSpace` to declare numbers equal in.
    """
    by_group = space.resolve(ids).reshape(groups, -1)
    if len(np.unique(by_group)) == by_group.size:
        space.unify_groups(ids, groups)
        return
    # Channel number -> (groups,) how often it is in each group, in the order met.
    left = {}
    for number in dict.fromkeys(by_group.ravel().tolist()):
        left[number] = (by_group == number).sum(axis=1)
    while left:
        first = next(iter(left))
        total = left.pop(first)
        while total.min() < total.max():
            other = _filling(total, left)
            total = total + left.pop(other)
            space.unify(np.array([first]), np.array([other]))


def _filling(total: np.ndarray, left: dict[int, np.ndarray]) -> int:
    """Returns the first channel that makes some counts equal, or that comes near.

    Args:
        total: `(groups,)` counts, not all equal.
        left: Channel number -> its counts, of which all together make them equal.
    """
    gaps = total.max() - total
    fitting = []
    for number, own in left.items():
        if np.ptp(total + own) == 0:
            return number
        if (own <= gaps).all():
            fitting.append(number)
    if fitting:
        return fitting[0]
    return min(left, key=lambda number: np.ptp(total + left[number]))
