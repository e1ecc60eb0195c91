"""A consumer as a function of the scales of one group's channels."""

import copy

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, float32
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.moments import Scatter
from keras_greedy.selection.moments.mixture import gram


class MixedConsumer:
    """A consumer as an affine function of the scales of the group's N channels.

    Args:
        consumer: The consumer, of F features and O outputs.
        graph: The traced model.
        group: The group whose channels are scaled.
        scatter: Moments of the consumer's rows.

    Attributes:
        is_read: `(N,)` mask of the channels that have a weight that is not 0.
    """

    def __init__(
        self,
        consumer: Consumer,
        graph: ChannelGraph,
        group: ChannelGroup,
        scatter: Scatter,
    ):
        self._consumer = consumer
        self._scatter = scatter
        matrix = consumer.matrix()
        # `(N, F / N)`: the features that each channel of the group owns.
        self._features = consumer.features_of(group.channels).reshape(group.size, -1)
        # Their entries on the last axis of the input, without the kernel's taps.
        per_tap = self._features.shape[1] // consumer.taps
        self._entries = self._features[:, :per_tap]
        own = matrix[self._features].reshape(group.size, -1)
        self.is_read: np.ndarray = own.any(axis=1)
        self._kernel = float32(consumer.kernel(matrix))
        self._bias = float32(consumer.bias())
        # `(N, O)`: the mean of what each channel adds to the output. A mixture gives
        # it back to the bias for what it takes away.
        by_fold = matrix.reshape(len(matrix), consumer.folds, -1)
        means = np.einsum("pf,fpo->fo", scatter.mean, by_fold)
        self._means = float32(means[self._features].sum(axis=1))
        self._places = places_of(graph, group, consumer.call)
        rule = consumer.call.rule
        self._axis = rule.read_axis if rule else -1
        self.activate = consumer.activate

    def pushed_through(self, kernel: np.ndarray) -> "MixedConsumer":
        """Returns the consumer whose `contributions` are those behind another layer.

        Args:
            kernel: `(O, P)` of that layer, which reads each position alone.
        """
        pushed = copy.copy(self)
        pushed._kernel = ops.matmul(self._kernel, float32(kernel))
        pushed._means = ops.matmul(self._means, float32(kernel))
        return pushed

    def gram(self) -> np.ndarray:
        """Returns the `(N, N)` Gram matrix of the channels' contributions."""
        own = self._features.ravel()
        covariance = self._scatter.covariance()[np.ix_(own, own)]
        kernel = self._consumer.matrix()[own]
        return gram(covariance, kernel, len(self._features))

    def linear(self, x: Tensor, scale: Tensor) -> Tensor:
        """Returns the output before the activation, for `(1 or n, N)` scales."""
        gate = self._consumer.gate(gate_of(scale, self._places, x))
        gate = spread(gate, x, self._axis)
        linear = self._consumer.linear(single(x) * gate, self._kernel)
        shift = ops.matmul(1 - _for_rows(scale, x), self._means)
        return linear + self._bias + spread(shift, linear)

    def contributions(self, x: Tensor, channels: Tensor) -> Tensor:
        """Returns `(K, n, ..., O)` the output of single channels, less its mean."""
        x = single(x)
        apart = sum(
            self._consumer.contributions(x, self._kernel, ops.take(entry, channels))
            for entry in self._entries.T
        )
        means = ops.take(self._means, channels, axis=0)
        # `(K, O)`, with axes of length 1 for the examples and positions.
        ones = [1] * (len(apart.shape) - 2)
        outputs = means.shape[-1]
        return apart - ops.reshape(means, (-1, *ones, outputs))


def places_of(graph: ChannelGraph, group: ChannelGroup, call: Call) -> np.ndarray:
    """Returns the `(C,)` place in the group of each channel a call reads.

    That of other groups' channels is N, behind the last.
    """
    place = {channel: i for i, channel in enumerate(group.channels)}
    channels = graph.channels_read(call).ravel()
    places = [place.get(channel, group.size) for channel in channels]
    return np.array(places)


def gate_of(scale: Tensor, places: np.ndarray, x: Tensor) -> Tensor:
    """Returns the `(n, C)` factor of each channel of `x`, 1 for other groups'."""
    scale = _for_rows(scale, x)
    others = ops.ones((ops.shape(scale)[0], 1))
    with_others = ops.concatenate([scale, others], axis=1)
    return ops.take(with_others, places, axis=1)


def spread(per_example: Tensor, x: Tensor, axis: int = -1) -> Tensor:
    """Returns `(n, C)` with axes of length 1 for the others of `x`.

    Args:
        per_example: The values.
        x: What they go with.
        axis: That of its channels, counted from the end.
    """
    before = [1] * (len(x.shape) + axis - 1)
    behind = [1] * (-1 - axis)
    channels = per_example.shape[-1]
    return ops.reshape(per_example, (-1, *before, channels, *behind))


def single(x: Tensor) -> Tensor:
    """Returns a tensor in the precision of the kernels, as a layer takes its input."""
    return ops.cast(x, "float32")


def _for_rows(scale: Tensor, x: Tensor) -> Tensor:
    """Returns the scales for each row of `x`: a reshape may make several of one."""
    rows = ops.shape(x)[0]
    examples = ops.shape(scale)[0]
    return ops.repeat(scale, rows // examples, axis=0)
