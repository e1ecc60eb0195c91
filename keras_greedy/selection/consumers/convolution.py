"""What convolutions of any rank read: patches of their padded input."""

import itertools
import math

import numpy as np
from keras import ops

from keras_greedy.selection.consumers.base import Consumer, outer


class ConvConsumer(Consumer):
    """A convolution: each output position reads a patch."""

    def __init__(self, call, channels):
        self.taps = math.prod(call.operation.kernel_size)
        super().__init__(call, np.tile(channels, self.taps))

    def rows(self, x, positions):
        layer = self.call.operation
        x = ops.pad(x, [(0, 0), *map(self._padding, range(layer.rank)), (0, 0)])
        return self._patches(x, positions, layer.strides)

    @property
    def has_contributions(self):
        layer = self.call.operation
        # A depthwise convolution has no unequal strides.
        return self.taps == 1 or (
            layer.rank < 3
            and len(set(layer.strides)) == 1
            and layer.padding != "causal"
        )

    def linear(self, x, kernel):
        if self.call.operation.padding == "causal":
            x = ops.pad(x, [(0, 0), self._padding(0), (0, 0)])
        return ops.conv(x, kernel, **self._geometry())

    def contributions(self, x, kernel, at):
        layer = self.call.operation
        own, weights = ops.take(x, at, axis=-1), ops.take(kernel, at, axis=-2)
        if self.taps == 1:
            steps = (slice(None, None, step) for step in layer.strides)
            weights = ops.reshape(weights, (-1, layer.filters))
            return outer(own[(slice(None), *steps)], weights)
        apart = ops.depthwise_conv(own, weights, **self._geometry())
        apart = ops.reshape(apart, (*ops.shape(apart)[:-1], -1, layer.filters))
        return ops.moveaxis(apart, -2, 0)

    def _patches(self, x, positions, strides):
        """`(n * P, 1, F)` patches of a padded input at some output positions."""
        layer, (*size, channels) = self.call.operation, x.shape[1:]
        steps = [math.prod(size[axis + 1 :]) for axis in range(layer.rank)]
        first, rest = 0, positions
        for axis in reversed(range(layer.rank)):
            length = self.call.outputs[0].shape[1 + axis]
            first = first + rest % length * strides[axis] * steps[axis]
            rest = rest // length
        reach = np.multiply(layer.dilation_rate, steps)
        offsets = [
            int(np.dot(tap, reach))
            for tap in itertools.product(*map(range, layer.kernel_size))
        ]
        index = ops.reshape(ops.expand_dims(first, 1) + np.array(offsets), (-1,))
        flat = ops.reshape(x, (-1, math.prod(size), channels))
        return ops.reshape(ops.take(flat, index, axis=1), (-1, 1, len(self.features)))

    def _geometry(self):
        layer = self.call.operation
        return {
            "strides": layer.strides,
            "padding": layer.padding if layer.padding != "causal" else "valid",
            "data_format": "channels_last",
            "dilation_rate": layer.dilation_rate,
        }

    def _padding(self, axis):
        layer = self.call.operation
        reach = _reach(layer, axis)
        if layer.padding == "valid":
            return 0, 0
        if layer.padding == "causal":
            return reach - 1, 0
        size = self.call.inputs[0].shape[1 + axis]
        steps = -(-size // layer.strides[axis])
        total = max(0, (steps - 1) * layer.strides[axis] + reach - size)
        return total // 2, total - total // 2


class GroupedConvConsumer(ConvConsumer):
    """A grouped convolution: an output reads the channels of its own group."""

    has_contributions = False

    def to_matrix(self, kernel):
        groups = self.call.operation.groups
        kernel = kernel.reshape(self.taps, kernel.shape[-2], groups, -1)
        taps, inputs, groups, outputs = kernel.shape
        whole = np.zeros((taps, groups, inputs, groups, outputs))
        own = np.arange(groups)
        whole[:, own, :, own] = kernel.transpose(2, 0, 1, 3)
        return whole.reshape(len(self.features), -1)

    def kernel(self, matrix):
        groups = self.call.operation.groups
        inputs = len(self.features) // self.taps // groups
        whole = matrix.reshape(self.taps, groups, inputs, groups, -1)
        own = np.arange(groups)
        return super().kernel(whole[:, own, :, own].transpose(1, 2, 0, 3))

    def usable(self, count, mean, scatter):
        channels = len(self.features) // self.taps
        group = np.arange(len(self.features)) % channels
        group //= channels // self.call.operation.groups
        return mean, np.where(group[:, None] == group, scatter, 0.0)


class SeparableConvConsumer(ConvConsumer):
    """A separable convolution: its pointwise half reads what the depthwise makes."""

    weight_name = "pointwise_kernel"
    has_contributions = True

    def __init__(self, call, channels):
        Consumer.__init__(
            self, call, np.repeat(channels, call.operation.depth_multiplier)
        )

    def rows(self, x, positions):
        return Consumer.rows(self, self._depthwise(x), positions)

    def linear(self, x, kernel):
        return ops.conv(self._depthwise(x), kernel, data_format="channels_last")

    def contributions(self, x, kernel, at):
        own = ops.take(self._depthwise(x), at, axis=-1)
        kernel = ops.reshape(kernel, (len(self.features), -1))
        return outer(own, ops.take(kernel, at, axis=0))

    def _depthwise(self, x):
        layer = self.call.operation
        if layer.padding == "causal":
            x = ops.pad(x, [(0, 0), self._padding(0), (0, 0)])
        return ops.depthwise_conv(x, layer.depthwise_kernel, **self._geometry())


class ConvTransposeConsumer(ConvConsumer):
    """A transposed convolution: one of stride 1 over the input with zeros between.

    Of output o, tap t reads the input at (o + before - t) / stride, where that is a
    whole number; `before` is the padding of the convolution it is the transpose of.
    """

    has_contributions = False

    def to_matrix(self, kernel):
        return self._flipped(kernel).swapaxes(-1, -2).reshape(len(self.features), -1)

    def kernel(self, matrix):
        shape = self.call.weights["kernel"].shape
        by_tap = matrix.reshape(*shape[:-2], shape[-1], shape[-2])
        return self._flipped(by_tap.swapaxes(-1, -2))

    def rows(self, x, positions):
        rank = self.call.operation.rank
        for axis in range(rank):
            x = self._spread(x, axis)
        return self._patches(x, positions, (1,) * rank)

    def linear(self, x, kernel):
        layer = self.call.operation
        return ops.conv_transpose(
            x, kernel, output_padding=layer.output_padding, **self._geometry()
        )

    def _spread(self, x, axis):
        """Zeros between the entries of one axis, and as many around as are read."""
        layer, size = self.call.operation, x.shape[1 + axis]
        stride, reach = layer.strides[axis], _reach(layer, axis)
        length = self.call.outputs[0].shape[1 + axis]
        x = ops.expand_dims(x, 2 + axis)
        zeros = [(0, 0)] * len(x.shape)
        zeros[2 + axis] = (0, stride - 1)
        x = ops.pad(x, zeros)
        shape = list(ops.shape(x))
        shape[1 + axis : 3 + axis] = [size * stride]
        x = ops.reshape(x, shape)
        left = reach - 1 - self._cropped(axis, size, length)
        right = length + reach - 1 - left - size * stride
        x = x[(*[slice(None)] * (1 + axis), slice(0, size * stride + min(right, 0)))]
        around = [(0, 0)] * len(x.shape)
        around[1 + axis] = (left, max(right, 0))
        return ops.pad(x, around)

    def _cropped(self, axis, size, length):
        """How much of the left end of the whole output is not returned."""
        layer = self.call.operation
        if layer.padding == "valid":
            return 0
        whole = (size - 1) * layer.strides[axis] + _reach(layer, axis)
        return max(0, whole - length) // 2

    def _flipped(self, kernel):
        return np.flip(kernel, axis=tuple(range(self.call.operation.rank)))


def _reach(layer, axis):
    return (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis] + 1
