"""Parity of a `.tflite` file with its model: the same samples, the same outputs."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from tflite_export.checks import check_count, check_finite, shown
from tflite_export.data import NUMERIC_KINDS, Samples, count_samples, take_samples
from tflite_export.data_forms import Data, Inputs
from tflite_export.html_tables import html_table
from tflite_export.latency import UNKNOWN
from tflite_export.model_checks import keys_of
from tflite_export.runtime import TfliteFile

if TYPE_CHECKING:
    import keras

Outputs: TypeAlias = Any
"""An array of one row per sample; for several outputs a dict by name, or a list."""

ModelOrOutputs: TypeAlias = Union["keras.Model", Outputs]
"""A Keras model, or the outputs that it gave."""

# By default of `Parity.ok`: probabilities of float32 kernels that only sum in another
# order differ by less.
TOLERANCE = 1e-4

HEADER = (
    "file",
    "max |error|",
    "mean |error|",
    "outputs up to",
    "same top-1",
    "samples",
)
"""Of the table of a `Parity` in a notebook."""

# Samples to compare by default: a wrong conversion shows on any of them.
MAX_SAMPLES = 64


@dataclasses.dataclass(frozen=True)
class Parity:
    """The distance of a `.tflite` file's outputs from those of its model.

    Attributes:
        path: The file.
        samples: Number of samples compared.
        max_abs_error: The largest difference of an output value, of any output.
        mean_abs_error: The mean difference of an output value.
        max_abs_output: The largest magnitude of an expected output value, to read
            the errors against.
        top1_agreement: The share of samples (of positions, where there are several
            per sample) with the same largest class on the last axis. `None` if the
            last axis has only one entry.
    """

    path: str
    samples: int
    max_abs_error: float
    mean_abs_error: float
    max_abs_output: float
    top1_agreement: float | None

    def ok(self, tolerance: float = TOLERANCE, top1: float = 0.0) -> bool:
        """Returns whether the outputs are as close as asked for.

        Args:
            tolerance: The largest absolute difference allowed. The default suits
                the probabilities of a float32 file.
            top1: The smallest `top1_agreement` allowed, where there is one. It says
                more than a tolerance does of a quantized classifier.
        """
        agrees = self.top1_agreement is None or self.top1_agreement >= top1
        return self.max_abs_error <= tolerance and agrees

    def to_json(self) -> str:
        """Returns the fields as a JSON string."""
        return json.dumps(dataclasses.asdict(self))

    def __repr__(self) -> str:
        return (
            f"<Parity of {Path(self.path).name!r}: max |error| "
            f"{self.max_abs_error:.3g}, same top-1 {self._top1()}, {self.samples} "
            "samples>"
        )

    def _repr_html_(self) -> str:
        row = (
            self.path,
            f"{self.max_abs_error:.3g}",
            f"{self.mean_abs_error:.3g}",
            f"{self.max_abs_output:.3g}",
            self._top1(),
            f"{self.samples:,}",
        )
        return html_table(HEADER, [row])

    def _top1(self) -> str:
        agreement = self.top1_agreement
        return UNKNOWN if agreement is None else f"{agreement:.1%}"

    def __str__(self) -> str:
        text = (
            f"{self.path}: max |error| {self.max_abs_error:.3g}, mean |error| "
            f"{self.mean_abs_error:.3g} (outputs up to {self.max_abs_output:.3g})"
        )
        if self.top1_agreement is not None:
            text += f", same top-1 {self.top1_agreement:.1%}"
        return f"{text}, {self.samples} samples"


def verify(
    model: ModelOrOutputs,
    path: str | Path,
    data: Data,
    max_samples: int = MAX_SAMPLES,
) -> Parity:
    """Compares a `.tflite` file with the model it was converted from.

    Both get the same samples, in batches of the file's size. The inputs of a quantized
    file are quantized and its outputs are read in the model's own units.

    Args:
        model: The Keras model, or the outputs that it gave on `data`: an array of one
            row per sample, or for several outputs a dict of arrays by their names in
            the file, or a list.
        path: The file.
        data: The samples, pre-processed as for the model: one array, a tuple
            `(x, y)`, or an iterable (`tf.data.Dataset`, `PyDataset`, list...) of
            batches `x` or `(x, y)`; for several inputs x is a dict by their names, or
            a list in the order of the model's.
        max_samples: Most samples to compare, the first ones.

    Returns:
        A `Parity`, over all outputs.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When `data` is empty, does not fit the file, or is not finite; or
            when the file's outputs have another shape than the model's, or are not
            finite.

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
    """
    max_samples = check_count("max_samples", max_samples, minimum=1)
    file = TfliteFile(path)
    samples = take_samples(data, max_samples, inputs_of(model, file))
    expected = expected_outputs(model, file, samples, max_samples)
    actual = file.run(samples)
    for values in actual.values():
        check_finite("the outputs of the file", values)
    return _parity(file.path, actual, expected)


def inputs_of(model: ModelOrOutputs, file: TfliteFile) -> Inputs:
    """Returns the inputs of a file, as the model knows them.

    Args:
        model: The Keras model, or its outputs, see `verify`.
        file: The open file.

    Raises:
        ValueError: When the model is not built, or its inputs are not the file's.
    """
    shapes = file.samples.shapes
    if not hasattr(model, "predict"):
        return Inputs(shapes)
    if not getattr(model, "inputs", None):
        raise ValueError(
            "Expected `model` to be a Functional Keras model, or a Sequential one that "
            "starts with `keras.Input` or is built, or the outputs that it gave. "
            f"Received: model={shown(model)}"
        )
    names = [tensor.name for tensor in model.inputs]
    keys = keys_of(model)
    # A single input needs no name: it may have another one than in the file.
    if len(names) == len(shapes) == 1:
        (own,) = names
        (only,) = shapes
        return Inputs(shapes, {only: (own, *keys.get(own, ()))}, is_ordered=True)
    if set(names) != set(shapes):
        raise ValueError(
            "Expected `model` and the file to have the same inputs. Received: a "
            f"model with inputs {names}, a file with {list(shapes)}"
        )
    return Inputs({name: shapes[name] for name in names}, keys, is_ordered=True)


def expected_outputs(
    model: ModelOrOutputs,
    file: TfliteFile,
    samples: Samples,
    max_samples: int,
) -> Samples:
    """Returns the model's outputs on `samples`, by the names of the file's outputs.

    Args:
        model: The Keras model, or its outputs, see `verify`.
        file: The open file.
        samples: Input name -> array `(N, ...)`.
        max_samples: The limit under which the N samples were taken.

    Returns:
        Output name -> array `(N, ...)`.

    Raises:
        ValueError: When the outputs are not finite, or do not fit the file or the
            samples.
    """
    count = count_samples(samples)
    if hasattr(model, "predict"):
        predicted = _predict(model, samples, file.batch_size)
        outputs = _named(predicted, file)
    else:
        outputs = _given(model, file, count, max_samples)
    outputs = {name: values[:count] for name, values in outputs.items()}
    for values in outputs.values():
        if values.dtype.kind not in NUMERIC_KINDS:
            raise ValueError(
                "Expected `model` to be a Keras model, or numbers that it gave. "
                f"Received: outputs of dtype {values.dtype}"
            )
        check_finite("the outputs of the model", values)
    _check_shapes(outputs, file)
    return outputs


def _predict(model: "keras.Model", samples: Samples, batch_size: int) -> Outputs:
    """Returns the outputs of the model, as a list or as a dict.

    The last batch is filled up: a model may be fixed to the batch size of its file.
    """
    import keras

    # The samples are in the order of the model's inputs, see `inputs_of`.
    names = [tensor.name for tensor in model.inputs]
    inputs = dict(zip(names, samples.values(), strict=True))
    count = count_samples(samples)
    # A device must not be left without a part of a batch.
    batch_size *= _devices_sharing(model)
    # -count % batch_size rows are missing; the last sample stands in for them.
    full_count = count + -count % batch_size
    rows = np.arange(full_count).clip(max=count - 1)
    is_sequential = isinstance(model, keras.Sequential)
    structure = model.inputs[0] if is_sequential else model.input
    filled = keras.tree.map_structure(lambda each: inputs[each.name][rows], structure)
    outputs = model.predict(filled, batch_size=batch_size, verbose=0)
    return [outputs] if hasattr(outputs, "shape") else outputs


def _devices_sharing(model: "keras.Model") -> int:
    """Returns how many devices `predict` parts a batch for."""
    import keras

    # Models of TensorFlow have one.
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None:
        return strategy.num_replicas_in_sync
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.devices.size


def _given(
    outputs: Outputs,
    file: TfliteFile,
    count: int,
    max_samples: int,
) -> Samples:
    """Returns outputs that the user gave, if they have a row for each sample."""
    if len(file.outputs) == 1 and not isinstance(outputs, dict):
        outputs = [outputs]
    named = _named(outputs, file)
    # More rows than samples are right only where `max_samples` cut the samples off.
    is_cut_off = count == max_samples
    for values in named.values():
        rows = len(values) if values.ndim else 0
        if rows < count or (rows > count and not is_cut_off):
            raise ValueError(
                f"Expected `model` to be a Keras model, or its outputs for the {count} "
                f"samples of `data`. Received: outputs of shape {values.shape}"
            )
    return named


def _named(outputs: Outputs, file: TfliteFile) -> Samples:
    """Returns the outputs by name; a list is in the order of the model's outputs."""
    names = [port.name for port in file.outputs]
    if not isinstance(outputs, dict):
        # So the converter names the outputs of a model that gives no dict.
        outputs = {f"output_{i}": values for i, values in enumerate(outputs)}
    if len(names) == len(outputs) == 1:
        outputs = dict(zip(names, outputs.values(), strict=True))
    if set(outputs) != set(names):
        raise ValueError(
            f"Expected the model to give what the file gives, {sorted(names)}. "
            f"Received: outputs {sorted(outputs)}"
        )
    return {name: np.asarray(outputs[name]) for name in names}


