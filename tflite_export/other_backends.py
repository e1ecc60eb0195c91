"""Conversion of a model that runs on JAX or torch.

TensorFlow converts: in a process of its own, which loads the saved model and must
compute what this process computes. Where there is none, `litert-torch` converts a model
of torch.
"""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.data import Samples
from tflite_export.model_checks import import_keras, structure_of
from tflite_export.runtime import run
from tflite_export.user_warnings import warn_user

if TYPE_CHECKING:
    import keras

PYTHON = "TENSORFLOW_PYTHON"
"""The environment variable that names an interpreter with TensorFlow."""

PROCESS = "tflite_export.conversion_process"
ERRORS = {"ImportError": ImportError, "ValueError": ValueError}
"""Of the other process, by name; all others are a `RuntimeError` that names them."""

MODEL = "model.keras"
FILE = "model.tflite"
JOB = "job.json"
SAID = "said.json"
SAMPLES = "samples.npz"
CHECKED = "checked.npz"

CHECKED_SAMPLES = 2
"""Of a model without a fixed batch: those that both processes compute."""

TOLERANCE = 1e-3
"""The largest difference of an output, over the largest output."""


def convert_elsewhere(
    model: "keras.Model",
    quantize: str | None,
    batch_size: int,
    batches: Sequence[Samples],
) -> bytes:
    """Returns the content of a `.tflite` file of a model of another backend.

    Args:
        model: A model that `check_model` has passed.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        batches: What to calibrate on, if anything.

    Raises:
        ImportError: When nothing is installed that converts; says what could be.
        RuntimeError: When the conversion fails in another way.
        ValueError: When the model cannot be converted, or not be loaded in another
            process.
    """
    python = os.environ.get(PYTHON)
    if python is None and importlib.util.find_spec("tensorflow") is not None:
        python = sys.executable
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if python is not None:
            _write_job(folder, model, quantize, batch_size, batches)
            _run(python, folder)
        else:
            _convert_by_torch(folder / FILE, model, quantize, batch_size)
        return (folder / FILE).read_bytes()


def _write_job(
    folder: Path,
    model: "keras.Model",
    quantize: str | None,
    batch_size: int,
    batches: Sequence[Samples],
) -> None:
    """Writes what the other process needs into a folder."""
    modules = _modules_of(model)
    with warnings.catch_warnings():
        # Of optimizers and of layers that are not built: both are of no use there.
        warnings.simplefilter("ignore")
        model.save(folder / MODEL)
    job = {
        "quantize": quantize,
        "batch_size": batch_size,
        "modules": modules,
        "inputs": [tensor.name for tensor in model.inputs],
    }
    (folder / JOB).write_text(json.dumps(job))
    arrays: dict[str, Any] = {}
    for i, batch in enumerate(batches):
        for name, array in batch.items():
            arrays[f"{i}/{name}"] = array
    np.savez(folder / SAMPLES, **arrays)
    inputs, outputs = computed(model, CHECKED_SAMPLES)
    values: dict[str, Any] = {f"input_{i}": array for i, array in enumerate(inputs)}
    values |= {f"output_{i}": array for i, array in enumerate(outputs)}
    np.savez(folder / CHECKED, **values)


def _modules_of(model: "keras.Model") -> list[str]:
    """Returns the modules of the user's own layers, which loading needs.

    Raises:
        ValueError: When a layer's class is of the script that runs.
    """
    modules = set()
    for layer in model._flatten_layers():
        module = type(layer).__module__
        if module == "__main__":
            raise ValueError(
                "Expected layers of classes that another process can import, as "
                "TensorFlow converts the model in one. Received: layer "
                f"{layer.name!r} of the class {type(layer).__name__} in the script "
                "that runs: put the class into a module, and import it from there."
            )
        if module.split(".")[0] != "keras":
            modules.add(module)
    return sorted(modules)


