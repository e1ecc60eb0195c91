"""Conversion by Keras' own `model.export(format="litert")`, on TensorFlow."""

import importlib.util
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from tflite_export.converters.parity import check_file
from tflite_export.converters.tensorflow import (
    INTERPRETER_DEPRECATION,
    built_in_only,
    traced_checked,
    with_means_kept,
)
from tflite_export.data import Samples
from tflite_export.model_checks import signature_of
from tflite_export.quantization import (
    CALIBRATED,
    Quantization,
    check_integers,
    configure,
)
from tflite_export.quiet import quiet_conversion

if TYPE_CHECKING:
    import keras

NAME = "Keras"


def is_there(backend: str) -> bool:
    """Returns whether Keras exports models of a backend so: Keras 3.13 and later do.

    Args:
        backend: The name of Keras' backend.
    """
    has_format = importlib.util.find_spec("keras.src.export.litert") is not None
    return backend == "tensorflow" and has_format


def convert(
    model: "keras.Model",
    quantize: Quantization | None,
    batch_size: int,
    batches: Sequence[Samples],
) -> bytes:
    """Returns the content of the file; of one of float32 the values are checked.

    Args:
        model: A model that `check_model` has passed.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        batches: What to calibrate on, where that is needed.

    Raises:
        ValueError: When the model cannot be converted, or computes something else in
            the file.
    """
    # Keras admits Flex operations; its export takes any setting of the converter.
    settings = SimpleNamespace(target_spec=SimpleNamespace())
    configure(settings, quantize, batches)
    options = vars(settings) | {"target_spec": vars(settings.target_spec)}
    with tempfile.TemporaryDirectory() as folder, quiet_conversion():
        traced = traced_checked(model, quantize, batch_size)
        path = Path(folder) / "model.tflite"
        with built_in_only(model.name), warnings.catch_warnings():
            warnings.filterwarnings("ignore", INTERPRETER_DEPRECATION)
            model.export(
                path,
                "litert",
                verbose=False,
                input_signature=[signature_of(model, batch_size)],
                **options,
            )
        if quantize is None:
            check_file(path, model, batch_size, NAME)
        content = path.read_bytes()
        if quantize in CALIBRATED:
            content = with_means_kept(content, traced, model.name, batches)
    if quantize == "int8_full":
        check_integers(content, model.name)
    return content
