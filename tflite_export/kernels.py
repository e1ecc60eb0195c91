"""Kernels and biases of a float file, made ready to be rounded to integers."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tflite_export.recipes import Rules, manager_of

WITH_KERNEL = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": -1, "FULLY_CONNECTED": 0}
"""Operations that read an activation, a kernel and a bias -> the kernel's channels."""

LARGEST_BIAS = 2**30
"""In steps of int32, with a bit to spare."""

ACTIVATION_STEPS = 255
KERNEL_STEPS = 127


@dataclasses.dataclass(frozen=True)
class Layer:
    """An operation with a kernel and a bias, both constant.

    Attributes:
        kind: What it computes, as litert-quantizer names it.
        scope: The names of its outputs, by which litert-quantizer knows it.
        input: The name of the activation that it reads.
        kernel: A view of its kernel in the file.
        bias: A view of its bias in the file.
    """

    kind: str
    scope: str
    input: str
    kernel: np.ndarray
    bias: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Returns the kernel with the output channels first; a view, as `kernel`."""
        return np.moveaxis(self.kernel, WITH_KERNEL[self.kind], 0)


def layers_of(content: bytearray) -> Iterator[Layer]:
    """Yields the layers of a file; to write to their arrays changes the file.

    Args:
        content: The content of a file.
    """
    from litert_quantizer.utils import tfl_flatbuffer_utils as utils

    # Its arrays are views of `content`.
    model = utils.read_model(content)
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex].builtinCode
            kind = utils.TFL_OP_CODE_TO_NAME.get(code)
            indices = list(operation.inputs)
            if kind not in WITH_KERNEL or len(indices) < 3 or indices[2] < 0:
                continue
            x, kernel, bias = (graph.tensors[index] for index in indices[:3])
            weights = model.buffers[kernel.buffer].data
            biases = model.buffers[bias.buffer].data
            if weights is not None and biases is not None:
                yield Layer(
                    kind,
                    utils.get_op_scope(operation, graph.tensors),
                    utils.get_tensor_name(x),
                    weights.view("float32").reshape(kernel.shape),
                    biases.view("float32"),
                )


def span_of(found: Mapping[str, Any]) -> float:
    """Returns the width of a range, which has 0 in it when it is quantized.

    Args:
        found: `min` and `max` of an activation.
    """
    return max(np.max(found["max"]), 0) - min(np.min(found["min"]), 0)


def with_wide_kernels(content: bytes, ranges: Mapping[str, Mapping]) -> bytes:
    """Returns a file whose kernels have scales that their biases can be stored with.

    A bias is stored in steps of the scale of its kernel times that of the input. Where
    a channel's kernel is all but 0 that step is so small that the bias does not fit
    int32, and litert-quantizer stores a wrong one. One weight of such a channel is
    made larger here: that adds less than 1/30,000 of the bias.

    Args:
        content: The content of the file.
        ranges: Those of its activations.
    """
    changed = bytearray(content)
    for layer in layers_of(changed):
        found = ranges.get(layer.input)
        if found:
            step = span_of(found) / ACTIVATION_STEPS
            least = np.abs(layer.bias) * (KERNEL_STEPS / LARGEST_BIAS / step)
            is_narrow = _largest(layer.rows) < least
            # Of each channel the first weight.
            first = np.moveaxis(layer.rows, 0, -1)[(0,) * (layer.kernel.ndim - 1)]
            first[is_narrow] = least[is_narrow]
    return bytes(changed)


def _largest(rows: np.ndarray) -> np.ndarray:
    """Returns the largest weight, without its sign, of each output channel."""
    return np.abs(rows).max(axis=tuple(range(1, rows.ndim)))


def with_means_kept(
    content: bytes,
    rules: Rules,
    means: Mapping[str, np.ndarray],
) -> bytes:
    """Returns a file that has the same mean outputs of layers when it is rounded.

    To round a kernel W to R changes what a channel gives by (R - W) x. Inputs behind
    an activation are positive, so that this has a mean, (R - W) E[x], which adds up
    over the inputs. It is taken from the bias, which has 32 bits.

    Args:
        content: The content of a float file.
        rules: What is to be quantized.
        means: The mean of each channel of activations, by their names.

    Reference:
        M. Nagel, M. van Baalen, T. Blankevoort, M. Welling. Data-Free Quantization
        Through Weight Equalization and Bias Correction. ICCV 2019. arXiv 1906.04721.
    """
    changed = bytearray(content)
    manager = manager_of(rules)
    for layer in layers_of(changed):
        _, config = manager.get_quantization_configs(layer.kind, layer.scope)
        weights = getattr(config, "weight_tensor_config", None)
        mean = means.get(layer.input)
        if mean is not None and weights is not None and weights.dtype == "INT":
            read = _read_by(layer, mean)
            if read is not None:
                layer.bias[...] -= _mean_change(layer, read, weights.num_bits)
    return bytes(changed)


def _read_by(layer: Layer, mean: np.ndarray) -> np.ndarray | None:
    """Returns the means that each output channel reads.

    Args:
        layer: The layer.
        mean: The mean of each channel of its input.

    Returns:
        An array `(output channels, channels read)`; `None` where a dense layer reads
        positions as well as channels.
    """
    channels = len(layer.rows)
    if layer.kind == "DEPTHWISE_CONV_2D":
        return np.repeat(mean, channels // len(mean))[:, np.newaxis]
    # A convolution may be of groups, each of which reads so many channels.
    groups, rest = divmod(len(mean), layer.kernel.shape[-1])
    if rest:
        return None
    return np.repeat(mean.reshape(groups, -1), channels // groups, axis=0)


def _mean_change(layer: Layer, read: np.ndarray, bits: int) -> np.ndarray:
    """Returns the mean that rounding the kernel adds to each output channel.

    Args:
        layer: The layer.
        read: What `_read_by` returned.
        bits: Of an integer in the kernel.
    """
    rows = layer.rows.astype("float64")
    steps = 2 ** (bits - 1) - 1
    # A kernel of zeros stays one.
    scale = np.maximum(_largest(rows) / steps, np.finfo("float32").tiny)
    scale = scale.reshape(-1, *[1] * (rows.ndim - 1))
    change = np.round(rows / scale) * scale - rows
    # Summed over the positions of the kernel.
    change = change.reshape(len(rows), -1, read.shape[1]).sum(axis=1)
    return np.sum(change * read, axis=1)
