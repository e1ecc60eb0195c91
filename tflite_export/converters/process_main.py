"""The process with TensorFlow in which a model of another backend is converted.

    python -m tflite_export.converters.process_main FOLDER

It reads from the folder what `process` has written there.
"""

import importlib
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.converters.parity import check_equal, outputs_of
from tflite_export.converters.process import (
    CHECKED,
    FILE,
    JOB,
    MODEL,
    SAID,
    SAMPLES,
)
from tflite_export.converters.tensorflow import converted
from tflite_export.data import Samples
from tflite_export.model_checks import structure_of
from tflite_export.quiet import quiet_tensorflow

if TYPE_CHECKING:
    import keras


def main(folder: Path) -> int:
    """Converts the model of a folder; returns the exit code.

    Args:
        folder: Has the model, what to do with it, and what it computes. Gets the file,
            and what there is to say: warnings, and the error if there was one.
    """
    said: dict[str, list[str] | None] = {"warnings": [], "error": None}
    with warnings.catch_warnings(record=True) as caught, quiet_tensorflow():
        warnings.simplefilter("default", UserWarning)
        try:
            content = _converted(folder)
        except Exception as error:
            # Whatever it is: the process that waits tells the user.
            said["error"] = [type(error).__name__, str(error)]
    own = [str(each.message) for each in caught if each.category is UserWarning]
    said["warnings"] = own
    (folder / SAID).write_text(json.dumps(said))
    if said["error"] is not None:
        return 1
    (folder / FILE).write_bytes(content)
    return 0


def _converted(folder: Path) -> bytes:
    import keras

    job = json.loads((folder / JOB).read_text())
    for module in job["modules"]:
        importlib.import_module(module)
    try:
        # It was written by the process that waits for this one.
        model = keras.saving.load_model(folder / MODEL, compile=False, safe_mode=False)
    except Exception as error:
        # Whatever it is: layers of the user's may be among it.
        raise ValueError(
            "Expected a model that another process can load, as TensorFlow converts it "
            f"in one. Received: {type(error).__name__}: {error}"
        ) from error
    _check_values(model, folder)
    model = _with_inputs(model, job["inputs"])
    batches: list[Samples] = []
    with np.load(folder / SAMPLES) as arrays:
        for key in arrays:
            number, name = key.split("/", 1)
            if int(number) == len(batches):
                batches.append({})
            batches[int(number)][name] = arrays[key]
    return converted(model, job["quantize"], job["batch_size"], batches)


def _with_inputs(model: "keras.Model", names: list[str]) -> "keras.Model":
    """Returns a model whose inputs have these names, which the file gets.

    One without a name of its own has another one when it is loaded.
    """
    import keras

    if names == [tensor.name for tensor in model.inputs]:
        return model
    inputs = []
    for tensor, name in zip(model.inputs, names, strict=True):
        shape = tensor.shape
        inputs.append(keras.Input(batch_shape=shape, dtype=tensor.dtype, name=name))
    given = keras.tree.pack_sequence_as(structure_of(model), inputs)
    return keras.Model(given, model(given), name=model.name)


def _check_values(model: "keras.Model", folder: Path) -> None:
    """Raises a ValueError unless the model computes what it did on its own backend."""
    with np.load(folder / CHECKED) as values:
        given = [values[key] for key in values if key.startswith("input_")]
        expected = [values[key] for key in values if key.startswith("output_")]
    check_equal(outputs_of(model, given), expected, "TensorFlow")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
