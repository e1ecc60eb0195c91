"""Conversion of a Keras model to a `.tflite` file of built-in operations."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tflite_export.checks import check_count, check_target
from tflite_export.converters.registry import ConverterName, choose
from tflite_export.data import Samples
from tflite_export.data_forms import Data
from tflite_export.files import replacing
from tflite_export.model_checks import check_model, import_keras
from tflite_export.quantization import (
    CALIBRATED,
    REPRESENTATIVE_SAMPLES,
    Quantization,
    check_quantize,
    read_representative,
)

if TYPE_CHECKING:
    import keras


def convert(
    model: "keras.Model",
    path: str | Path,
    quantize: Quantization | None = None,
    batch_size: int = 1,
    representative_data: Data = None,
    representative_samples: int = REPRESENTATIVE_SAMPLES,
    converter: ConverterName | None = None,
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
    tensor, for the sake of older runtimes). With data, biases make up for the mean of
    what rounding the weights changes in the output of a layer.

    Args:
        model: A Functional or Sequential Keras 3 model, computing in float32, all its
            input dimensions fixed but the batch. On the backends JAX and torch it is
            saved, and converted in a process with TensorFlow: of this interpreter, or
            of the one that TENSORFLOW_PYTHON names in the environment; classes of your
            own must be importable there. Without TensorFlow, litert-torch converts a
            model of torch, with names of inputs of its own; litert-quantizer then
            makes the integers. The signature of the file has the names of its
            `keras.Input`s, and those of its outputs if it gives a dict; else they are
            `output_0`, `output_1`...
        path: The file to write: a name ending in `.tflite`, in an existing folder.
        quantize: The way to store and compute numbers, see the table.
        batch_size: Number of samples that the file takes at once.
        representative_data: For `"int8"` and `"int8_full"`, typical inputs,
            pre-processed as for the model: an array, a tuple `(x, y)`, or an iterable
            (`tf.data.Dataset`, `PyDataset`, list, generator...) of batches `x` or
            `(x, y)`; for several inputs x is a dict by their names, or a list.
        representative_samples: Most of these to read, the first ones.
        converter: `"tensorflow"`, TensorFlow's own; `"keras"`, Keras'
            `export("litert")`, on the TensorFlow backend; or `"litert-torch"`. By
            default the first of these that is there.

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
        converter,
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
    converter: ConverterName | None = None,
) -> bytes:
    """Converts as `convert` does, and returns the content of the file.

    Args:
        model: The Keras model, see `convert`.
        quantize: The way to store and compute numbers, see `convert`.
        batch_size: Number of samples that the file takes at once.
        representative_data: Typical inputs, see `convert`.
        representative_samples: Most of these to read, the first ones.
        converter: What converts, see `convert`.

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
    function = choose(converter, import_keras().backend.backend())
    batches: Sequence[Samples] = ()
    # Read before tracing, so that wrong data are told before any long work.
    if quantize in CALIBRATED:
        batches = read_representative(
            model,
            representative_data,
            representative_samples,
            batch_size,
        )
    return function(model, quantize, batch_size, batches)
