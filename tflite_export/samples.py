"""Sample files: inputs and the model's outputs, to go along to the device."""

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.checks import check_count, check_target
from tflite_export.data import Data, Samples, take_samples
from tflite_export.files import replacing
from tflite_export.runtime import TfliteFile
from tflite_export.verify import expected_outputs

if TYPE_CHECKING:
    import keras

# Samples to write by default: a few already show a file that computes something else,
# and travel to the device with it.
MAX_SAMPLES = 16

SUFFIX = ".npz"
INPUT = "input"
OUTPUT = "output"

UNREADABLE = (ValueError, EOFError, zipfile.BadZipFile)
"""The errors of `np.load` for files of another kind, and those cut off."""


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
    target = check_target(samples_path or Path(path).with_suffix(SUFFIX), SUFFIX)
    max_samples = check_count("max_samples", max_samples, minimum=1)
    file = TfliteFile(path)
    inputs = take_samples(data, max_samples, file.sample_shapes)
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
    if not Path(path).is_file():
        raise FileNotFoundError(
            "Expected a file that `save_samples` wrote, on the machine with Keras. "
            f"Received: {str(path)!r}, which does not exist"
        )
    try:
        return _read(path)
    except UNREADABLE as error:
        raise ValueError(
            "Expected a file that `save_samples` wrote. "
            f"Received: {str(path)!r}: {error}"
        ) from error


def _read(path: str | Path) -> tuple[Samples, Samples]:
    found: dict[str, Samples] = {INPUT: {}, OUTPUT: {}}
    # Never unpickled: the file may come from anywhere.
    arrays = np.load(path, allow_pickle=False)
    if isinstance(arrays, np.ndarray):
        raise ValueError("it holds a single array")
    with arrays:
        for key in arrays.files:
            kind, separator, name = key.partition("/")
            if not separator or kind not in found:
                raise ValueError(f"it holds an array named {key!r}")
            found[kind][name] = arrays[key]
    if not found[INPUT] or not found[OUTPUT]:
        raise ValueError("it has no inputs, or no outputs")
    return found[INPUT], found[OUTPUT]
