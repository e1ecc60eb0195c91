"""Recurrent layers: at each step they add a product of their input to one of units.

The input's part does not depend on the steps before. It is computed for all steps at
once, and the rest of the layer runs over that as over any sequence.
"""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call, named_weights
from keras_greedy.graph.clone import remake
from keras_greedy.graph.rules.recurrent import directions
from keras_greedy.graph.rules.wrappers import batch_as_steps, step_of, steps_as_batch
from keras_greedy.selection.consumers.base import Consumer, DenseConsumer, sample
from keras_greedy.selection.consumers.convolution import ConvConsumer


class RecurrentConsumer(Consumer):
    """A recurrent layer: every step is a row.

    The kernel is that of the input, with columns for each gate of each unit; that of a
    Bidirectional has those of both directions, side by side.
    """

    def __init__(self, call: Call, channels: np.ndarray):
        super().__init__(call, channels)
        self._cells = [own.cell for own in directions(call.operation)]
        self._has_bias = all(cell.use_bias for cell in self._cells)
        self._columns = [cell.kernel.shape[-1] for cell in self._cells]
        self._without_kernel = self._made_without_kernel()

    @property
    def needs_bias(self) -> bool:
        return False  # Least squares do without, see `usable`.

    def matrix(self) -> np.ndarray:
        kernels = [_array(cell.kernel) for cell in self._cells]
        return self.to_matrix(np.concatenate(kernels, axis=-1))

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        *size_and_channels, _ = self._cells[0].kernel.shape
        return matrix.reshape(*size_and_channels, -1)

    def bias(self) -> np.ndarray:
        biases = []
        for cell, columns in zip(self._cells, self._columns, strict=True):
            bias = _array(cell.bias) if cell.use_bias else np.zeros(columns)
            # A GRU may have a second row, of the recurrent part.
            biases.append(bias.reshape(-1)[:columns])
        return np.concatenate(biases)

    def weights(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
    ) -> dict[str, np.ndarray]:
        names = {}
        for name, weight in named_weights(self.call.operation).items():
            names[id(weight)] = name
        new = {}
        ends = np.cumsum(self._columns)[:-1]
        kernels = np.split(kernel, ends, axis=-1)
        biases = np.split(bias, ends)
        for cell, own_kernel, own_bias in zip(
            self._cells, kernels, biases, strict=True
        ):
            new[names[id(cell.kernel)]] = own_kernel
            if self._has_bias:
                whole = _array(cell.bias)
                whole.reshape(-1)[: len(own_bias)] = own_bias
                new[names[id(cell.bias)]] = whole
        return new

    def positions(
        self,
        rng: np.random.Generator,
        limit: int,
    ) -> np.ndarray:
        # The layer may make one position of all: the steps of its input are sampled.
        return sample(self.call.inputs[0], rng, limit)

    def usable(
        self,
        count: int,
        mean: np.ndarray,
        scatter: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        if self._has_bias:
            return mean, scatter
        # No bias takes the mean: the moments around 0 are those of least squares.
        return np.zeros_like(mean), scatter + count * mean.T @ mean

    def activate(self, linear: Tensor, *others: Any, **kwargs: Any) -> Any:
        return self._without_kernel(linear, *others, **kwargs)

    contributions = DenseConsumer.contributions

    def _made_without_kernel(self) -> keras.Layer:
        """Returns the layer whose input is multiplied by the kernel already."""
        layer = self.call.operation
        assert self.call.rule is not None
        config = self.call.rule.nested(layer, self._changes())
        new = remake(layer, config)
        columns = sum(self._columns)
        new.build((*self._linear_shape(), columns))
        start = 0
        for cell, own in zip(
            self._cells,
            [own.cell for own in directions(new)],
            strict=True,
        ):
            end = start + cell.kernel.shape[-1]
            own.kernel.assign(self._identity(columns)[..., start:end])
            own.recurrent_kernel.assign(_array(cell.recurrent_kernel))
            if cell.use_bias:
                bias = _array(cell.bias)
                bias.reshape(-1)[: end - start] = 0
                own.bias.assign(bias)
            start = end
        return new

    def _changes(self) -> dict[str, Any]:
        """Returns what the layer without a kernel has in its config."""
        return {
            "kernel_initializer": "zeros",
            "dropout": 0.0,
            "recurrent_dropout": 0.0,
            "stateful": False,
            "dtype": "float32",
        }

    def _linear_shape(self) -> tuple[int | None, ...]:
        """Returns the shape of what the kernel makes, but for its columns."""
        return self.call.inputs[0].shape[:-1]

    def _identity(self, columns: int) -> np.ndarray:
        """Returns the kernel that makes its input."""
        return np.eye(columns)


class ConvLSTMConsumer(RecurrentConsumer):
    """A ConvLSTM: its kernel is that of a convolution over each step's image."""

    def __init__(self, call: Call, channels: np.ndarray):
        first, *_ = directions(call.operation)
        image = step_of(call.inputs[0])
        # What the convolution makes is of the size that one step of the output has.
        made, _ = first.cell.compute_output_shape(image.shape)
        of_step = dataclasses.replace(
            call,
            operation=first.cell,
            args=(image,),
            kwargs={},
            outputs=(keras.KerasTensor(made),),
        )
        self._conv = ConvConsumer(of_step, channels)
        super().__init__(call, channels)
        self.features = self._conv.features
        self.taps = self._conv.taps

    @property
    def has_contributions(self) -> bool:
        return False

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        return self._conv.rows(steps_as_batch(x), positions)

    def positions(
        self,
        rng: np.random.Generator,
        limit: int,
    ) -> np.ndarray:
        return self._conv.positions(rng, limit)

    def counted(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor,
    ) -> Tensor:
        # As many rows of each step as positions are sampled.
        return ops.repeat(ops.reshape(mask, (-1,)), ops.shape(positions)[0])

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        made = self._conv.linear(steps_as_batch(x), kernel)
        return batch_as_steps(made, x)

    def _changes(self) -> dict[str, Any]:
        return super()._changes() | {
            "strides": 1,
            "padding": "same",
            "dilation_rate": 1,
        }

    def _linear_shape(self) -> tuple[int | None, ...]:
        examples, steps, *_ = self.call.inputs[0].shape
        return (examples, steps, *self._conv.output_size)

    def _identity(self, columns: int) -> np.ndarray:
        # 1 at the tap that reads the position itself: of an even number of taps, one
        # more lies behind it.
        size = self._cells[0].kernel_size
        kernel = np.zeros((*size, columns, columns))
        center = tuple((taps - 1) // 2 for taps in size)
        kernel[center] = np.eye(columns)
        return kernel


def _array(weight: keras.Variable) -> np.ndarray:
    """Returns a copy of a weight's value, float64."""
    return np.array(ops.convert_to_numpy(weight), float)
