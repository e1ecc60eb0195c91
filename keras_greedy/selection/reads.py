"""What a consumer reads: its input as rows of features, its kernel as a matrix.

A consumer's output at one position is `row @ matrix + bias`. For a k x k
convolution a row is a patch; a Dense layer behind a Flatten reads each position's
channels with a part of its kernel of its own (`folds` positions), so that its
rows stay as short as there are channels.
"""

import dataclasses
import math

import numpy as np
from keras import layers, ops

from keras_greedy.graph.rebuild import full_weights
from keras_greedy.graph.trace import Call, ChannelGraph


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """The input of one consumer.

    Attributes:
        call: The consumer.
        features: `(F,)` channel number of each feature of a row.
        folds: Positions a row stands for; 1 unless behind a Flatten.
    """

    call: Call
    features: np.ndarray
    folds: int = 1

    @property
    def taps(self) -> int:
        """How many features of a row one entry of the input's last axis makes."""
        return 1

    @property
    def has_contributions(self) -> bool:
        """Whether `contributions` can be computed apart from each other."""
        return True

    def features_of(self, channels: np.ndarray) -> np.ndarray:
        """Indices of the features of these channels, channel by channel."""
        position = {channel: i for i, channel in enumerate(channels)}
        rank = np.array([position.get(channel, -1) for channel in self.features])
        ordered = np.argsort(rank, kind="stable")
        return ordered[np.count_nonzero(rank < 0) :]

    def matrix(self) -> np.ndarray:
        """The kernel as `(F, folds * outputs)`, float64."""
        kernel = full_weights(self.call.operation)["kernel"].astype(float)
        return self._to_rows_first(kernel)

    def bias(self) -> np.ndarray:
        """The bias, `(outputs,)`, zeros where the layer has none."""
        weights = full_weights(self.call.operation)
        return weights.get("bias", np.zeros(weights["kernel"].shape[-1])).astype(float)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`: an array of the kernel's shape."""
        outputs = matrix.shape[1] // self.folds
        by_fold = matrix.reshape(len(self.features), self.folds, outputs)
        return by_fold.swapaxes(0, 1).reshape(self.call.operation.kernel.shape)

    def rows(self, x, positions):
        """Features of the sampled positions of a batch, `(n, folds, F)`."""
        return ops.reshape(x, (-1, self.folds, len(self.features)))

    def positions(self, rng: np.random.Generator, limit: int) -> np.ndarray:
        """Which of the output positions to sample, `(P,)`."""
        return np.zeros(1, int)

    def apply(self, x, kernel, bias):
        """The consumer's output with another kernel and bias."""
        return self.call.operation.activation(self.linear(x, kernel) + bias)

    def linear(self, x, kernel):
        """What the consumer computes of its input before bias and activation."""
        return ops.matmul(x, kernel)

    def contributions(self, x, kernel, at):
        """What single channels add to the linear output, `(K, n, ..., outputs)`.

        Args:
            x: `(n, ...)` the consumer's input.
            kernel: Of the consumer.
            at: `(K,)` the first feature of each channel's entry of the last axis.
        """
        x = ops.reshape(x, (-1, self.folds, len(self.features)))
        kernel = ops.reshape(kernel, (self.folds, len(self.features), -1))
        own, weights = ops.take(x, at, axis=2), ops.take(kernel, at, axis=1)
        return ops.einsum("npk,pko->kno", own, weights)

    def _to_rows_first(self, kernel):
        by_fold = kernel.reshape(self.folds, len(self.features), -1)
        return by_fold.swapaxes(0, 1).reshape(len(self.features), -1)


class SampledDenseRead(Read):
    """A Dense layer on a map: every position is a row."""

    def rows(self, x, positions):
        flat = ops.reshape(x, (-1, math.prod(x.shape[1:-1]), x.shape[-1]))
        sampled = ops.take(flat, positions, axis=1)
        return ops.reshape(sampled, (-1, 1, x.shape[-1]))

    def positions(self, rng, limit):
        return _sample(math.prod(self.call.inputs[0].shape[1:-1]), rng, limit)

    def contributions(self, x, kernel, at):
        return _outer(ops.take(x, at, axis=-1), ops.take(kernel, at, axis=0))


class ConvRead(Read):
    """A convolution: rows are patches of the padded input."""

    def rows(self, x, positions):
        layer = self.call.operation
        (kh, kw), channels = layer.kernel_size, x.shape[-1]
        x = ops.pad(x, self._padding(x.shape[1:3]))
        height, width = x.shape[1:3]
        out_width = self.call.outputs[0].shape[2]
        top = positions // out_width * layer.strides[0]
        left = positions % out_width * layer.strides[1]
        offsets = [
            i * layer.dilation_rate[0] * width + j * layer.dilation_rate[1]
            for i in range(kh)
            for j in range(kw)
        ]
        index = ops.add(ops.expand_dims(top * width + left, 1), np.array(offsets))
        flat = ops.reshape(x, (-1, height * width, channels))
        patches = ops.take(flat, ops.reshape(index, (-1,)), axis=1)
        return ops.reshape(patches, (-1, 1, kh * kw * channels))

    def positions(self, rng, limit):
        return _sample(math.prod(self.call.outputs[0].shape[1:-1]), rng, limit)

    @property
    def taps(self):
        return math.prod(self.call.operation.kernel_size)

    @property
    def has_contributions(self):
        layer = self.call.operation
        # A depthwise convolution has no unequal strides.
        return layer.kernel_size == (1, 1) or len(set(layer.strides)) == 1

    def linear(self, x, kernel):
        return ops.conv(x, kernel, **self._geometry())

    def contributions(self, x, kernel, at):
        layer = self.call.operation
        own, weights = ops.take(x, at, axis=-1), ops.take(kernel, at, axis=2)
        if layer.kernel_size == (1, 1):
            own = own[:, :: layer.strides[0], :: layer.strides[1]]
            return _outer(own, weights[0, 0])
        apart = ops.depthwise_conv(own, weights, **self._geometry())
        outputs = layer.filters
        apart = ops.reshape(apart, (*ops.shape(apart)[:-1], -1, outputs))
        return ops.moveaxis(apart, -2, 0)

    def _geometry(self):
        layer = self.call.operation
        return {
            "strides": layer.strides,
            "padding": layer.padding,
            "data_format": "channels_last",
            "dilation_rate": layer.dilation_rate,
        }

    def _padding(self, size):
        layer = self.call.operation
        padding = [(0, 0), *map(self._axis_padding, size, (0, 1)), (0, 0)]
        return padding if layer.padding == "same" else [(0, 0)] * 4

    def _axis_padding(self, size, axis):
        layer = self.call.operation
        reach = (layer.kernel_size[axis] - 1) * layer.dilation_rate[axis] + 1
        steps = -(-size // layer.strides[axis])
        total = max(0, (steps - 1) * layer.strides[axis] + reach - size)
        return total // 2, total - total // 2


def reads_of(graph: ChannelGraph) -> dict[str, Read]:
    """Name -> `Read`, for every consumer of a group, in topological order."""
    calls = {c.index: c for group in graph.groups for c in group.consumers}
    return {
        calls[i].name: read_of(calls[i], graph.channels_of(calls[i].inputs[0]))
        for i in sorted(calls)
    }


def read_of(call: Call, channels: np.ndarray) -> Read:
    """The `Read` of a consumer whose input carries these channel numbers."""
    layer = call.operation
    if isinstance(layer, layers.Conv2D):
        return ConvRead(call, np.tile(channels, math.prod(layer.kernel_size)))
    if len(call.inputs[0].shape) > 2:
        return SampledDenseRead(call, channels)
    folds = _period(channels)
    return Read(call, channels[: len(channels) // folds], folds)


def _period(channels: np.ndarray) -> int:
    """How often a Flatten has repeated the channel axis."""
    length = len(channels)
    again = np.flatnonzero(channels == channels[0])
    for start in again[1:]:
        if (
            length % start == 0
            and (channels == np.tile(channels[:start], length // start)).all()
        ):
            return length // start
    return 1


def _outer(own, weights):
    """`(n, ..., K)` and `(K, outputs)` -> `(K, n, ..., outputs)`."""
    own = ops.expand_dims(ops.moveaxis(own, -1, 0), -1)
    shape = (weights.shape[0], *[1] * (len(own.shape) - 2), weights.shape[1])
    return own * ops.reshape(weights, shape)


def _sample(positions: int, rng, limit: int) -> np.ndarray:
    if positions <= limit:
        return np.arange(positions)
    return np.sort(rng.choice(positions, limit, replace=False))
