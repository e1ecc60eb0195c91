"""Where inside the network a `.tflite` file and its model part ways."""

import collections
import dataclasses
import re

import numpy as np

from tflite_export.data import take_samples
from tflite_export.runtime import Port, TfliteFile, import_runtime


@dataclasses.dataclass(frozen=True)
class LayerError:
    """How far one layer's output is off in a `.tflite` file.

    Attributes:
        layer: the name of the Keras layer.
        tensor: the name of the tensor in the file.
        max_abs_error: the largest difference of a value.
        max_abs_output: the largest magnitude of an expected value.
    """

    layer: str
    tensor: str
    max_abs_error: float
    max_abs_output: float

    @property
    def relative_error(self):
        """The largest difference over the largest magnitude."""
        return self.max_abs_error / max(self.max_abs_output, np.finfo("float32").tiny)

    def __str__(self):
        return (
            f"{self.layer}: max |error| {self.max_abs_error:.3g} of outputs up to "
            f"{self.max_abs_output:.3g} ({self.relative_error:.2%})"
        )


def compare_layers(model, path, data):
    """Compares a `.tflite` file with its model, layer by layer, on one batch.

    Tensors are matched by the names and shapes that conversion leaves in the file. A
    layer that conversion fused into the next one, as it does with convolutions before
    BatchNorm and activation, has no tensor of its own and is left out; so is a layer
    that is called twice.

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

    Args:
        model: the Functional or Sequential Keras model the file was converted from.
        path: the file.
        data: the samples, see `verify`; only the first batch of the file is read.

    Returns:
        One `LayerError` per layer that has a tensor in the file, in the order in
        which the file computes them.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a `.tflite` file, or `data` does not fit it.
    """
    # Kept tensors and the default delegate do not go together.
    plain = import_runtime().OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    file = TfliteFile(
        path,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=plain,
    )
    samples = take_samples(data, file.batch_size, file.sample_shapes)
    file.feed(samples)
    file.interpreter.invoke()
    model = _copy(model)
    matches = _match(model, file)
    expected = _layer_outputs(model, [layer for layer, _ in matches], samples)
    count = len(next(iter(samples.values())))
    return tuple(
        _layer_error(file.interpreter, layer, details, values, count)
        for (layer, details), values in zip(matches, expected, strict=True)
    )


def first_divergence(errors, tolerance=0.01):
    """Returns the first layer that is off by more than `tolerance`, or `None`.

    Args:
        errors: what `compare_layers` gave.
        tolerance: the largest `relative_error` allowed.
    """
    return next((each for each in errors if each.relative_error > tolerance), None)


def _copy(model):
    """The same model; a layer that other models use too has no other output in it."""
    import keras

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _match(model, file):
    """Pairs of a layer and the details of its tensor, in the order of the file."""
    layers = {each.name: each for each in model.layers}
    tensors = {each["index"]: each for each in file.interpreter.get_tensor_details()}
    matches, scopes = {}, collections.defaultdict(set)
    for operation in file.interpreter._get_ops_details():
        for index in operation["outputs"]:
            # What made the tensor, then what was fused into that.
            parts = tensors[index]["name"].split(";")
            makers = [_layer_of(part, layers) for part in parts]
            # The last tensor of a layer is its output, unless it was fused away.
            for layer, scope in filter(None, makers):
                matches.pop(layer.name, None)
                scopes[layer.name].add(scope)
            layer, _ = makers[0] or (None, None)
            if layer is not None and _is_shaped(tensors[index], layer):
                matches[layer.name] = layer, tensors[index]
    for layer, index in _output_layers(model, file):
        matches.pop(layer.name, None)
        matches[layer.name] = layer, tensors[index]
    return [matches[name] for name in matches if len(scopes[name]) < 2]


def _layer_of(operation_name, layers):
    """The layer and its scope that a name like `model/relu_1/Relu` carries."""
    for scope in reversed(operation_name.split("/")[:-1]):
        for name in (re.sub(r"_\d+$", "", scope), scope):
            if name in layers:
                return layers[name], scope
    return None


def _output_layers(model, file):
    """The layers that give the outputs, with tensors that conversion renames."""
    indices = {port.name: port.index for port in file.outputs}
    # A Sequential has none.
    tensors = getattr(model, "output", None)
    if not isinstance(tensors, dict):
        tensors = {f"output_{i}": each for i, each in enumerate(model.outputs)}
    if len(tensors) == len(indices) == 1:
        tensors = dict(zip(indices, tensors.values(), strict=True))
    for name, tensor in tensors.items():
        for layer in model.layers:
            if layer.output is tensor and name in indices:
                yield layer, indices[name]


def _is_shaped(details, layer):
    shape = getattr(layer.output, "shape", None)
    return shape is not None and shape[1:] == tuple(details["shape"][1:])


def _layer_outputs(model, layers, samples):
    import keras

    inside = keras.Model(model.inputs, [layer.output for layer in layers])
    names = [tensor.name for tensor in model.inputs]
    if len(names) == 1:
        names = list(samples)
    outputs = inside([samples[name] for name in names], training=False)
    return [keras.ops.convert_to_numpy(each) for each in outputs]


def _layer_error(interpreter, layer, details, expected, count):
    tensor = interpreter.get_tensor(details["index"])[:count]
    actual = Port.of(layer.name, details).dequantized(tensor)
    return LayerError(
        layer=layer.name,
        tensor=details["name"],
        max_abs_error=float(np.abs(actual - expected).max()),
        max_abs_output=float(np.abs(expected).max()),
    )
