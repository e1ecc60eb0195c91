"""Does the `.tflite` file compute what the model computes?"""

import dataclasses
import json

import numpy as np

from tflite_export._files import check_count, open_tflite
from tflite_export._samples import check_finite, take_samples


@dataclasses.dataclass(frozen=True)
class Parity:
    """How far the outputs of a `.tflite` file are from those of its model.

    Attributes:
        path: the file.
        samples: how many samples were compared.
        max_abs_error: the largest difference of an output value.
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

    def ok(self, tolerance=1e-4):
        """Returns whether no output value is off by more than `tolerance`.

        Args:
            tolerance: the largest absolute difference allowed. The default suits
                the probabilities of a float32 file.
        """
        return self.max_abs_error <= tolerance

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

    Both get the same samples, in batches of the file's size.

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
        model: the Keras model, or an array of the outputs that it gave on `data`,
            one row per sample.
        path: the file, with one input and one output.
        data: the samples, pre-processed as for the model: one array, a tuple
            `(x, y)`, or an iterable (`tf.data.Dataset`, `PyDataset`, list...) of
            batches `x` or `(x, y)`.
        max_samples: how many samples to compare at most, the first ones.

    Returns:
        A `Parity`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `data` is empty, does not fit the file, or is not finite; if
            the file gives something other in shape than the model, or not finite;
            or if the file is not one that can be compared.
    """
    max_samples = check_count("max_samples", max_samples, minimum=1)
    interpreter = open_tflite(path)
    source = _only_tensor(interpreter.get_input_details(), "input", path)
    sink = _only_tensor(interpreter.get_output_details(), "output", path)
    batch_size, *shape = map(int, source["shape"])
    samples = take_samples(data, max_samples, tuple(shape))
    count = len(samples)
    samples = _pad(samples, batch_size)
    if hasattr(model, "predict"):
        expected = _predict(model, samples, batch_size)[:count]
    else:
        expected = _given(model, count, max_samples)
    check_finite("the outputs of the model", expected)
    if tuple(sink["shape"]) != (batch_size, *expected.shape[1:]):
        raise ValueError(
            "Expected the file to give what the model gives, outputs of shape "
            f"{(batch_size, *expected.shape[1:])} per batch. Received: "
            f"path={str(path)!r}, which gives {tuple(map(int, sink['shape']))}"
        )
    actual = _run(interpreter, source, sink, samples)[:count]
    check_finite("the outputs of the file", actual)
    return _parity(str(path), actual, expected)


def _only_tensor(details, role, path):
    if len(details) != 1 or details[0]["quantization"][0] != 0:
        raise ValueError(
            f"Expected a file with one {role}, not quantized. Received: "
            f"path={str(path)!r}, with {role}s "
            f"{[(each['name'], each['dtype'].__name__) for each in details]}"
        )
    return details[0]


def _pad(samples, batch_size):
    missing = -len(samples) % batch_size
    return np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)])


def _predict(model, samples, batch_size):
    outputs = model.predict(samples, batch_size=batch_size, verbose=0)
    if isinstance(outputs, dict):
        outputs = list(outputs.values())
    return outputs[0] if isinstance(outputs, list) else outputs


def _given(outputs, count, max_samples):
    outputs = np.asarray(outputs)
    rows = len(outputs) if outputs.ndim else 0
    if rows < count or (rows > count and count < max_samples):
        raise ValueError(
            f"Expected `model` to be a Keras model, or its outputs for the {count} "
            f"samples of `data`. Received: outputs of shape {outputs.shape}"
        )
    return outputs[:count]


def _run(interpreter, source, sink, samples):
    outputs = []
    for start in range(0, len(samples), source["shape"][0]):
        batch = samples[start : start + source["shape"][0]]
        interpreter.set_tensor(source["index"], batch.astype(source["dtype"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(sink["index"]))
    return np.concatenate(outputs)


def _parity(path, actual, expected):
    expected = expected.astype("float64")
    error = np.abs(actual - expected)
    has_classes = expected.ndim > 1 and expected.shape[-1] > 1
    same = actual.argmax(axis=-1) == expected.argmax(axis=-1)
    return Parity(
        path=path,
        samples=len(expected),
        max_abs_error=float(error.max()),
        mean_abs_error=float(error.mean()),
        max_abs_output=float(np.abs(expected).max()),
        top1_agreement=float(same.mean()) if has_classes else None,
    )
