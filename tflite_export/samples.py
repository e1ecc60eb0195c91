"""Sample files: inputs and the model's outputs, to go along to the device."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.checks import check_count, check_file, check_target
from tflite_export.data import NUMERIC_KINDS, Samples, take_samples
from tflite_export.data_forms import Data
from tflite_export.files import misread, read_arrays, replacing
from tflite_export.runtime import TfliteFile
from tflite_export.verify import expected_outputs, inputs_of

if TYPE_CHECKING:
    import keras

# Samples to write by default: a few already show a file that computes something else,
# and travel to the device with it.
MAX_SAMPLES = 16

SUFFIX = ".npz"
INPUT = "input"
OUTPUT = "output"

WRITER = "`save_samples`"


def save_samples(
    model: "keras.Model",
    path: str | Path,
    data: Data,
    max_samples: int = MAX_SAMPLES,
    samples_path: str | Path | None = None,
) -> Path:
    """Writes samples and the outputs of the model, to check the file without Keras.

    On the device, `python -m tflite_export verify model.tflite` compares with them.

    Args:
        model: The Keras model, see `verify`.
        path: The `.tflite` file.
        data: The samples, see `verify`.
        max_samples: Most samples to write, the first ones.
        samples_path: The file to write; by default beside `path`, ending in `.npz`.

    Returns:
        The path of the file written.

    Raises:
        FileNotFoundError: When there is no such file, or no folder to write to.
        ValueError: When the samples or the outputs do not fit the file, see `verify`.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    tflite_export.save_samples(model, path, np.random.default_rng(0).random((16, 8)))
    inputs, outputs = tflite_export.load_samples("model.npz")
    assert tflite_export.verify(outputs, path, inputs).ok()
    ```
    """
    path = check_file(path, "an existing .tflite file")
    beside = path.with_suffix(SUFFIX)
    target = check_target(beside if samples_path is None else samples_path, SUFFIX)
    max_samples = check_count("max_samples", max_samples, minimum=1)
    file = TfliteFile(path)
    inputs = take_samples(data, max_samples, inputs_of(model, file))
    outputs = expected_outputs(model, file, inputs, max_samples)
    arrays: dict[str, Any] = {}
    for name, values in inputs.items():
        arrays[f"{INPUT}/{name}"] = values
    for name, values in outputs.items():
        arrays[f"{OUTPUT}/{name}"] = values
    with replacing(target) as temporary:
        np.savez_compressed(temporary, **arrays)
    return target


def load_samples(path: str | Path) -> tuple[Samples, Samples]:
    """Reads a file that `save_samples` wrote.

    Args:
        path: The `.npz` file.

    Returns:
        Two dicts of arrays: inputs and outputs, by their names in the `.tflite` file.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When `save_samples` did not write it.
    """
    check_file(path, f"a file that {WRITER} wrote, on the machine with Keras")
    found: dict[str, Samples] = {INPUT: {}, OUTPUT: {}}
    for key, array in read_arrays(path, WRITER).items():
        kind, _, name = key.partition("/")
        if kind not in found or not name:
            raise misread(path, WRITER, f"it holds an array named {key!r}")
        if not array.ndim or array.dtype.kind not in NUMERIC_KINDS:
            raise misread(path, WRITER, f"its entry {key!r} is no array of numbers")
        if not np.isfinite(array).all():
            raise misread(path, WRITER, f"its entry {key!r} has NaN or infinity")
        found[kind][name] = array
    if not found[INPUT] or not found[OUTPUT]:
        raise misread(path, WRITER, "it has no inputs, or no outputs")
    counts = {len(array) for kind in found.values() for array in kind.values()}
    if len(counts) > 1 or not min(counts):
        raise misread(path, WRITER, "its entries are not of as many samples, or of 0")
    return found[INPUT], found[OUTPUT]
