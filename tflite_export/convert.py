"""From a Keras model to a `.tflite` file of built-in operations."""

import uuid
from pathlib import Path

from tflite_export._files import check_count

QUANTIZE = (None, "float16")


def convert(model, path, quantize=None, batch_size=1):
    """Writes a Keras model as a `.tflite` file.

    The file has a fixed batch size and uses built-in operations only: the plain
    LiteRT runtime runs it, without TensorFlow's own kernels ("Flex"). The model is
    written as it runs at inference (`training=False`), and is not changed.

    The file appears in one step: a conversion that fails or is killed leaves an
    older file at `path` as it was.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential(
        [keras.Input((28, 28, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    path = tflite_export.convert(model, "model.tflite", quantize="float16")
    ```

    Args:
        model: a Functional or Sequential Keras 3 model, on the TensorFlow backend,
            computing in float32, all its input dimensions fixed but the batch. The
            signature of the file has the names of its `keras.Input`s.
        path: where to write: a name ending in `.tflite`, in an existing folder.
        quantize: `None` for float32 weights, `"float16"` for a file of half the
            size that still computes in float32.
        batch_size: how many samples the file takes at once.

    Returns:
        `path`, as a `pathlib.Path`.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
        ValueError: if an argument is not as above, or if the model needs
            operations that are not built in; the error names them.
    """
    path = _check_path(path)
    if quantize not in QUANTIZE:
        raise ValueError(
            f"Expected `quantize` to be one of {QUANTIZE}. "
            f"Received: quantize={quantize!r}"
        )
    batch_size = check_count("batch_size", batch_size, minimum=1)
    _check_model(model, batch_size)
    traced = _trace(model, batch_size)
    _check_precision(traced, model.name)
    _write(_to_flatbuffer(traced, quantize, model.name), path)
    return path


def _check_path(path):
    path = Path(path)
    if path.suffix != ".tflite" or path.is_dir():
        raise ValueError(
            "Expected `path` to be a file name ending in .tflite. "
            f"Received: path={str(path)!r}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected `path` to be in an existing folder. Received: path={str(path)!r}"
        )
    return path


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


def _to_flatbuffer(traced, quantize, name):
    import tensorflow as tf

    # Given the Keras model to keep the variables alive, the converter does not
    # freeze them: it writes a file that reads uninitialised memory. A plain module
    # that holds just the variables is frozen right, and keeps the signature.
    variables = tf.Module()
    variables.held = traced.graph.variables
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], variables)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantize == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    try:
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


def _write(content, path):
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
