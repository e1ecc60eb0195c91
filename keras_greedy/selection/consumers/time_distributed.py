"""Layers that are called at each step of a sequence."""

from typing import Any

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.wrappers import (
    batch_as_steps,
    names_outside,
    steps_as_batch,
)
from keras_greedy.selection.consumers.base import Consumer


class TimeDistributedConsumer(Consumer):
    """A layer that is called at each step: the rows are those of all steps.

    Args:
        call: The call of the TimeDistributed layer.
        of_step: The `Consumer` that is called at a step.
    """

    def __init__(self, call: Call, of_step: Consumer):
        super().__init__(call, of_step.features)
        self._of_step = of_step
        self.weight_name = of_step.weight_name
        self.folds = of_step.folds
        self.taps = of_step.taps
        self.reconstructs = of_step.reconstructs

    @property
    def has_contributions(self) -> bool:
        return self._of_step.has_contributions

    @property
    def needs_bias(self) -> bool:
        return self._of_step.needs_bias

    def matrix(self) -> np.ndarray:
        return self._of_step.matrix()

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        return self._of_step.to_matrix(kernel)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        return self._of_step.kernel(matrix)

    def bias(self) -> np.ndarray:
        return self._of_step.bias()

    def weights(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
    ) -> dict[str, np.ndarray]:
        names = names_outside(self.call.operation)
        new = {}
        for name, array in self._of_step.weights(kernel, bias).items():
            new[names.get(name, name)] = array
        return new

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        return self._of_step.rows(steps_as_batch(x), positions)

    def positions(
        self,
        rng: np.random.Generator,
        limit: int,
    ) -> np.ndarray:
        return self._of_step.positions(rng, limit)

    def counted(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor,
    ) -> None:
        return None

    def usable(
        self,
        count: int,
        mean: np.ndarray,
        scatter: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._of_step.usable(count, mean, scatter)

    def gate(self, scales: Tensor) -> Tensor:
        return self._of_step.gate(scales)

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        made = self._of_step.linear(steps_as_batch(x), kernel)
        return batch_as_steps(made, x)

    def activate(self, linear: Tensor, *others: Any, **kwargs: Any) -> Tensor:
        made = self._of_step.activate(steps_as_batch(linear))
        return batch_as_steps(made, linear)

    def contributions(
        self,
        x: Tensor,
        kernel: Tensor,
        at: Tensor,
    ) -> Tensor:
        # (K, n * steps, ...)
        apart = self._of_step.contributions(steps_as_batch(x), kernel, at)
        channels, _, *others = ops.shape(apart)
        return ops.reshape(apart, (channels, -1, ops.shape(x)[1], *others))
