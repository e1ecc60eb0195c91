"""A consumer's input as rows of features, its kernel as a matrix.

A consumer's output at one position is `row @ matrix + bias`. For a k x k
convolution a row is a patch; a Dense layer behind a Flatten reads each position's
channels with a part of its kernel of its own (`folds` positions), so that its
rows stay as short as there are channels.
"""

import math

import numpy as np
from keras import ops

from keras_greedy.graph.channels import Call
from keras_greedy.graph.clone import full_weights


class Consumer:
    """The input of one consumer, and what the consumer makes of it.

    Args:
        call: The consumer.
        channels: `(C,)` channel numbers of its input.

    Attributes:
        call: The consumer.
        features: `(F,)` channel number of each feature of a row.
        folds: Positions a row stands for; 1 unless behind a Flatten.
        weight_name: The weight that `matrix` is.
        taps: How many features of a row one entry of what `contributions` takes
            makes.
        has_contributions: Whether `contributions` can be computed.
        reconstructs: Whether its weights can make up for channels that are gone.
    """

    weight_name = "kernel"
    folds = taps = 1
    has_contributions = reconstructs = True

    def __init__(self, call: Call, channels: np.ndarray):
        self.call, self.features = call, channels

    def features_of(self, channels: np.ndarray) -> np.ndarray:
        """Indices of the features of these channels, channel by channel."""
        position = {channel: i for i, channel in enumerate(channels)}
        rank = np.array([position.get(channel, -1) for channel in self.features])
        ordered = np.argsort(rank, kind="stable")
        return ordered[np.count_nonzero(rank < 0) :]

    def matrix(self) -> np.ndarray:
        """The kernel as `(F, folds * outputs)`, float64."""
        kernel = full_weights(self.call.operation)[self.weight_name]
        return self.to_matrix(kernel.astype(float))

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """A kernel as `(F, folds * outputs)`."""
        return kernel.reshape(len(self.features), -1)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `to_matrix`: an array of the kernel's shape."""
        return matrix.reshape(self.call.weights[self.weight_name].shape)

    def bias(self) -> np.ndarray:
        """The bias, `(outputs,)`, zeros where the layer has none."""
        weights = full_weights(self.call.operation)
        return weights.get("bias", np.zeros(self._outputs)).astype(float)

    def rows(self, x, positions):
        """Features of the sampled positions of a batch, `(n, folds, F)`."""
        flat = ops.reshape(x, (-1, math.prod(x.shape[1:-1]), x.shape[-1]))
        sampled = ops.take(flat, positions, axis=1)
        return ops.reshape(sampled, (-1, 1, x.shape[-1]))

    def positions(self, rng: np.random.Generator, limit: int) -> np.ndarray:
        """Which of the output positions to sample, `(P,)`."""
        return sample(self.call.outputs[0], rng, limit)

    def usable(self, count: int, mean: np.ndarray, scatter: np.ndarray):
        """What of the rows' mean and centred scatter the consumer can make use of.

        Args:
            count: Number of rows.
            mean: `(folds, F)`.
            scatter: `(F, F)`.

        Returns:
            `(mean, scatter)`, with zeros for features no output reads together.
        """
        return mean, scatter

    def gate(self, scales):
        """What the channels can be multiplied by, given what they should be."""
        return scales

    def linear(self, x, kernel):
        """What the consumer computes of its input before bias and activation."""
        return ops.matmul(x, kernel)

    def activate(self, linear):
        """What the consumer makes of `linear`, bias added."""
        return self.call.operation.activation(linear)

    def apply(self, x, kernel, bias):
        """The consumer's output with another kernel and bias."""
        return self.activate(self.linear(x, kernel) + bias)

    def contributions(self, x, kernel, at):
        """What single channels add to the linear output, `(K, n, ..., outputs)`.

        Args:
            x: `(n, ...)` the consumer's input.
            kernel: Of the consumer.
            at: `(K,)` the first feature of each channel's entry of the last axis.
        """
        raise NotImplementedError

    @property
    def _outputs(self) -> int:
        return self.call.outputs[0].shape[-1]


class DenseConsumer(Consumer):
    """A Dense layer on a map: every position is a row."""

    def contributions(self, x, kernel, at):
        return outer(ops.take(x, at, axis=-1), ops.take(kernel, at, axis=0))


class FlattenedConsumer(Consumer):
    """A Dense layer on vectors, which a Flatten may have made of a map."""

    def __init__(self, call, channels):
        self.folds = _period(channels)
        super().__init__(call, channels[: len(channels) // self.folds])

    def to_matrix(self, kernel):
        by_fold = kernel.reshape(self.folds, len(self.features), -1)
        return by_fold.swapaxes(0, 1).reshape(len(self.features), -1)

    def kernel(self, matrix):
        by_fold = matrix.reshape(len(self.features), self.folds, self._outputs)
        return super().kernel(by_fold.swapaxes(0, 1))

    def rows(self, x, positions):
        return ops.reshape(x, (-1, self.folds, len(self.features)))

    def contributions(self, x, kernel, at):
        x = ops.reshape(x, (-1, self.folds, len(self.features)))
        kernel = ops.reshape(kernel, (self.folds, len(self.features), -1))
        own, weights = ops.take(x, at, axis=2), ops.take(kernel, at, axis=1)
        return ops.einsum("npk,pko->kno", own, weights)


def outer(own, weights):
    """`(n, ..., K)` and `(K, outputs)` -> `(K, n, ..., outputs)`."""
    own = ops.expand_dims(ops.moveaxis(own, -1, 0), -1)
    shape = (weights.shape[0], *[1] * (len(own.shape) - 2), weights.shape[1])
    return own * ops.reshape(weights, shape)


def sample(tensor, rng: np.random.Generator, limit: int) -> np.ndarray:
    """At most `limit` of a tensor's positions, as numbers in increasing order."""
    positions = math.prod(tensor.shape[1:-1])
    if positions <= limit:
        return np.arange(positions)
    return np.sort(rng.choice(positions, limit, replace=False))


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
