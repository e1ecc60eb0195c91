"""Convolutions of any rank: their rows are patches of the padded input."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call
from keras_greedy.selection.consumers.base import Consumer, outer

DEPTHWISE_RANKS = (1, 2)
"""The ranks for which `keras.ops.depthwise_conv` exists."""


class ConvolutionConsumer(Consumer):
    """A consumer that is a convolution, and the geometry of it."""

    @property
    def layer(self) -> keras.Layer:
        """The layer, of `rank` axes."""
        return self.call.operation

    @property
    def input_size(self) -> Sequence[int]:
        """The lengths of the axes of the input that the layer convolves over."""
        return self.call.inputs[0].shape[1:-1]

    @property
    def output_size(self) -> Sequence[int]:
        """The lengths of the same axes of the output."""
        return self.call.outputs[0].shape[1:-1]

    def _arguments(self) -> dict[str, Any]:
        """Returns the arguments of `keras.ops` for the same convolution.

        The operations have no causal padding: it is a valid one of `_padded_if_causal`.
        """
        padding = self.layer.padding
        return {
            "strides": self.layer.strides,
            "padding": "valid" if padding == "causal" else padding,
            "data_format": "channels_last",
            "dilation_rate": self.layer.dilation_rate,
        }

    def _padding(self, axis: int) -> tuple[int, int]:
        """Returns the number of zeros before and behind one axis of the input."""
        reach = reach_of(self.layer, axis)
        if self.layer.padding == "valid":
            return 0, 0
        if self.layer.padding == "causal":
            return reach - 1, 0
        # "same": as many outputs as strides fit into the input, rounded up. Of an odd
        # number of zeros the one more comes behind.
        size = self.input_size[axis]
        stride = self.layer.strides[axis]
        outputs = -(-size // stride)
        read = (outputs - 1) * stride + reach
        total = max(0, read - size)
        before = total // 2
        return before, total - before

    def _padded_if_causal(self, x: Tensor) -> Tensor:
        if self.layer.padding != "causal":
            return x
        return padded(x, [self._padding(0)])


class ConvConsumer(ConvolutionConsumer):
    """A convolution: each output position reads a patch.

    The features of a row are the channels of the first tap, then those of the second,
    as in the kernel `(*kernel size, C, outputs)`, which is the matrix
    `(taps * C, outputs)` as it lies in memory.
    """

    def __init__(self, call: Call, channels: np.ndarray):
        self.taps = math.prod(call.operation.kernel_size)
        features = np.tile(channels, self.taps)
        super().__init__(call, features)

    @property
    def has_contributions(self) -> bool:
        if self.taps == 1:
            return True
        # Others are computed by a depthwise convolution, which has no unequal strides.
        layer = self.layer
        is_causal = layer.padding == "causal"
        has_equal_strides = len(set(layer.strides)) == 1
        has_depthwise = layer.rank in DEPTHWISE_RANKS
        return has_depthwise and has_equal_strides and not is_causal

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        padding = []
        for axis in range(self.layer.rank):
            padding.append(self._padding(axis))
        x = padded(x, padding)
        return self._patches(x, positions, self.layer.strides)

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        # A raw operation with constants of float64 makes float64.
        x = self._padded_if_causal(ops.cast(x, kernel.dtype))
        return ops.conv(x, kernel, **self._arguments())

    def contributions(
        self,
        x: Tensor,
        kernel: Tensor,
        at: Tensor,
    ) -> Tensor:
        filters = kernel.shape[-1]
        own = ops.take(x, at, axis=-1)
        weights = ops.take(kernel, at, axis=-2)
        if self.taps == 1:
            # Each output reads one position: those that the strides leave.
            index = [slice(None)]
            for stride in self.layer.strides:
                index.append(slice(None, None, stride))
            own = own[tuple(index)]
            weights = ops.reshape(weights, (-1, filters))
            return outer(own, weights)
        # A depthwise convolution keeps its channels apart: with the filters for a
        # depth multiplier it makes (n, ..., K * filters) of (n, ..., K).
        apart = ops.depthwise_conv(own, weights, **self._arguments())
        *positions, _ = ops.shape(apart)
        apart = ops.reshape(apart, (*positions, -1, filters))
        return ops.moveaxis(apart, -2, 0)

    def _patches(
        self,
        x: Tensor,
        positions: Tensor,
        strides: Sequence[int],
    ) -> Tensor:
        """Returns the `(n * P, 1, F)` patches of a padded input.

        They are gathered from the input with its positions in one row, so that no
        more than the sampled patches are made.

        Args:
            x: `(n, *size, C)`.
            positions: `(P,)` numbers of output positions.
            strides: Distance of the patches of neighbouring positions, per axis.
        """
        *size, channels = x.shape[1:]
        axes = range(self.layer.rank)
        # Distance of neighbours along each axis, once all positions are in one row.
        steps = [math.prod(size[axis + 1 :]) for axis in axes]

        # (P,): the first position of each patch. The coordinates of an output position
        # are the digits of its number, those of the last axis first.
        first: Tensor = 0
        rest = positions
        for axis in reversed(axes):
            length = self.output_size[axis]
            coordinate = rest % length
            first = first + coordinate * strides[axis] * steps[axis]
            rest = rest // length

        # (taps,): how far each tap is from the first one, in the kernel's own order.
        reach = np.multiply(self.layer.dilation_rate, steps)
        offsets = []
        for tap in itertools.product(*map(range, self.layer.kernel_size)):
            offset = np.dot(tap, reach)
            offsets.append(int(offset))

        # (P, taps) positions, all gathered at once: a patch after the other.
        first = ops.expand_dims(first, 1)
        # `ops.add`: what torch has on a GPU adds no NumPy array by itself.
        index = ops.reshape(ops.add(first, np.array(offsets)), (-1,))
        in_one_row = (-1, math.prod(size), channels)
        flat = ops.reshape(x, in_one_row)
        patches = ops.take(flat, index, axis=1)
        features = len(self.features)
        return ops.reshape(patches, (-1, 1, features))


class GroupedConvConsumer(ConvConsumer):
    """A grouped convolution: an output reads the channels of its own group.

    Its kernel, `(*kernel size, C / groups, outputs)`, has no entries for the channels
    of other groups. As a matrix it is a whole one with zeros there: for each tap,
    `(C, outputs)` with a block per group on the diagonal.
    """

    @property
    def has_contributions(self) -> bool:
        return False

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        groups = self.layer.groups
        inputs = kernel.shape[-2]
        blocks = kernel.reshape(self.taps, inputs, groups, -1)
        outputs = blocks.shape[-1]
        shape = (self.taps, groups, inputs, groups, outputs)
        whole = np.zeros(shape)
        # The two group indices are one: that picks the diagonal, and NumPy puts its
        # axis first, (groups, taps, inputs, outputs).
        own = np.arange(groups)
        whole[:, own, :, own] = blocks.transpose(2, 0, 1, 3)
        return whole.reshape(len(self.features), -1)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        groups = self.layer.groups
        channels = len(self.features) // self.taps
        inputs = channels // groups
        whole = matrix.reshape(self.taps, groups, inputs, groups, -1)
        own = np.arange(groups)
        blocks = whole[:, own, :, own]
        by_tap = blocks.transpose(1, 2, 0, 3)
        return super().kernel(by_tap)

    def usable(
        self,
        count: int,
        mean: np.ndarray,
        scatter: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        # Without a covariance between the groups, least squares gives no feature a
        # weight that the kernel has no entry for.
        features = len(self.features)
        channels = features // self.taps
        of_each_group = channels // self.layer.groups
        channel = np.arange(features) % channels
        group = channel // of_each_group
        is_same_group = group[:, None] == group
        return mean, np.where(is_same_group, scatter, 0.0)


class SeparableConvConsumer(ConvolutionConsumer):
    """A separable convolution: the rows are the input of its pointwise half.

    The depthwise half makes `depth_multiplier` features of each channel.
    """

    weight_name = "pointwise_kernel"

    def __init__(self, call: Call, channels: np.ndarray):
        features = np.repeat(channels, call.operation.depth_multiplier)
        super().__init__(call, features)

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().rows(self._depthwise(x), positions)

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        x = self._depthwise(x)
        return ops.conv(x, kernel, data_format="channels_last")

    def contributions(
        self,
        x: Tensor,
        kernel: Tensor,
        at: Tensor,
    ) -> Tensor:
        x = self._depthwise(x)
        own = ops.take(x, at, axis=-1)
        # The pointwise kernel is (1, ..., 1, F, outputs).
        features = len(self.features)
        kernel = ops.reshape(kernel, (features, -1))
        weights = ops.take(kernel, at, axis=0)
        return outer(own, weights)

    def _depthwise(self, x: Tensor) -> Tensor:
        kernel = self.layer.depthwise_kernel
        return ops.depthwise_conv(
            self._padded_if_causal(ops.cast(x, kernel.dtype)),
            kernel,
            **self._arguments(),
        )


def reach_of(layer: keras.Layer, axis: int) -> int:
    """Returns how many positions of an axis a dilated kernel extends over."""
    taps = layer.kernel_size[axis]
    return (taps - 1) * layer.dilation_rate[axis] + 1


def padded(x: Tensor, zeros: list[tuple[int, int]]) -> Tensor:
    """Returns `x` with zeros around.

    Args:
        x: `(n, *size, C)`.
        zeros: How many before and behind, for each axis between the two others.
    """
    nothing = (0, 0)
    return ops.pad(x, [nothing, *zeros, nothing])
