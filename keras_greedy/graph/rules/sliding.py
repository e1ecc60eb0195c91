"""Rules of convolutions that take an axis of channels for positions."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import Rule, Tensor, pin_axes
from keras_greedy.graph.space import ByAxis, ChannelSpace


class SlidingRule(Rule):
    """A convolution along the channels, as ECA has: each reads its neighbours.

    Those that are cut count as zeros. So the kernel still slides over the places of all
    channels, of which the kept ones are filled in before, and taken out behind.

    A cut that does not concern such channels finds a convolution like any other.

    Args:
        plain: The rule of the convolution where no channels are on the axes of its
            positions.
    """

    def __init__(self, plain: Rule):
        self._plain = plain
        self.produces = plain.produces
        self.consumes = plain.consumes
        self.width = plain.width
        self.weight_axes = plain.weight_axes

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        (read,) = channels
        free = [axis for axis in read if axis != -1 and not space.is_whole(read[axis])]
        if not free:
            return self._plain.carry_axes(call, channels, space)
        *others, along = free
        pin_axes(call, channels, others, space)
        self._slide(along)
        # Its input is one channel, and so is its output.
        space.pin(read[-1], None, "it is the only one")
        return [{along: read[along], -1: space.fixed(1)}]

    def _slide(self, axis: int) -> None:
        """Becomes the rule of channels on an axis, counted from the end."""
        self.produces = False
        self.consumes = False
        self.normalizes = True
        self.read_axis = axis
        self.width = None
        self.weight_axes = dict.fromkeys(self.weight_axes, ())

    def is_cut(self, call: Call) -> bool:
        return self.consumes

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        mask = self._kept(call, kept)
        if mask.all():
            return args
        left = int(mask.sum())
        # The entry behind those that are left is 0, and stands for all others.
        places = np.where(mask, np.cumsum(mask) - 1, left)
        padding = [[0, 0] for _ in call.inputs[0].shape]
        padding[self.read_axis][1] = 1
        padded = ops.pad(args[0], padding)
        filled = ops.take(padded, places.tolist(), axis=self.read_axis)
        return (filled, *args[1:])

    def left(
        self,
        call: Call,
        made: Any,
        kept: Kept,
    ) -> Any:
        mask = self._kept(call, kept)
        if mask.all():
            return made
        return ops.take(made, np.flatnonzero(mask).tolist(), axis=self.read_axis)

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        return layer(x * mask)

    def _kept(self, call: Call, kept: Kept) -> np.ndarray:
        """Returns the mask of the channels kept; all where none are slid over."""
        return kept(call.inputs[0], self.read_axis) if self.normalizes else np.ones(1)


def can_slide(call: Call) -> bool:
    """Returns whether a convolution makes as many positions of one channel each."""
    layer = call.operation
    is_last = layer.data_format == "channels_last"
    is_one = layer.filters == 1 and call.inputs[0].shape[-1] == 1
    return is_last and is_one and call.inputs[0].shape[1:] == call.outputs[0].shape[1:]
