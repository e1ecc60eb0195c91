"""Biases that keep the means of layers whose kernels are rounded to integers.

To round a kernel W to R changes what a layer gives by (R - W) x. Inputs behind an
activation are positive, so that this has a mean, (R - W) E[x], which adds up over the
inputs. It is taken from the bias, which has 32 bits.

Reference: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling. Data-Free Quantization
Through Weight Equalization and Bias Correction. ICCV 2019. arXiv 1906.04721.
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np

from tflite_export.activations import observe
from tflite_export.data import Samples
from tflite_export.kernels import Layer, largest_of, layers_of
from tflite_export.recipes import Rules, manager_of
from tflite_export.runtime import Interpreter
from tflite_export.single_operations import ABSENT

BIAS = 2
"""The place of the bias among the inputs of a layer."""

INT32 = np.iinfo("int32")


def with_means_kept(
    content: bytes,
    rules: Rules,
    means: Mapping[str, np.ndarray],
) -> bytes:
    """Returns a float file that has the same mean outputs of layers when it is rounded.

    Args:
        content: The content of a float file, see `with_own_biases`.
        rules: What is to be quantized.
        means: The mean of each channel of activations, by their names.
    """
    changed = bytearray(content)
    manager = manager_of(rules)
    for layer in layers_of(changed):
        _, config = manager.get_quantization_configs(layer.kind, layer.scope)
        weights = getattr(config, "weight_tensor_config", None)
        if weights is not None and weights.dtype == "INT" and layer.has_own_bias:
            change = _rounding(layer.rows, weights.num_bits)
            shift = _mean_change(layer, change, means)
            if shift is not None:
                layer.bias[...] -= shift
    return bytes(changed)


def with_own_biases(content: bytes) -> bytes:
    """Returns a file in which no two layers have a bias in common.

    Converters store equal constants once: zeros above all.

    Args:
        content: The content of a file.
    """
    from ai_edge_litert.tools import flatbuffer_utils

    if all(layer.has_own_bias for layer in layers_of(bytearray(content))):
        return content
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    taken = set()
    for operation in graph.operators:
        for place, index in enumerate(operation.inputs):
            tensor = graph.tensors[index]
            is_constant = model.buffers[tensor.buffer].data is not None
            if index == ABSENT or not is_constant:
                continue
            if place == BIAS and tensor.buffer in taken:
                own = copy.copy(tensor)
                own.name = tensor.name + f"_{len(graph.tensors)}".encode()
                own.buffer = len(model.buffers)
                model.buffers.append(copy.copy(model.buffers[tensor.buffer]))
                operation.inputs[place] = len(graph.tensors)
                graph.tensors.append(own)
            taken.add(tensor.buffer)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _rounding(rows: np.ndarray, bits: int) -> np.ndarray:
    """Returns what is added to a kernel when it is rounded.

    Args:
        rows: The kernel, its output channels first: each has a scale.
        bits: Of an integer.
    """
    steps = 2 ** (bits - 1) - 1
    # A kernel of zeros stays one.
    scale = np.maximum(largest_of(rows) / steps, np.finfo("float32").tiny)
    scale = scale.reshape(-1, *[1] * (rows.ndim - 1))
    return np.round(rows / scale) * scale - rows


def quantized_with_means_kept(
    content: bytes,
    float_content: bytes,
    interpreter: Interpreter,
    batches: Sequence[Samples],
) -> bytes:
    """Returns a quantized file whose layers have the means of those of the float file.

    Args:
        content: The content of the file, of int8.
        float_content: That of the file of the same model in float32.
        interpreter: Of that file, that keeps all activations.
        batches: What it was calibrated on: arrays by the names of the inputs.
    """
    changed = bytearray(content)
    quantized = list(layers_of(changed))
    floats = list(layers_of(bytearray(float_content)))
    shapes = [(each.kind, each.kernel.shape) for each in quantized]
    if shapes != [(each.kind, each.kernel.shape) for each in floats]:
        return content
    seen = observe(interpreter, [each.input for each in floats], batches)
    for layer, before in zip(quantized, floats, strict=True):
        if not layer.kernel_scale.size or not layer.bias_scale.size:
            continue
        scale = layer.kernel_scale.reshape(-1, *[1] * (layer.kernel.ndim - 1))
        change = layer.rows * scale - before.rows
        # A kernel that is not the same one rounded is of another layer.
        is_same = np.all(np.abs(change) <= scale)
        shift = _mean_change(before, change, seen.means)
        if is_same and layer.has_own_bias and shift is not None:
            steps = layer.bias - np.round(shift / layer.bias_scale)
            layer.bias[...] = np.clip(steps, INT32.min, INT32.max)
    return bytes(changed)


def _mean_change(
    layer: Layer,
    change: np.ndarray,
    means: Mapping[str, np.ndarray],
) -> np.ndarray | None:
    """Returns the mean that a change of the kernel adds to each output channel.

    Args:
        layer: The layer.
        change: Of its kernel, the output channels first.
        means: The mean of each channel of activations, by their names.

    Returns:
        An array `(output channels,)`; `None` where the input was not seen, or a dense
        layer reads positions as well as channels.
    """
    mean = means.get(layer.input)
    if mean is None:
        return None
    channels = len(change)
    if layer.kind == "DEPTHWISE_CONV_2D":
        # An output channel reads one input channel.
        read = np.repeat(mean, channels // len(mean))[:, np.newaxis]
    else:
        # One of a convolution of groups reads those of its group.
        groups, rest = divmod(len(mean), layer.kernel.shape[-1])
        if rest:
            return None
        read = np.repeat(mean.reshape(groups, -1), channels // groups, axis=0)
    # Summed over the positions of the kernel.
    summed = change.reshape(channels, -1, read.shape[1]).sum(axis=1, dtype="float64")
    return np.sum(summed * read, axis=1)
