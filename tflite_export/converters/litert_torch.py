"""Conversion of a model of torch by `litert-torch`, without TensorFlow."""

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
    """Returns the content of the file, whose values are checked.

    Args:
        model: A model that `check_model` has passed.
        quantize: `None`.
        batch_size: Number of samples that the file takes at once.
        batches: None.

    Raises:
        ValueError: When it is to be quantized, or computes something else in the file.
    """
    if quantize is not None:
        raise ValueError(
            f"Expected `quantize=None` where {NAME} converts. Received: "
            f"quantize={quantize!r}. Quantize the file by `tflite_export.quantize`; or "
            f"install TensorFlow, or name an interpreter with that and Keras in "
            f"{PYTHON}."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        signature = [signature_of(model, batch_size)]
        model.export(path, "litert", verbose=False, input_signature=signature)
        check_file(path, model, batch_size, NAME)
        return path.read_bytes()
