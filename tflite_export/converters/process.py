"""Conversion of a model that runs on JAX or torch by TensorFlow, in another process.

That process loads the saved model, and must compute what this process computes.
"""

import contextlib
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

from tflite_export.converters.parity import computed
from tflite_export.data import Samples
from tflite_export.user_warnings import warn_user

if TYPE_CHECKING:
    import keras

PYTHON = "TENSORFLOW_PYTHON"
"""The environment variable that names an interpreter with TensorFlow."""

PROCESS = "tflite_export.converters.process_main"
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


def convert_elsewhere(
    python: str,
    model: "keras.Model",
    quantize: str | None,
    batch_size: int,
    batches: Sequence[Samples],
) -> bytes:
    """Returns the content of a `.tflite` file of a model of another backend.

    Args:
        python: An interpreter with TensorFlow.
        model: A model that `check_model` has passed.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        batches: What to calibrate on, if anything.

    Raises:
        ImportError: When the interpreter has no TensorFlow.
        RuntimeError: When the conversion fails in another way.
        ValueError: When the model cannot be converted, or not be loaded in another
            process.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_job(folder, model, quantize, batch_size, batches)
        _run(python, folder)
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
    own = [str(Path(__file__).parents[2])]
    for path in map(os.path.abspath, sys.path):
        if not any(path.startswith(prefix) for prefix in installed):
            own.append(path)
    return list(dict.fromkeys(own))
