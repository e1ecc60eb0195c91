"""Samples and what the model gives on them, in a file that goes along to the device."""

import zipfile
from pathlib import Path

import numpy as np

from tflite_export.checks import check_count, check_target
from tflite_export.data import take_samples
from tflite_export.files import replacing
from tflite_export.runtime import TfliteFile
from tflite_export.verify import expected_outputs


def save_samples(model, path, data, max_samples=16, samples_path=None):
    """Writes samples and the outputs of the model, to check the file without Keras.

    On the device, `python -m tflite_export verify model.tflite` compares with them.

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

    Args:
        model: the Keras model, see `verify`.
        path: the `.tflite` file.
        data: the samples, see `verify`.
        max_samples: how many to write at most, the first ones.
        samples_path: where to write; by default beside `path`, ending in `.npz`.

    Returns:
        Where it was written, as a `pathlib.Path`.

    Raises:
        FileNotFoundError: if there is no such file, or no folder to write to.
        ValueError: see `verify`.
    """
    target = check_target(samples_path or Path(path).with_suffix(".npz"), ".npz")
    max_samples = check_count("max_samples", max_samples, minimum=1)
    file = TfliteFile(path)
    inputs = take_samples(data, max_samples, file.sample_shapes)
    outputs = expected_outputs(model, file, inputs, max_samples)
    arrays = {f"input/{name}": values for name, values in inputs.items()}
    arrays |= {f"output/{name}": values for name, values in outputs.items()}
    with replacing(target) as temporary:
        np.savez_compressed(temporary, **arrays)
    return target


def load_samples(path):
    """Reads what `save_samples` wrote.

    Args:
        path: the `.npz` file.

    Returns:
        Two dicts of arrays: inputs and outputs, by their names in the `.tflite` file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if `save_samples` did not write it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            "Expected a file that `save_samples` wrote, on the machine with Keras. "
            f"Received: {str(path)!r}, which does not exist"
        )
    found = {"input": {}, "output": {}}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                kind, name = key.split("/", 1)
                found[kind][name] = arrays[key]
        if not all(found.values()):
            raise ValueError("it has no inputs, or no outputs")
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            "Expected a file that `save_samples` wrote. "
            f"Received: {str(path)!r}: {error}"
        ) from error
    return found["input"], found["output"]
