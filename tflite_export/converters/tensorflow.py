"""Conversion by TensorFlow's converter, in this process or in another one."""

import contextlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tflite_export.biases import quantized_with_means_kept
from tflite_export.converters.process import PYTHON, convert_elsewhere
from tflite_export.data import Samples
from tflite_export.model_checks import (
    check_float32,
    check_straight,
    import_keras,
    structure_of,
)
from tflite_export.quantization import (
    CALIBRATED,
    Quantization,
    check_integers,
    configure,
)
from tflite_export.quiet import quiet_conversion
from tflite_export.user_warnings import warn_user

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

INTERPRETER_DEPRECATION = r"\s*Warning: tf\.lite\.Interpreter is"


def is_there(backend: str) -> bool:
    """Returns whether this converter takes models of a backend here.

    Args:
        backend: The name of Keras' backend.
    """
    return backend == "tensorflow" or _interpreter() is not None


def _interpreter() -> str | None:
    """Returns an interpreter with TensorFlow, the one named or this one."""
    named = os.environ.get(PYTHON)
    if named is None and importlib.util.find_spec("tensorflow") is not None:
        return sys.executable
    return named


def convert(
    model: "keras.Model",
    quantize: Quantization | None,
    batch_size: int,
    batches: Sequence[Samples],
) -> bytes:
    """Returns the content of the file.

    Args:
        model: A model that `check_model` has passed.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        batches: What to calibrate on, where that is needed.

    Raises:
        ImportError: When the interpreter that is named has no TensorFlow.
        ValueError: When the model cannot be converted.
    """
    python = _interpreter()
    if import_keras().backend.backend() == "tensorflow" or python is None:
        return converted(model, quantize, batch_size, batches)
    return convert_elsewhere(python, model, quantize, batch_size, batches)


def converted(
    model: "keras.Model",
    quantize: Quantization | None,
    batch_size: int,
    batches: Sequence[Samples],
) -> bytes:
    """Returns the content of the file, on the TensorFlow backend.

    Args:
        model: A model that `check_model` has passed.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        batches: What to calibrate on, where that is needed.

    Raises:
        ValueError: When the model cannot be converted.
    """
    with quiet_conversion():
        traced = traced_checked(model, quantize, batch_size)
        converter = _converter(traced)
        configure(converter, quantize, batches)
        content = _converted(converter, model.name)
        if quantize in CALIBRATED:
            content = with_means_kept(content, traced, model.name, batches)
        if quantize == "int8_full":
            check_integers(content, model.name)
    return content


def with_means_kept(
    content: bytes,
    traced: "tf.types.experimental.ConcreteFunction",
    model_name: str,
    batches: Sequence[Samples],
) -> bytes:
    """Returns a quantized file with biases that make up for the rounding of kernels.

    Args:
        content: The content of the file.
        traced: The model as a graph.
        model_name: Its name.
        batches: What the file was calibrated on.
    """
    import tensorflow as tf

    converter = _converter(traced)
    configure(converter, None, ())
    with warnings.catch_warnings():
        # They were told of the quantized file.
        warnings.simplefilter("ignore")
        float_content = _converted(converter, model_name)
        # TensorFlow's own: another runtime need not be there.
        resolver = tf.lite.experimental.OpResolverType
        interpreter = tf.lite.Interpreter(
            model_content=float_content,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    return quantized_with_means_kept(content, float_content, interpreter, batches)


def traced_checked(
    model: "keras.Model",
    quantize: Quantization | None,
    batch_size: int,
) -> "tf.types.experimental.ConcreteFunction":
    """Returns the model as a graph, if it is one that can be converted.

    Args:
        model: A model that `check_model` has passed.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.

    Raises:
        ValueError: When it computes in half precision, or has loops where
            `quantize` admits none.
    """
    traced = _trace(model, batch_size)
    check_float32(traced, model.name)
    if quantize in CALIBRATED:
        check_straight(traced, model.name)
    return traced


def _trace(
    model: "keras.Model",
    batch_size: int,
) -> "tf.types.experimental.ConcreteFunction":
    """Returns the model at inference as a graph, for batches of this size."""
    import keras
    import tensorflow as tf

    structure = structure_of(model)

    @tf.function(autograph=False)
    def serve(*tensors):
        inputs = keras.tree.pack_sequence_as(structure, list(tensors))
        return model(inputs, training=False)

    signature = []
    for tensor in keras.tree.flatten(structure):
        shape = (batch_size, *tensor.shape[1:])
        signature.append(tf.TensorSpec(shape, tensor.dtype, tensor.name))
    return serve.get_concrete_function(*signature)


def _converter(
    traced: "tf.types.experimental.ConcreteFunction",
) -> "tf.lite.TFLiteConverter":
    import tensorflow as tf

    # Given the Keras model to keep the variables alive, the converter does not
    # freeze them: it writes a file that reads uninitialised memory. A plain module
    # that holds just the variables is frozen right, and keeps the signature.
    variables = tf.Module()
    variables.held = traced.graph.variables
    return tf.lite.TFLiteConverter.from_concrete_functions([traced], variables)


def _converted(converter: "tf.lite.TFLiteConverter", model_name: str) -> bytes:
    """Returns the content of the file; names the operations that it cannot have."""
    with built_in_only(model_name), warnings.catch_warnings(record=True) as caught:
        # The converter's own use of it, on calibration data.
        warnings.filterwarnings("ignore", INTERPRETER_DEPRECATION)
        content = converter.convert()
    # They are about the model, and would point at a line inside TensorFlow.
    for each in caught:
        warn_user(each.message)
    return content


@contextlib.contextmanager
def built_in_only(model_name: str) -> Iterator[None]:
    """Turns the error of a converter for operations that are not built in into ours.

    Args:
        model_name: The model's name, for the error.

    Raises:
        ValueError: When there are such operations; names them.
    """
    try:
        yield
    except Exception as error:
        missing = _missing_operations(error)
        if not missing:
            raise
        raise ValueError(
            "Expected a model that the built-in operations of TensorFlow Lite can "
            f"compute. Received: model {model_name!r}, which needs "
            f"{', '.join(missing)}. Replace these operations "
            "by others, or take them out of the model."
        ) from None


def _missing_operations(error: Exception) -> list[str]:
    """Returns the operations that a converter's error names, sorted."""
    # The class of the error has no public name, the list it collected has.
    names = {each.operator.name for each in getattr(error, "errors", ())}
    return sorted(name for name in names if name)
