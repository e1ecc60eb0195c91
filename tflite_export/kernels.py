"""Layers of a file, and kernels that can be rounded to integers."""

import collections
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tflite_export.single_operations import ABSENT, import_schema

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
        kernel: A view of its kernel in the file, of float32 or int8.
        bias: A view of its bias in the file, of float32 or int32.
        kernel_scale: What a step of the kernel is, for each output channel or for all;
            empty of floats.
        bias_scale: The same of the bias.
        has_own_bias: Whether no other operation reads the bias.
    """

    kind: str
    scope: str
    input: str
    kernel: np.ndarray
    bias: np.ndarray
    kernel_scale: np.ndarray
    bias_scale: np.ndarray
    has_own_bias: bool

    @property
    def rows(self) -> np.ndarray:
        """Returns the kernel with the output channels first; a view, as `kernel`."""
        return np.moveaxis(self.kernel, WITH_KERNEL[self.kind], 0)


def layers_of(content: bytearray) -> Iterator[Layer]:
    """Yields the layers of a file; to write to their arrays changes the file.

    Args:
        content: The content of a file, of floats or quantized.
    """
    schema = import_schema()
    codes = {getattr(schema.BuiltinOperator, kind): kind for kind in WITH_KERNEL}
    model = schema.Model.GetRootAs(content, 0)
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        readers = _readers_of_buffers(graph)
        for operation in map(graph.Operators, range(graph.OperatorsLength())):
            code = model.OperatorCodes(operation.OpcodeIndex())
            kind = codes.get(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))
            indices = operation.InputsAsNumpy()
            if kind is None or len(indices) < 3 or ABSENT in indices:
                continue
            x, kernel, bias = map(graph.Tensors, indices[:3])
            weights, biases = _array(model, kernel), _array(model, bias)
            if weights is not None and biases is not None:
                made = map(graph.Tensors, operation.OutputsAsNumpy())
                yield Layer(
                    kind=kind,
                    scope="".join(f"{each.Name().decode()};" for each in made),
                    input=x.Name().decode(),
                    kernel=weights,
                    bias=biases,
                    kernel_scale=_scale(kernel),
                    bias_scale=_scale(bias),
                    has_own_bias=readers[bias.Buffer()] == 1,
                )


def _readers_of_buffers(graph: Any) -> collections.Counter[int]:
    """Returns how many operations read each buffer: those of equal biases are one."""
    readers: collections.Counter[int] = collections.Counter()
    for operation in map(graph.Operators, range(graph.OperatorsLength())):
        for index in range(operation.InputsLength()):
            if operation.Inputs(index) != ABSENT:
                readers[graph.Tensors(operation.Inputs(index)).Buffer()] += 1
    return readers


def _array(model: Any, tensor: Any) -> np.ndarray | None:
    """Returns a view of a constant; `None` of what is computed, and of other types."""
    types = import_schema().TensorType
    dtypes = {types.FLOAT32: "float32", types.INT8: "int8", types.INT32: "int32"}
    buffer = model.Buffers(tensor.Buffer())
    dtype = dtypes.get(tensor.Type())
    if not buffer.DataLength() or dtype is None:
        return None
    return buffer.DataAsNumpy().view(dtype).reshape(tensor.ShapeAsNumpy())


def _scale(tensor: Any) -> np.ndarray:
    found = tensor.Quantization()
    has_scale = found is not None and found.ScaleLength()
    return found.ScaleAsNumpy() if has_scale else np.empty(0)


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
            is_narrow = largest_of(layer.rows) < least
            # Of each channel the first weight.
            first = np.moveaxis(layer.rows, 0, -1)[(0,) * (layer.kernel.ndim - 1)]
            first[is_narrow] = least[is_narrow]
    return bytes(changed)


def largest_of(rows: np.ndarray) -> np.ndarray:
    """Returns the largest weight, without its sign, of each output channel.

    Args:
        rows: A kernel, its output channels first.
    """
    return np.abs(rows).max(axis=tuple(range(1, rows.ndim)))
