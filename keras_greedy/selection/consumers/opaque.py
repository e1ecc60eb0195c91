"""A consumer about which nothing is known but that it reads all channels."""

from typing import Any

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.selection.consumers.base import Consumer, sample


class OpaqueConsumer(Consumer):
    """A layer of the user's own: it has to take the channels as they come.

    Nothing makes up for a lost channel, so each counts by its own energy. The matrix
    is the identity, and the kernel is the mask of the channels: `linear` is the input
    with the lost channels set to 0, and `activate` the layer.
    """

    reconstructs = False

    @property
    def has_contributions(self) -> bool:
        return False

    def matrix(self) -> np.ndarray:
        return np.eye(len(self.features))

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        return (np.diagonal(matrix) != 0).astype(float)

    def bias(self) -> np.ndarray:
        return np.zeros(len(self.features))

    def positions(
        self,
        rng: np.random.Generator,
        limit: int,
    ) -> np.ndarray:
        # The layer may make any number of positions: those of its input are sampled.
        return sample(self.call.inputs[0], rng, limit)

    def usable(
        self,
        count: int,
        mean: np.ndarray,
        scatter: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        # E x^2 per channel: no bias takes the mean, and no channel stands for another.
        energy = np.diag(scatter) + count * mean[0] ** 2
        return np.zeros_like(mean), np.diag(energy)

    def gate(self, scales: Tensor) -> Tensor:
        # A layer that is not linear may not undo a scale: channels are there or not.
        return ops.cast(scales != 0, scales.dtype)

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.cast(x, kernel.dtype) * kernel

    def activate(self, linear: Tensor, *others: Any, **kwargs: Any) -> Any:
        dtype = self.call.inputs[0].dtype
        if "float" not in dtype:
            linear = ops.cast(linear, dtype)
        return self.call.compute(*self.call.in_place(linear, others), **kwargs)
