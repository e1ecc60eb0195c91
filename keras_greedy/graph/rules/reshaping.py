"""Rules of layers and operations that move channels to other places."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers, ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import (
    Rule,
    Unprunable,
    require_channels_last,
)
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ChannelSpace


class ReshapeRule(Rule):
    """Follows the channels through a reshape that keeps them apart."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        require_channels_last(call)
        before = call.inputs[0].shape[1:]
        after = call.outputs[0].shape[1:]
        if before[-1:] == after[-1:]:
            return channels[0]
        is_known = None not in before + after
        if not is_known or math.prod(before) != math.prod(after):
            raise Unprunable(f"it reshapes {before} to {after}: unknown or other sizes")
        # The channel number at each entry of one example, first in the shape before,
        # then (positions, last axis) in the shape after. The channels stay apart
        # where an entry of the new last axis is the same channel at all positions.
        numbers = np.broadcast_to(channels[0], before or 1)
        ids = numbers.reshape(-1, *after[-1:])
        if (ids != ids[0]).any():
            raise Unprunable(f"it reshapes {before} to {after} across the channel axis")
        return ids[0]


def _new_shape(
    call: Call,
    kept_out: np.ndarray,
) -> tuple[int, ...]:
    """Returns the shape behind the batch axis after a cut, -1 for an unknown size."""
    positions = call.outputs[0].shape[1:-1]
    known = [-1 if size is None else size for size in positions]
    return (*known, int(kept_out.sum()))


register_rule(layers.Flatten)(ReshapeRule)


@register_rule(layers.Reshape)
class ReshapeLayerRule(ReshapeRule):
    """The layer, which has the shape of one example in its config."""

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        return {"target_shape": _new_shape(call, kept_out)}


@register_rule(ops.reshape)
class ReshapeOperationRule(ReshapeRule):
    """The operation, which has the batch axis in its config too."""

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        return {"newshape": (-1, *_new_shape(call, kept_out))}


@register_rule(ops.squeeze, ops.expand_dims)
class SqueezeRule(ReshapeRule):
    """Drops or adds axes of size 1."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        if call.operation.axis is None:
            raise Unprunable("axis=None would squeeze a last remaining channel too")
        return super().carry(call, channels, space)


@register_rule(ops.get_item)
class GetItemRule(Rule):
    """Slices the other axes, as `x[:, ::2, ::2]` does in a shortcut."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        key = call.args[1]
        if not isinstance(key, tuple):
            key = (key,)
        # NumPy's rule: axes that the key does not name are taken whole.
        rank = len(call.inputs[0].shape)
        if Ellipsis not in key and len(key) < rank:
            key = (*key, Ellipsis)
        takes_all_channels = key[-1] in (Ellipsis, slice(None))
        if None in key or not takes_all_channels:
            raise Unprunable(f"it takes a part of the channels: {key}")
        return channels[0]


@register_rule(ops.pad)
class PadRule(Rule):
    """Padding the channel axis makes constant channels: they have numbers too."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        before, after = _channel_padding(call)
        if (before or after) and call.operation.mode != "constant":
            raise Unprunable(f"it pads the channels with mode={call.operation.mode}")
        first = space.fresh(before)
        last = space.fresh(after)
        return np.concatenate([first, channels[0], last])

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        before, after = _channel_padding(call)
        kept_before = int(kept_out[:before].sum())
        first_after = len(kept_out) - after
        kept_after = int(kept_out[first_after:].sum())
        *others, _ = call.operation.pad_width
        pad_width = [tuple(padding) for padding in others]
        pad_width.append((kept_before, kept_after))
        return {"pad_width": tuple(pad_width)}


def _channel_padding(call: Call) -> tuple[int, int]:
    """Returns the number of channels that padding adds at both ends."""
    padding = call.operation.pad_width
    if len(padding) != len(call.inputs[0].shape):
        raise Unprunable("it pads every axis, the batch's too")
    before, after = padding[-1]
    return before, after
