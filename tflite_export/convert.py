"""Conversion of a Keras model to a `.tflite` file of built-in operations."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tflite_export.checks import check_count, check_target
from tflite_export.data import Samples
from tflite_export.data_forms import Data
from tflite_export.files import replacing
from tflite_export.model_checks import (
    check_float32,
    check_model,
    check_straight,
    import_keras,
    structure_of,
)
from tflite_export.other_backends import convert_elsewhere
from tflite_export.quantization import (
    CALIBRATED,
    REPRESENTATIVE_SAMPLES,
    Quantization,
    check_integers,
    check_quantize,
    configure,
    read_representative,
)
from tflite_export.quiet import quiet_conversion
from tflite_export.user_warnings import warn_user

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

INTERPRETER_DEPRECATION = r"\s*Warning: tf\.lite\.Interpreter is"


def convert(
    model: "keras.Model",
    path: str | Path,
    quantize: Quantization | None = None,
    batch_size: int = 1,
    representative_data: Data = None,
    representative_samples: int = REPRESENTATIVE_SAMPLES,
) -> Path:
    """Writes a Keras model as a `.tflite` file.

    The file has a fixed batch size and uses built-in operations only: the plain
    LiteRT runtime runs it, without TensorFlow's own kernels ("Flex"). The model is
    written as it runs at inference (`training=False`), and is not changed.

    The file appears in one step: a conversion that fails or is killed leaves an
    older file at `path` as it was.

    | `quantize` | weights | computes in | inputs and outputs |
    |---|---|---|---|
    | `None` | float32 | float32 | float32 |
    | `"float16"` | float16 | float32 | float32 |
    | `"dynamic"` | int8 | int8 and float32 | float32 |
    | `"int8"` | int8 | int8, float32 where there is no int8 operation | float32 |
    | `"int8_full"` | int8 | int8 only, or an error | int8 |

    Weights of int8 are scaled per output channel (dense ones of `"dynamic"`: per
    tensor, for the sake of older runtimes).

    Args:
        model: A Functional or Sequential Keras 3 model, computing in float32, all its
            input dimensions fixed but the batch. On the backends JAX and torch it is
            saved, and converted in a process with TensorFlow: of this interpreter, or
            of the one that TENSORFLOW_PYTHON names in the environment; classes of your
            own must be importable there. Without TensorFlow, litert-torch converts a
            model of torch, unquantized, with names of inputs of its own. The
            signature of the file has the names of its `keras.Input`s, and those of
            its outputs if it gives a dict; else they are `output_0`, `output_1`...
        path: The file to write: a name ending in `.tflite`, in an existing folder.
        quantize: The way to store and compute numbers, see the table.
        batch_size: Number of samples that the file takes at once.
        representative_data: For `"int8"` and `"int8_full"`, typical inputs,
            pre-processed as for the model: an array, a tuple `(x, y)`, or an iterable
            (`tf.data.Dataset`, `PyDataset`, list, generator...) of batches `x` or
            `(x, y)`; for several inputs x is a dict by their names, or a list.
        representative_samples: Most of these to read, the first ones.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: When the folder of `path` does not exist.
        ImportError: When Keras or what converts is not installed; says how to.
        ValueError: When an argument is not as above, or when the model needs
            operations that are not built in; the error names them.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    tflite_export.convert(model, "half.tflite", quantize="float16")
    images = np.random.default_rng(0).random((100, 28, 28, 1))
    tflite_export.convert(
        model, "int8.tflite", quantize="int8", representative_data=images
    )
    ```
    """
    path = check_target(path, ".tflite")
    content = to_bytes(
        model,
        quantize,
        batch_size,
        representative_data,
        representative_samples,
    )
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def to_bytes(
    model: "keras.Model",
    quantize: Quantization | None = None,
    batch_size: int = 1,
    representative_data: Data = None,
    representative_samples: int = REPRESENTATIVE_SAMPLES,
) -> bytes:
    """Converts as `convert` does, and returns the content of the file.

    Args:
        model: The Keras model, see `convert`.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        representative_data: Typical inputs, see `convert`.
        representative_samples: Most of these to read, the first ones.

    Returns:
        The content of a `.tflite` file.

    Raises:
        ImportError: When Keras or TensorFlow is not installed; says how to.
        ValueError: When an argument or the model is not as for `convert`.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    content = tflite_export.to_bytes(model, quantize="float16")
    with open("model.tflite", "wb") as file:
        file.write(content)
    ```
    """
    batch_size = check_count("batch_size", batch_size, minimum=1)
    check_quantize(quantize, representative_data)
    check_model(model, batch_size)
    batches: Sequence[Samples] = ()
    # Read before tracing, so that wrong data are told before any long work.
    if quantize in CALIBRATED:
        batches = read_representative(
            model,
            representative_data,
            representative_samples,
            batch_size,
        )
    if import_keras().backend.backend() != "tensorflow":
        return convert_elsewhere(model, quantize, batch_size, batches)
    return converted(model, quantize, batch_size, batches)


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
        traced = _trace(model, batch_size)
        check_float32(traced, model.name)
        if quantize in CALIBRATED:
            check_straight(traced, model.name)
        converter = _converter(traced)
        configure(converter, quantize, batches)
        content = _converted(converter, model.name)
        if quantize == "int8_full":
            check_integers(content, model.name)
    return content


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
    try:
        with warnings.catch_warnings(record=True) as caught:
            # The converter's own use of it, on calibration data.
            warnings.filterwarnings("ignore", INTERPRETER_DEPRECATION)
            content = converter.convert()
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
    # They are about the model, and would point at a line inside TensorFlow.
    for each in caught:
        warn_user(each.message)
    return content


def _missing_operations(error: Exception) -> list[str]:
    """Returns the operations that a converter's error names, sorted."""
    # The class of the error has no public name, the list it collected has.
    names = {each.operator.name for each in getattr(error, "errors", ())}
    return sorted(name for name in names if name)
