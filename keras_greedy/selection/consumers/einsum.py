"""A layer of an Einstein sum as a Dense layer: a matrix at each position."""

import math
from typing import Any

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.contraction import EinsumDenseRule
from keras_greedy.selection.consumers.base import Consumer, sample_of


class EinsumConsumer(Consumer):
    """An EinsumDense that reads the last axes of its input and makes the last ones.

    A row is what it reads at one position: of several axes, as heads and what belongs
    to a head, the entries one behind the other. The outputs are in one row, too.
    """

    def __init__(self, call: Call, channels: np.ndarray):
        rule = call.rule
        assert isinstance(rule, EinsumDenseRule), "it is of an EinsumDense"
        self._read = rule.read
        self._made = rule.made
        self._kernel_letters = rule.kernel
        (read,) = call.inputs
        (made,) = call.outputs
        self._sizes_read = tuple(read.shape[-len(self._read) :])
        self._sizes_made = tuple(made.shape[-len(self._made) :])
        self._positions = tuple(read.shape[1 : -len(self._read)])
        of_channel = math.prod(self._sizes_read[1:])
        super().__init__(call, np.repeat(channels, of_channel))

    @property
    def has_contributions(self) -> bool:
        return False

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        order = [self._kernel_letters.index(own) for own in self._read + self._made]
        return kernel.transpose(order).reshape(len(self.features), -1)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        in_order = self._read + self._made
        whole = matrix.reshape(self._sizes_read + self._sizes_made)
        return whole.transpose([in_order.index(own) for own in self._kernel_letters])

    def bias(self) -> np.ndarray:
        bias = self.call.weights.get("bias")
        if bias is None:
            return np.zeros(self._outputs)
        return ops.convert_to_numpy(bias).astype(float).ravel()

    @property
    def needs_bias(self) -> bool:
        return "bias" not in self.call.weights

    def weights(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
    ) -> dict[str, np.ndarray]:
        return {"kernel": kernel, "bias": bias.reshape(self._sizes_made)}

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        return super().rows(self._in_one_row(x), positions)

    def positions(
        self,
        rng: np.random.Generator,
        limit: int,
    ) -> np.ndarray:
        return sample_of(math.prod(self._positions), rng, limit)

    def counted(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor,
    ) -> Tensor | None:
        return super().counted(self._in_one_row(x), mask, positions)

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        x = ops.cast(x, kernel.dtype)
        linear = ops.einsum(self.call.operation.equation, x, kernel)
        return ops.reshape(linear, (-1, *self._positions_of(x), self._outputs))

    def activate(self, linear: Tensor, *others: Any, **kwargs: Any) -> Any:
        shape = (-1, *linear.shape[1:-1], *self._sizes_made)
        return self.call.operation.activation(ops.reshape(linear, shape))

    def _in_one_row(self, x: Tensor) -> Tensor:
        """Returns `(n, positions..., F)` of the input."""
        return ops.reshape(x, (-1, *self._positions_of(x), len(self.features)))

    def _positions_of(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape[1 : -len(self._read)])

    @property
    def _outputs(self) -> int:
        return math.prod(self._sizes_made)
