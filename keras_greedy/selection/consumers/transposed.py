"""Transposed convolutions of any rank, as convolutions of a spread input."""

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.selection.consumers.convolution import ConvConsumer, padded, reach_of


class ConvTransposeConsumer(ConvConsumer):
    """A transposed convolution: one of stride 1 over the input with zeros between.

    Input i adds its product with tap t to the output at `i * stride + t - cropped`,
    where `cropped` entries are cut off the left end. So output o reads, with tap t,
    the input at `(o + cropped - t) / stride` where that is a whole number, and in the
    spread input, whose entries are `stride` apart, the entry `o + cropped - t`. With
    the taps in reverse order, that is a convolution of stride 1.
    """

    @property
    def has_contributions(self) -> bool:
        return False

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        # The kernel is (*kernel size, outputs, C), with the channels last.
        flipped = self._flipped(kernel)
        by_tap = flipped.swapaxes(-1, -2)
        return by_tap.reshape(len(self.features), -1)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        weight = self.call.weights["kernel"]
        *size, outputs, channels = weight.shape
        by_tap = matrix.reshape(*size, channels, outputs)
        flipped = by_tap.swapaxes(-1, -2)
        return self._flipped(flipped)

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        for axis in range(self.layer.rank):
            x = self._with_zeros_between(x, axis)
            x = self._with_margins(x, axis)
        strides = [1] * self.layer.rank
        return self._patches(x, positions, strides)

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        return ops.conv_transpose(
            ops.cast(x, kernel.dtype),
            kernel,
            output_padding=self.layer.output_padding,
            **self._arguments(),
        )

    def _with_zeros_between(
        self,
        x: Tensor,
        axis: int,
    ) -> Tensor:
        """Returns the input with `stride - 1` zeros behind each entry of one axis."""
        stride = self.layer.strides[axis]
        shape = list(ops.shape(x))
        shape[1 + axis] = x.shape[1 + axis] * stride
        # An axis of length 1 behind this one, padded to the stride and merged with it.
        x = ops.expand_dims(x, 2 + axis)
        axes = self.layer.rank + 1
        zeros = [(0, 0)] * axes
        zeros[1 + axis] = (0, stride - 1)
        x = padded(x, zeros)
        return ops.reshape(x, shape)

    def _with_margins(self, x: Tensor, axis: int) -> Tensor:
        """Returns a spread input with the zeros around that the outputs read."""
        reach = reach_of(self.layer, axis)
        length = self.output_size[axis]
        size = x.shape[1 + axis]
        # Output 0 reads the entries from cropped - (reach - 1) to cropped; in all,
        # `length` outputs of stride 1 read length + reach - 1 entries.
        left = reach - 1 - self._cropped(axis)
        right = length + reach - 1 - left - size
        # Entries behind the last one that is read are cut off.
        end = size + min(right, 0)
        index = [slice(None)] * (2 + axis)
        index[1 + axis] = slice(0, end)
        x = x[tuple(index)]
        margins = [(0, 0)] * self.layer.rank
        margins[axis] = (left, max(right, 0))
        return padded(x, margins)

    def _cropped(self, axis: int) -> int:
        """Returns how many entries are cut off the left end of the whole output."""
        if self.layer.padding == "valid":
            return 0
        last = self.input_size[axis] - 1
        stride = self.layer.strides[axis]
        whole = last * stride + reach_of(self.layer, axis)
        cropped = max(0, whole - self.output_size[axis])
        # Of an odd number the one more is cut off the right end.
        return cropped // 2

    def _flipped(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel with its taps in reverse order."""
        spatial = tuple(range(self.layer.rank))
        return np.flip(kernel, axis=spatial)
