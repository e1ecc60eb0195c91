"""What a consumer reads of which no more is known than that it reads all channels."""

import numpy as np
from keras import ops

from keras_greedy.selection.consumers.base import Consumer, sample


class OpaqueConsumer(Consumer):
    """A layer of the user's own: it has to take the channels as they come.

    Nothing makes up for a channel that is gone, so each counts by its own energy.
    `linear` is the input with the channels that are gone set to 0.
    """

    has_contributions = reconstructs = False

    def matrix(self):
        return np.eye(len(self.features))

    def kernel(self, matrix):
        return (np.diagonal(matrix) != 0).astype(float)

    def bias(self):
        return np.zeros(len(self.features))

    def positions(self, rng, limit):
        return sample(self.call.inputs[0], rng, limit)

    def usable(self, count, mean, scatter):
        energy = np.diag(scatter) + count * mean[0] ** 2
        return np.zeros_like(mean), np.diag(energy)

    def gate(self, scales):
        return ops.cast(scales != 0, scales.dtype)

    def linear(self, x, kernel):
        return x * kernel

    def activate(self, linear):
        return self.call.operation(linear, **self.call.kwargs)