def computed(
    model: "keras.Model",
    examples: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns random inputs of a model, integers being 0 or 1, and its outputs.

    Args:
        model: A Functional or Sequential Keras model.
        examples: How many, unless the model's inputs say it.
    """
    keras = import_keras()
    rng = np.random.default_rng(0)
    inputs = []
    for tensor in model.inputs:
        shape = (tensor.shape[0] or examples, *tensor.shape[1:])
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        is_float = "float" in dtype
        values = rng.normal(size=shape) if is_float else rng.integers(0, 2, shape)
        inputs.append(values.astype(dtype))
    return inputs, outputs_of(model, inputs)


def outputs_of(model: "keras.Model", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns a model's outputs at inference, in a row.

    Args:
        model: A Functional or Sequential Keras model.
        inputs: An array for each of its inputs.
    """
    keras = import_keras()
    tensors = [keras.ops.convert_to_tensor(array) for array in inputs]
    given = keras.tree.pack_sequence_as(structure_of(model), tensors)
    made = keras.tree.flatten(model(given, training=False))
    return [keras.ops.convert_to_numpy(output) for output in made]


def _run(python: str, folder: Path) -> None:
    """Converts in a process with TensorFlow; its errors and warnings are ours."""
    environment = os.environ | {
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": os.pathsep.join(_own_paths()),
    }
    done = subprocess.run(
        [python, "-m", PROCESS, str(folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
    )
    said: dict[str, Any] = {"warnings": [], "error": None}
    with contextlib.suppress(FileNotFoundError):
        said = json.loads((folder / SAID).read_text())
    for text in said["warnings"]:
        warn_user(text)
    if said["error"] is not None:
        kind, text = said["error"]
        if kind in ERRORS:
            raise ERRORS[kind](text)
        raise RuntimeError(f"TensorFlow failed to convert the model. {kind}: {text}")
    if done.returncode != 0:
        # Without TensorFlow there, or ended by the system.
        raise ImportError(
            f"Expected an interpreter with Keras and TensorFlow, {PYTHON} or this one, "
            f"to convert the model. Received: {python}, which ends with "
            f"{done.returncode}: {done.stderr.strip()[-500:]}"
        )


def _own_paths() -> list[str]:
    """Returns the folders that modules are found in which are not installed."""
    installed = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    own = [str(Path(__file__).parent.parent)]
    for path in map(os.path.abspath, sys.path):
        if not any(path.startswith(prefix) for prefix in installed):
            own.append(path)
    return list(dict.fromkeys(own))


def _convert_by_torch(
    path: Path,
    model: "keras.Model",
    quantize: str | None,
    batch_size: int,
) -> None:
    """Writes a file by `litert-torch`."""
    keras = import_keras()
    backend = keras.backend.backend()
    if backend != "torch" or importlib.util.find_spec("litert_torch") is None:
        other = ", or install `litert-torch`" if backend == "torch" else ""
        raise ImportError(
            "Expected TensorFlow to convert a model of the backend "
            f"{backend}. Received: an environment without it. Install it, or name an "
            f"interpreter that has it and Keras in {PYTHON}{other}."
        )
    if quantize is not None:
        raise ValueError(
            "Expected `quantize=None` where litert-torch converts. Received: "
            f"quantize={quantize!r}. Install TensorFlow, or name an interpreter with "
            f"that and Keras in {PYTHON}."
        )
    signature = []
    for tensor in model.inputs:
        shape = (batch_size, *tensor.shape[1:])
        signature.append(keras.InputSpec(tensor.dtype, shape, name=tensor.name))
    structure = keras.tree.pack_sequence_as(structure_of(model), signature)
    model.export(path, "litert", verbose=False, input_signature=[structure])
    _check_file(path, model, batch_size)


def _check_file(path: Path, model: "keras.Model", batch_size: int) -> None:
    """Raises a ValueError unless a file computes what the model does.

    That of a model of several inputs, whose order the file does not tell, is not run.
    """
    if len(model.inputs) > 1:
        return
    (x,), expected = computed(model, batch_size)
    found = run(path, x)
    check_equal(list(found.values()), expected, "litert-torch")


def check_equal(
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    converter: str,
) -> None:
    """Raises a ValueError unless outputs are those expected.

    Args:
        found: What was computed on the way to the file.
        expected: What the model computes on its own backend.
        converter: What converts it, for the error.
    """
    for values, wanted in zip(found, expected, strict=True):
        largest = np.max(np.abs(wanted), initial=0, where=np.isfinite(wanted))
        tolerance = TOLERANCE * largest
        if not np.allclose(values, wanted, rtol=0, atol=tolerance, equal_nan=True):
            error = np.max(np.abs(values - wanted))
            raise ValueError(
                f"Expected the model to compute the same by {converter}, which "
                f"converts it. Received: an output that differs by {error:.3g}, where "
                f"the largest is {largest:.3g}"
            )
