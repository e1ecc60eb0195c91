"""Layer-by-layer comparison of a `.tflite` file with its model."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tflite_export.checks import shown
from tflite_export.data import Samples, count_samples, take_samples
from tflite_export.data_forms import Data
from tflite_export.runtime import (
    Details,
    Interpreter,
    Port,
    TfliteFile,
    import_runtime,
)
from tflite_export.verify import inputs_of

if TYPE_CHECKING:
    import keras

# The relative error above which a layer counts as off, by default: far beyond the
# rounding of float32. Layers of int8 need a larger one.
LAYER_TOLERANCE = 0.01

# Keeps the relative error of a layer that gives only zeros finite.
SMALLEST_FLOAT = float(np.finfo("float32").tiny)


@dataclasses.dataclass(frozen=True)
class LayerError:
    """The error of one layer's output in a `.tflite` file.

    Attributes:
        layer: The name of the Keras layer.
        tensor: The name of the tensor in the file.
        max_abs_error: The largest difference of a value.
        max_abs_output: The largest magnitude of an expected value.
    """

    layer: str
    tensor: str
    max_abs_error: float
    max_abs_output: float

    @property
    def relative_error(self) -> float:
        """Returns the largest difference over the largest magnitude."""
        return self.max_abs_error / max(self.max_abs_output, SMALLEST_FLOAT)

    def __str__(self) -> str:
        return (
            f"{self.layer}: max |error| {self.max_abs_error:.3g} of outputs up to "
            f"{self.max_abs_output:.3g} ({self.relative_error:.2%})"
        )


class _Maker(NamedTuple):
    """The layer that made a tensor, and the name scope of the call that did."""

    layer: "keras.Layer"
    scope: str


class _Match(NamedTuple):
    """A layer, and the description of the tensor that holds its output in the file."""

    layer: "keras.Layer"
    details: Details


def compare_layers(
    model: "keras.Model",
    path: str | Path,
    data: Data,
) -> tuple[LayerError, ...]:
    """Compares a `.tflite` file with its model, layer by layer, on one batch.

    Tensors are matched by the names and shapes that conversion leaves in the file. A
    layer that conversion fused into the next one, as it does with convolutions before
    BatchNorm and activation, has no tensor of its own and is left out; so is a layer
    that is called twice.

    Args:
        model: The Functional or Sequential Keras model the file was converted from.
        path: The file.
        data: The samples, see `verify`; only the first batch of the file is read.

    Returns:
        One `LayerError` per layer that has a tensor in the file, in the order in
        which the file computes them.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is not a `.tflite` file, when `data` does not fit it, or
            when `model` has other inputs or outputs.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(3)]
    )
    path = tflite_export.convert(model, "model.tflite")
    errors = tflite_export.compare_layers(model, path, np.ones((1, 8)))
    diverged = tflite_export.first_divergence(errors, tolerance=0.01)
    assert diverged is None
    ```
    """
    if not callable(model) or not getattr(model, "layers", None):
        raise ValueError(
            "Expected `model` to be a Functional or Sequential Keras model. "
            f"Received: model={shown(model)}"
        )
    # Kept tensors and the default delegate do not go together.
    plain = import_runtime().OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    file = TfliteFile(
        path,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=plain,
    )
    samples = take_samples(data, file.batch_size, inputs_of(model, file))
    _check_outputs(model, file)
    file.feed(samples)
    file.interpreter.invoke()
    model = _copy(model)
    matches = _match(model, file)
    layers = [match.layer for match in matches]
    outputs = _layer_outputs(model, layers, samples)
    count = count_samples(samples)
    errors = []
    for match, expected in zip(matches, outputs, strict=True):
        errors.append(_layer_error(file.interpreter, match, expected, count))
    return tuple(errors)


def first_divergence(
    errors: Iterable[LayerError],
    tolerance: float = LAYER_TOLERANCE,
) -> LayerError | None:
    """Returns the first layer that is off by more than `tolerance`, or `None`.

    Args:
        errors: The result of `compare_layers`, whose example shows this too.
        tolerance: The largest `relative_error` allowed.
    """
    for error in errors:
        if error.relative_error > tolerance:
            return error
    return None


def _copy(model: "keras.Model") -> "keras.Model":
    """Returns the same model with layers of its own.

    A layer that other models use too has several outputs; its copy has one.
    """
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _match(model: "keras.Model", file: TfliteFile) -> list[_Match]:
    """Returns the layers that have a tensor, in the order of the file."""
    layers = {layer.name: layer for layer in model.layers}
    matches: dict[str, _Match] = {}
    scopes: dict[str, set[str]] = collections.defaultdict(set)
    for details in _computed_tensors(file.interpreter):
        makers = _makers(details["name"], layers)
        # The last tensor of a layer is its output, unless that one was fused away.
        for maker in makers:
            if maker is not None:
                matches.pop(maker.layer.name, None)
                scopes[maker.layer.name].add(maker.scope)
        maker = makers[0]
        if maker is not None and _is_shaped(details, maker.layer):
            matches[maker.layer.name] = _Match(maker.layer, details)
    for match in _output_matches(model, file):
        # Taken out first: an output comes last, also if it was matched before.
        matches.pop(match.layer.name, None)
        matches[match.layer.name] = match
    # Two scopes are two calls: which of them a tensor belongs to is not told.
    return [match for name, match in matches.items() if len(scopes[name]) < 2]


def _computed_tensors(interpreter: Interpreter) -> Iterator[Details]:
    """Yields the description of each operation's outputs, in their order."""
    tensors = {each["index"]: each for each in interpreter.get_tensor_details()}
    for operation in interpreter._get_ops_details():
        for index in operation["outputs"]:
            yield tensors[index]


def _makers(
    tensor_name: str,
    layers: Mapping[str, "keras.Layer"],
) -> list[_Maker | None]:
    """Returns the maker of a tensor first, then those of tensors fused into it.

    `None` stands for an operation of no layer.
    """
    return [_maker(part, layers) for part in tensor_name.split(";")]


def _maker(
    operation_name: str,
    layers: Mapping[str, "keras.Layer"],
) -> _Maker | None:
    """Returns the layer and its scope that a name like `model/relu_1/Relu` carries."""
    scopes = operation_name.split("/")[:-1]
    # The innermost first: a layer inside of another one made the tensor.
    for scope in reversed(scopes):
        # TensorFlow numbers the calls of a layer: `relu_1` may be one of `relu`.
        without_number = re.sub(r"_\d+$", "", scope)
        for name in (without_number, scope):
            if name in layers:
                return _Maker(layers[name], scope)
    return None


def _output_matches(model: "keras.Model", file: TfliteFile) -> Iterator[_Match]:
    """Yields the layers that give the outputs: conversion renames their tensors."""
    indices = {port.name: port.index for port in file.outputs}
    details = {each["index"]: each for each in file.interpreter.get_tensor_details()}
    for name, tensor in _output_tensors(model, file).items():
        for layer in model.layers:
            if layer.output is tensor and name in indices:
                yield _Match(layer, details[indices[name]])


def _output_tensors(
    model: "keras.Model",
    file: TfliteFile,
) -> dict[str, "keras.KerasTensor"]:
    """Returns the outputs of the model by their names in the file."""
    # A Sequential has none.
    tensors = getattr(model, "output", None)
    if not isinstance(tensors, dict):
        tensors = {f"output_{i}": tensor for i, tensor in enumerate(model.outputs)}
    if len(tensors) == len(file.outputs) == 1:
        (tensor,) = tensors.values()
        return {file.outputs[0].name: tensor}
    return tensors


def _check_outputs(model: "keras.Model", file: TfliteFile) -> None:
    """Raises a ValueError unless the outputs are those of the file, by their shapes."""
    of_model = {}
    for name, tensor in _output_tensors(model, file).items():
        of_model[name] = tuple(tensor.shape[1:])
    of_file = {port.name: port.shape[1:] for port in file.outputs}
    fits = of_model.keys() == of_file.keys()
    for name, shape in of_model.items():
        sizes = of_file.get(name, ())
        fits = fits and len(shape) == len(sizes)
        # Some sizes of the model may be known only when it runs.
        for size, in_file in zip(shape, sizes, strict=False):
            fits = fits and size in (None, in_file)
    if not fits:
        raise ValueError(
            "Expected `model` to be the one the file was converted from. Received: a "
            f"model with outputs of shape {of_model}, a file with {of_file}"
        )


def _is_shaped(details: Details, layer: "keras.Layer") -> bool:
    """Returns whether a tensor has the shape of the layer's output, but the batch."""
    shape = getattr(layer.output, "shape", None)
    return shape is not None and shape[1:] == tuple(details["shape"][1:])


def _layer_outputs(
    model: "keras.Model",
    layers: list["keras.Layer"],
    samples: Samples,
) -> list[np.ndarray]:
    import keras

    inside = keras.Model(model.inputs, [layer.output for layer in layers])
    # The samples are in the order of the model's inputs, see `inputs_of`.
    outputs = inside(list(samples.values()), training=False)
    return [keras.ops.convert_to_numpy(values) for values in outputs]


def _layer_error(
    interpreter: Interpreter,
    match: _Match,
    expected: np.ndarray,
    count: int,
) -> LayerError:
    """Returns the error of a layer over the first `count` rows of the file's batch."""
    port = Port.of(match.layer.name, match.details)
    tensor = interpreter.get_tensor(port.index)[:count]
    actual = port.dequantized(tensor)
    return LayerError(
        layer=match.layer.name,
        tensor=match.details["name"],
        max_abs_error=float(np.abs(actual - expected).max()),
        max_abs_output=float(np.abs(expected).max()),
    )
