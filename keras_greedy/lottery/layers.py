"""Layers of random weights that never change, and of masks that prune them.

A linear map x -> W x becomes `RandomNeurons`, a group of random ReLU neurons for each
input, and a `MaskedDense` or `MaskedConv2D` that reads them all. With b_k the weight
into a neuron of x's group, and a_k the one from it to an output, the sum of
a_k relu(b_k x) over some neurons with b_k > 0 is w x for positive x if their products
a_k b_k add up to w; over some with b_k < 0 it is w x for negative x.

Reference: Pensia et al., Optimal Lottery Tickets via SubsetSum, NeurIPS 2020, sec. 3.
"""

import keras
from keras import ops

register = keras.saving.register_keras_serializable("keras_greedy")


class Masked(keras.layers.Layer):
    """A layer of a kernel and a mask of the same shape, neither of them trained.

    Attributes:
        kernel: Random weights; zeros until they are set.
        mask: True for the weights that are left; all, until it is set.
    """

    def add_kernel(self, shape):
        self.kernel = self.add_weight(shape, "zeros", trainable=False, name="kernel")
        self.mask = self.add_weight(
            shape, "ones", dtype="bool", trainable=False, name="mask"
        )

    @property
    def connections(self):
        """1 for the weights that are left, 0 for the others."""
        return ops.cast(self.mask, self.compute_dtype)

    @property
    def pruned_kernel(self):
        return ops.cast(self.kernel, self.compute_dtype) * self.connections


@register
class RandomNeurons(Masked):
    """A group of ReLU neurons for each number along the last axis.

    `(..., inputs)` -> `(..., inputs * neurons)`, the groups one after the other.

    Args:
        neurons: How many there are in a group.
        use_constant: Whether there is one more group, of an input that is always 1:
            what reads it has a bias.
    """

    def __init__(self, neurons: int, use_constant: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.neurons = _positive("neurons", neurons)
        self.use_constant = use_constant

    def build(self, input_shape):
        self.add_kernel((input_shape[-1] + self.use_constant, self.neurons))

    def call(self, inputs):
        inputs = ops.cast(inputs, self.compute_dtype)
        if self.use_constant:
            one = ops.ones_like(inputs[..., :1])
            inputs = ops.concatenate([inputs, one], axis=-1)
        neurons = ops.relu(inputs[..., None] * self.pruned_kernel)
        count = self.kernel.shape[0] * self.neurons
        return ops.reshape(neurons, (*ops.shape(inputs)[:-1], count))

    def compute_output_shape(self, input_shape):
        groups = input_shape[-1] + self.use_constant
        return (*input_shape[:-1], groups * self.neurons)

    def get_config(self):
        own = {"neurons": self.neurons, "use_constant": self.use_constant}
        return super().get_config() | own


@register
class MaskedDense(Masked):
    """`(..., inputs)` times a masked random matrix -> `(..., units)`.

    Args:
        units: How many outputs.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.units = _positive("units", units)

    def build(self, input_shape):
        self.add_kernel((input_shape[-1], self.units))

    def call(self, inputs):
        return ops.matmul(inputs, self.pruned_kernel)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@register
class MaskedConv2D(Masked):
    """`(n, h, w, inputs)` convolved with masked random kernels, without padding.

    Args:
        filters: How many outputs.
        kernel_size: `(height, width)`, or an integer for both.
        strides: `(vertical, horizontal)`, or an integer.
        dilation_rate: `(vertical, horizontal)`, or an integer.
    """

    def __init__(
        self, filters: int, kernel_size, strides=(1, 1), dilation_rate=(1, 1), **kwargs
    ):
        super().__init__(**kwargs)
        self.filters = _positive("filters", filters)
        self.kernel_size = _pair(kernel_size)
        self.strides, self.dilation_rate = _pair(strides), _pair(dilation_rate)

    def build(self, input_shape):
        self.add_kernel((*self.kernel_size, input_shape[-1], self.filters))

    def call(self, inputs):
        return ops.conv(
            inputs,
            self.pruned_kernel,
            strides=self.strides,
            padding="valid",
            dilation_rate=self.dilation_rate,
            data_format="channels_last",
        )

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
        }


def _positive(name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"Expected `{name}` to be a positive integer. Received: {name}={value!r}"
        )
    return value


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
