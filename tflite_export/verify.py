"""Does the `.tflite` file compute what the model computes?"""

import dataclasses
import json

import numpy as np

from tflite_export.checks import check_count, check_finite
from tflite_export.data import take_samples
from tflite_export.runtime import TfliteFile


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far the outputs of a `.tflite` file are from those of its model.

    Attributes:
        path: the file.
        samples: how many samples were compared.
        max_abs_error: the largest difference of an output value, of any output.
        mean_abs_error: the mean difference of an output value.
        max_abs_output: the largest magnitude of an expected output value, to read
            the errors against.
        top1_agreement: the share of samples (of positions, where there are several
            per sample) with the same largest class on the last axis. `None` if the
            last axis has only one entry.
    """

    path: str
    samples: int
    max_abs_error: float
    mean_abs_error: float
    max_abs_output: float
    top1_agreement: float | None

    def ok(self, tolerance=1e-4, top1=0.0):
        """Returns whether the outputs are as close as asked for.

        Args:
            tolerance: the largest absolute difference allowed. The default suits
                the probabilities of a float32 file.
            top1: the smallest `top1_agreement` allowed, where there is one. It says
                more than a tolerance does of a quantized classifier.
        """
        agrees = self.top1_agreement is None or self.top1_agreement >= top1
        return self.max_abs_error <= tolerance and agrees

    def to_json(self):
        """Returns the fields as a JSON string."""
        return json.dumps(dataclasses.asdict(self))

    def __str__(self):
        top1 = self.top1_agreement
        return (
            f"{self.path}: max |error| {self.max_abs_error:.3g}, mean |error| "
            f"{self.mean_abs_error:.3g} (outputs up to {self.max_abs_output:.3g})"
            + ("" if top1 is None else f", same top-1 {top1:.1%}")
            + f", {self.samples} samples"
        )


def verify(model, path, data, max_samples=64):
    """Compares a `.tflite` file with the model it was converted from.

    Both get the same samples, in batches of the file's size. The inputs of a quantized
    file are quantized and its outputs are read in the model's own units.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, "softmax")])
    path = tflite_export.convert(model, "model.tflite")
    images = np.random.default_rng(0).random((16, 8))
    parity = tflite_export.verify(model, path, images)
    assert parity.ok(tolerance=1e-4)
    ```

    Args:
        model: the Keras model, or the outputs that it gave on `data`: an array of one
            row per sample, or for several outputs a dict of arrays by their names in
            the file, or a list.
        path: the file.
        data: the samples, pre-processed as for the model: one array, a tuple
            `(x, y)`, or an iterable (`tf.data.Dataset`, `PyDataset`, list...) of
            batches `x` or `(x, y)`; for several inputs x is a dict by their names.
        max_samples: how many samples to compare at most, the first ones.

    Returns:
        A `Parity`, over all outputs.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `data` is empty, does not fit the file, or is not finite; or if
            the file gives something other in shape than the model, or not finite.
    """
    max_samples = check_count("max_samples", max_samples, minimum=1)
    file = TfliteFile(path)
    samples = take_samples(data, max_samples, file.sample_shapes)
    expected = expected_outputs(model, file, samples, max_samples)
    actual = file.run(samples)
    for values in actual.values():
        check_finite("the outputs of the file", values)
    return _parity(file.path, actual, expected)


def expected_outputs(model, file, samples, max_samples):
    """Returns what `model` gives on `samples`, by the names of the file's outputs.

    Args:
        model: see `verify`.
        file: the `TfliteFile`.
        samples: arrays by the names of the inputs.
        max_samples: how many samples there could have been.

    Raises:
        ValueError: see `verify`.
    """
    count = len(next(iter(samples.values())))
    if hasattr(model, "predict"):
        outputs = _named(_predict(model, samples, file.batch_size), file)
    else:
        outputs = _given(model, file, count, max_samples)
    outputs = {name: values[:count] for name, values in outputs.items()}
    for values in outputs.values():
        check_finite("the outputs of the model", values)
    _check_shapes(outputs, file)
    return outputs


def _predict(model, samples, batch_size):
    import keras

    inputs = dict(zip(_input_names(model, samples), samples.values(), strict=True))
    count = len(next(iter(samples.values())))
    rows = np.arange(count + -count % batch_size).clip(max=count - 1)
    is_sequential = isinstance(model, keras.Sequential)
    structure = model.inputs[0] if is_sequential else model.input
    filled = keras.tree.map_structure(lambda each: inputs[each.name][rows], structure)
    outputs = model.predict(filled, batch_size=batch_size, verbose=0)
    return [outputs] if hasattr(outputs, "shape") else outputs


def _input_names(model, samples):
    names = [tensor.name for tensor in model.inputs]
    if len(names) == len(samples) == 1:
        return names
    if set(names) != set(samples):
        raise ValueError(
            "Expected the model and the file to have the same inputs. Received: a "
            f"model with inputs {names}, a file with {list(samples)}"
        )
    return list(samples)


def _given(outputs, file, count, max_samples):
    if len(file.outputs) == 1 and not isinstance(outputs, dict):
        outputs = [outputs]
    outputs = _named(outputs, file)
    for values in outputs.values():
        rows = len(values) if values.ndim else 0
        if rows < count or (rows > count and count < max_samples):
            raise ValueError(
                f"Expected `model` to be a Keras model, or its outputs for the {count} "
                f"samples of `data`. Received: outputs of shape {values.shape}"
            )
    return outputs


def _named(outputs, file):
    """Outputs as a dict; a list is in the order of the model's outputs."""
    names = [port.name for port in file.outputs]
    if not isinstance(outputs, dict):
        outputs = {f"output_{i}": each for i, each in enumerate(outputs)}
    if len(names) == len(outputs) == 1:
        outputs = dict(zip(names, outputs.values(), strict=True))
    if set(outputs) != set(names):
        raise ValueError(
            f"Expected the model to give what the file gives, {sorted(names)}. "
            f"Received: outputs {sorted(outputs)}"
        )
    return {name: np.asarray(outputs[name]) for name in names}


def _check_shapes(outputs, file):
    for port in file.outputs:
        expected = (file.batch_size, *outputs[port.name].shape[1:])
        if port.shape != expected:
            raise ValueError(
                "Expected the file to give what the model gives, outputs of shape "
                f"{expected} per batch. Received: path={file.path!r}, which gives "
                f"{port.shape}"
            )


def _parity(path, actual, expected):
    errors, magnitudes, same = [], [], []
    for name, values in expected.items():
        values = values.astype("float64")
        errors.append(np.abs(actual[name] - values).ravel())
        magnitudes.append(np.abs(values).max())
        if values.ndim > 1 and values.shape[-1] > 1:
            agrees = actual[name].argmax(axis=-1) == values.argmax(axis=-1)
            same.append(agrees.ravel())
    errors = np.concatenate(errors)
    return Parity(
        path=path,
        samples=len(values),
        max_abs_error=float(errors.max()),
        mean_abs_error=float(errors.mean()),
        max_abs_output=float(max(magnitudes)),
        top1_agreement=float(np.concatenate(same).mean()) if same else None,
    )