def _check_shapes(outputs: Samples, file: TfliteFile) -> None:
    for port in file.outputs:
        expected = (file.batch_size, *outputs[port.name].shape[1:])
        if port.shape != expected:
            raise ValueError(
                "Expected the file to give what the model gives, outputs of shape "
                f"{expected} per batch. Received: path={file.path!r}, which gives "
                f"{port.shape}"
            )


def _parity(
    path: str,
    actual: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
) -> Parity:
    """Returns the `Parity` of outputs `(N, ...)` of the file and of the model."""
    errors = []
    magnitudes = []
    agreements = []
    for name, values in expected.items():
        # In float64, so that the difference is not rounded once more.
        exact = values.astype("float64")
        errors.append(np.abs(actual[name] - exact).ravel())
        magnitudes.append(np.abs(exact).max())
        has_classes = exact.ndim > 1 and exact.shape[-1] > 1
        if has_classes:
            agrees = actual[name].argmax(axis=-1) == exact.argmax(axis=-1)
            agreements.append(agrees.ravel())
    all_errors = np.concatenate(errors)
    top1_agreement = None
    if agreements:
        top1_agreement = float(np.concatenate(agreements).mean())
    return Parity(
        path=path,
        samples=count_samples(expected),
        max_abs_error=float(all_errors.max()),
        mean_abs_error=float(all_errors.mean()),
        max_abs_output=float(max(magnitudes)),
        top1_agreement=top1_agreement,
    )
