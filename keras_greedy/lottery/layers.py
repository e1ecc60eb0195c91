"""Layers of random weights that never change, and of masks that prune them.

A linear map x -> W x becomes `RandomNeurons`, a group of random ReLU neurons for each
input, and a `MaskedDense` or `MaskedConv2D` that reads them all. With b_k the weight
into a neuron of x's group, and a_k the one from it to an output, the sum of
a_k relu(b_k x) over some neurons with b_k > 0 is w x for positive x if their products
a_k b_k add up to w; over some with b_k < 0 it is w x for negative x.

Reference: Pensia et al., Optimal Lottery Tickets via SubsetSum, NeurIPS 2020, sec. 3.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_greedy.backend import Tensor
from tflite_export.checks import check_number, is_count

# A size along the height and along the width, or one for both.
Pair: TypeAlias = int | Sequence[int]

register = keras.saving.register_keras_serializable("keras_greedy")


class Masked(keras.layers.Layer):
    """A layer of a kernel and a mask of the same shape, neither of them trained.

    Attributes:
        kernel: Random weights; zeros until they are set.
        mask: True for the weights that are left; all, until it is set.
    """

    def add_kernel(self, shape: tuple[int, ...]) -> None:
        """Makes the weights of the layer.

        Args:
            shape: Of the kernel.
        """
        self.kernel = self.add_weight(
            shape,
            "zeros",
            trainable=False,
            name="kernel",
        )
        self.mask = self.add_weight(
            shape,
            "ones",
            dtype="bool",
            trainable=False,
            name="mask",
        )

    @property
    def connections(self) -> Tensor:
        """Returns 1 for the weights that are left, 0 for the others."""
        return ops.cast(self.mask, self.compute_dtype)

    @property
    def pruned_kernel(self) -> Tensor:
        """Returns the kernel with 0 for the weights that are pruned."""
        return ops.cast(self.kernel, self.compute_dtype) * self.connections


@register
class RandomNeurons(Masked):
    """A group of ReLU neurons for each number along the last axis.

    `(..., inputs)` -> `(..., inputs * neurons)`, the groups one after the other.

    Args:
        neurons: How many there are in a group.
        use_constant: Whether there is one more group, of an input that is always 1:
            the layer that reads it has a bias.

    Attributes:
        kernel: `(inputs, neurons)`: the weight into each neuron of each group.
        mask: Of the same shape.
    """

    def __init__(self, neurons: int, use_constant: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.neurons = _positive("neurons", neurons)
        self.use_constant = use_constant

    def build(self, input_shape: Sequence) -> None:
        groups = input_shape[-1] + self.use_constant
        self.add_kernel((groups, self.neurons))

    def call(self, inputs: Tensor) -> Tensor:
        inputs = ops.cast(inputs, self.compute_dtype)
        if self.use_constant:
            one = ops.ones_like(inputs[..., :1])
            inputs = ops.concatenate([inputs, one], axis=-1)
        # (..., inputs, 1) times (inputs, neurons): each input meets its group alone.
        neurons = ops.relu(inputs[..., None] * self.pruned_kernel)
        count = self.kernel.shape[0] * self.neurons
        return ops.reshape(neurons, (*ops.shape(inputs)[:-1], count))

    def compute_output_shape(self, input_shape: Sequence) -> tuple:
        groups = input_shape[-1] + self.use_constant
        return (*input_shape[:-1], groups * self.neurons)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["neurons"] = self.neurons
        config["use_constant"] = self.use_constant
        return config


@register
class MaskedDense(Masked):
    """`(..., inputs)` times a masked random matrix -> `(..., units)`.

    Args:
        units: How many outputs.

    Attributes:
        kernel: `(inputs, units)` random weights.
        mask: Of the same shape.
    """

    def __init__(self, units: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = _positive("units", units)

    def build(self, input_shape: Sequence) -> None:
        self.add_kernel((input_shape[-1], self.units))

    def call(self, inputs: Tensor) -> Tensor:
        return ops.matmul(inputs, self.pruned_kernel)

    def compute_output_shape(self, input_shape: Sequence) -> tuple:
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["units"] = self.units
        return config


@register
class MaskedConv2D(Masked):
    """`(n, h, w, inputs)` convolved with masked random kernels, without padding.

    Args:
        filters: How many outputs.
        kernel_size: `(height, width)`, or an integer for both.
        strides: `(vertical, horizontal)`, or an integer.
        dilation_rate: `(vertical, horizontal)`, or an integer.

    Attributes:
        kernel: `(height, width, inputs, filters)` random weights.
        mask: Of the same shape.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Pair,
        strides: Pair = (1, 1),
        dilation_rate: Pair = (1, 1),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters = _positive("filters", filters)
        self.kernel_size = _pair(kernel_size)
        self.strides = _pair(strides)
        self.dilation_rate = _pair(dilation_rate)

    def build(self, input_shape: Sequence) -> None:
        self.add_kernel((*self.kernel_size, input_shape[-1], self.filters))

    def call(self, inputs: Tensor) -> Tensor:
        return ops.conv(
            inputs,
            self.pruned_kernel,
            strides=self.strides,
            padding="valid",
            dilation_rate=self.dilation_rate,
            data_format="channels_last",
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config["filters"] = self.filters
        config["kernel_size"] = self.kernel_size
        config["strides"] = self.strides
        config["dilation_rate"] = self.dilation_rate
        return config


def _positive(name: str, value: int) -> int:
    check_number(name, value, "a positive integer", is_count(value))
    return int(value)


def _pair(value: Pair) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value, value)
    return tuple(value)
