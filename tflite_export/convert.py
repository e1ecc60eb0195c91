"""From a Keras model to a `.tflite` file of built-in operations."""

import re
import warnings

from tflite_export.checks import check_count, check_target
from tflite_export.files import replacing
from tflite_export.quantize import (
    CALIBRATED,
    check_integers,
    check_quantize,
    check_straight,
    configure,
    read_representative,
)


def convert(
    model,
    path,
    quantize=None,
    batch_size=1,
    representative_data=None,
    representative_samples=128,
):
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

    Args:
        model: a Functional or Sequential Keras 3 model, on the TensorFlow backend,
            computing in float32, all its input dimensions fixed but the batch. The
            signature of the file has the names of its `keras.Input`s, and those of
            its outputs if it gives a dict; else they are `output_0`, `output_1`...
        path: where to write: a name ending in `.tflite`, in an existing folder.
        quantize: see the table.
        batch_size: how many samples the file takes at once.
        representative_data: for `"int8"` and `"int8_full"`, typical inputs,
            pre-processed as for the model: an array, a tuple `(x, y)`, or an iterable
            (`tf.data.Dataset`, `PyDataset`, list, generator...) of batches `x` or
            `(x, y)`; for several inputs x is a dict by their names, or a list.
        representative_samples: how many of them to read at most, the first ones.

    Returns:
        `path`, as a `pathlib.Path`.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        ValueError: if an argument is not as above, or if the model needs
            operations that are not built in; the error names them.
    """
    path = check_target(path, ".tflite")
    content = to_bytes(
        model, quantize, batch_size, representative_data, representative_samples
    )
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def to_bytes(
    model,
    quantize=None,
    batch_size=1,
    representative_data=None,
    representative_samples=128,
):
    """Converts as `convert` does, and returns what the file would hold.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    content = tflite_export.to_bytes(model, quantize="float16")
    with open("model.tflite", "wb") as file:
        file.write(content)
    ```

    Args:
        model: see `convert`.
        quantize: see `convert`.
        batch_size: see `convert`.
        representative_data: see `convert`.
        representative_samples: see `convert`.

    Returns:
        The content as `bytes`.

    Raises:
        ValueError: see `convert`.
    """
    batch_size = check_count("batch_size", batch_size, minimum=1)
    check_quantize(quantize, representative_data)
    _check_model(model, batch_size)
    batches = None
    if quantize in CALIBRATED:
        batches = read_representative(
            model, representative_data, representative_samples, batch_size
        )
    traced = _trace(model, batch_size)
    _check_precision(traced, model.name)
    if quantize in CALIBRATED:
        check_straight(traced, model.name)
    converter = _converter(traced)
    configure(converter, quantize, batches)
    content = _converted(converter, model.name)
    if quantize == "int8_full":
        check_integers(content, model.name)
    return content


def _check_model(model, batch_size):
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Expected Keras to run on the TensorFlow backend. Received: "
            f"backend={keras.backend.backend()!r}. Save the model and convert it in "
            "a process started with KERAS_BACKEND=tensorflow."
        )
    inputs = getattr(model, "inputs", None)
    if not isinstance(model, keras.Model) or not inputs:
        raise ValueError(
            "Expected a Functional Keras model, or a Sequential one that starts with "
            f"`keras.Input` or is built. Received: model={model!r} "
            f"(of type {type(model)})"
        )
    for tensor in inputs:
        _check_input(tensor, batch_size)


def _check_input(tensor, batch_size):
    # TensorFlow renames others, and the file ends up without a signature.
    if not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*", tensor.name):
        raise ValueError(
            "Expected names of inputs to be of letters, digits, `_`, `.` and `-`. "
            f"Received: {tensor.name!r}. Name it around the model: `x = "
            "keras.Input((224, 224, 3), name='image')`, then convert "
            "`keras.Model(x, model(x))`."
        )
    batch, *sample = tensor.shape
    if None in sample:
        raise ValueError(
            "Expected every input dimension to be fixed, but the batch. Received: "
            f"input {tensor.name!r} of shape {tuple(tensor.shape)}. Fix it around the "
            "model: `x = keras.Input((224, 224, 3))`, then convert "
            "`keras.Model(x, model(x))`."
        )
    if batch not in (None, batch_size):
        raise ValueError(
            f"Expected `batch_size` to be {batch}, which the model's input "
            f"{tensor.name!r} is fixed to. Received: batch_size={batch_size}"
        )


def _trace(model, batch_size):
    import keras
    import tensorflow as tf

    is_sequential = isinstance(model, keras.Sequential)
    structure = model.inputs[0] if is_sequential else model.input

    @tf.function(autograph=False)
    def serve(*tensors):
        inputs = keras.tree.pack_sequence_as(structure, list(tensors))
        return model(inputs, training=False)

    return serve.get_concrete_function(
        *(
            tf.TensorSpec((batch_size, *tensor.shape[1:]), tensor.dtype, tensor.name)
            for tensor in keras.tree.flatten(structure)
        )
    )


def _check_precision(traced, name):
    operations = traced.graph.get_operations()
    dtypes = {tensor.dtype.name for each in operations for tensor in each.outputs}
    halves = sorted(dtypes & {"float16", "bfloat16"})
    if halves:
        raise ValueError(
            "Expected a model that computes in float32. Received: model "
            f"{name!r}, which computes in {', '.join(halves)}. Rebuild it under "
            '`keras.config.set_dtype_policy("float32")` and copy the weights with '
            "`set_weights`; `quantize` decides how the file stores them."
        )


def _converter(traced):
    import tensorflow as tf

    # Given the Keras model to keep the variables alive, the converter does not
    # freeze them: it writes a file that reads uninitialised memory. A plain module
    # that holds just the variables is frozen right, and keeps the signature.
    variables = tf.Module()
    variables.held = traced.graph.variables
    return tf.lite.TFLiteConverter.from_concrete_functions([traced], variables)


def _converted(converter, name):
    try:
        with warnings.catch_warnings():
            # The converter's own use of it, on calibration data.
            warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter is")
            return converter.convert()
    except Exception as error:
        # The class of the error has no public name; what it collected has.
        missing = {each.operator.name for each in getattr(error, "errors", ())}
        if not any(missing):
            raise
        raise ValueError(
            "Expected a model that the built-in operations of TensorFlow Lite can "
            f"compute. Received: model {name!r}, which needs "
            f"{', '.join(sorted(filter(None, missing)))}. Replace these operations "
            "by others, or take them out of the model."
        ) from None
