"""Conversion of a model of torch by `litert-torch`, without TensorFlow.

Integers are left to litert-quantizer.
"""

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tflite_export.converters.parity import check_file
from tflite_export.converters.process import PYTHON
from tflite_export.data import Samples
from tflite_export.model_checks import signature_of
from tflite_export.quantization import Quantization
from tflite_export.quantizer import check_installed, quantized_bytes
from tflite_export.runtime import TfliteFile

if TYPE_CHECKING:
    import keras

NAME = "litert-torch"


def is_there(backend: str) -> bool:
    """Returns whether this converter takes models of a backend here.

    Args:
        backend: The name of Keras' backend.
    """
    return backend == "torch" and importlib.util.find_spec("litert_torch") is not None


def convert(
    model: "keras.Model",
    quantize: Quantization | None,
    batch_size: int,
    batches: Sequence[Samples],
) -> bytes:
    """Returns the content of the file; the values of the float one are checked.

    Args:
        model: A model that `check_model` has passed.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        batches: What to calibrate on, where that is needed.

    Raises:
        ImportError: When it is to be quantized, and litert-quantizer is not installed.
        ValueError: When it computes something else in the file, or is calibrated and
            has several inputs.
    """
    if quantize is not None:
        check_installed()
    if batches and len(model.inputs) > 1:
        # The file does not tell which of its inputs is which.
        raise ValueError(
            f"Expected a model of one input where {NAME} converts and "
            f"quantize={quantize!r}. Received: a model of {len(model.inputs)}. Install "
            f"TensorFlow, or name an interpreter with that and Keras in {PYTHON}."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        signature = [signature_of(model, batch_size)]
        model.export(path, "litert", verbose=False, input_signature=signature)
        check_file(path, model, batch_size, NAME)
        content = path.read_bytes()
        names = [port.name for port in TfliteFile(path).inputs]
    if quantize is None:
        return content
    renamed = [dict(zip(names, batch.values(), strict=True)) for batch in batches]
    return quantized_bytes(content, quantize, renamed)
