"""Checks of models before conversion: those that cannot become a `.tflite` file."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

INPUT_NAME = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.>-]*")
"""The names that TensorFlow leaves as they are."""

HALF_TYPES = {"float16", "bfloat16"}
CONTROL_FLOW = {"While", "StatelessWhile", "If", "StatelessIf"}


def import_keras() -> Any:
    """Returns the module `keras`.

    Raises:
        ImportError: When Keras or its backend is not installed; says how to.
    """
    try:
        import keras
    except ImportError as error:
        raise ImportError(
            "Expected Keras and its backend, which models are read with, and "
            "TensorFlow, which converts them. "
            f"Received: {error}: `pip install keras tensorflow`"
        ) from error
    return keras


def check_model(model: "keras.Model", batch_size: int) -> None:
    """Raises an error unless `model` is one that conversion takes.

    Args:
        model: The object that the caller gave.
        batch_size: The batch size of the file.

    Raises:
        ImportError: When Keras or its backend is not installed.
        ValueError: When `model` is no model, or has inputs that a file cannot have.
    """
    keras = import_keras()
    inputs = getattr(model, "inputs", None)
    if not isinstance(model, keras.Model) or not inputs:
        raise ValueError(
            "Expected a Functional Keras model, or a Sequential one that starts with "
            f"`keras.Input` or is built. Received: model={model!r} "
            f"(of type {type(model)})"
        )
    for tensor in inputs:
        _check_input(tensor, batch_size)


def structure_of(model: "keras.Model") -> Any:
    """Returns the inputs of a Functional or Sequential model as it takes them."""
    is_sequential = isinstance(model, import_keras().Sequential)
    return model.inputs[0] if is_sequential else model.input


def signature_of(model: "keras.Model", batch_size: int) -> Any:
    """Returns the specs of a model's inputs, for batches of a size, as it takes them.

    Args:
        model: A Functional or Sequential Keras model.
        batch_size: Number of samples.
    """
    keras = import_keras()
    specs = []
    for tensor in model.inputs:
        shape = (batch_size, *tensor.shape[1:])
        specs.append(keras.InputSpec(tensor.dtype, shape, name=tensor.name))
    return keras.tree.pack_sequence_as(structure_of(model), specs)


def keys_of(model: "keras.Model") -> dict[str, tuple[str, ...]]:
    """Returns name of an input -> its key in the dicts that the model takes, if any.

    Args:
        model: A Functional or Sequential Keras model.
    """
    # A Sequential has no structure of inputs.
    structure = getattr(model, "input", None)
    if not isinstance(structure, dict):
        return {}
    keys: dict[str, tuple[str, ...]] = {}
    for key, tensor in structure.items():
        if hasattr(tensor, "name"):
            keys[tensor.name] = (key,)
    return keys


def _check_input(tensor: "keras.KerasTensor", batch_size: int) -> None:
    # TensorFlow renames others, and the file ends up without a signature.
    if not INPUT_NAME.fullmatch(tensor.name):
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


def check_float32(
    traced: "tf.types.experimental.ConcreteFunction",
    model_name: str,
) -> None:
    """Raises an error if a traced model computes in half precision.

    Args:
        traced: The concrete function of the model.
        model_name: The model's name, for the error.

    Raises:
        ValueError: When a tensor of the graph is of float16 or bfloat16.
    """
    dtypes = set()
    for operation in traced.graph.get_operations():
        for tensor in operation.outputs:
            dtypes.add(tensor.dtype.name)
    halves = sorted(dtypes & HALF_TYPES)
    if halves:
        raise ValueError(
            "Expected a model that computes in float32. Received: model "
            f"{model_name!r}, which computes in {', '.join(halves)}. Rebuild it under "
            '`keras.config.set_dtype_policy("float32")` and copy the weights with '
            "`set_weights`; `quantize` decides how the file stores them."
        )


def check_straight(
    traced: "tf.types.experimental.ConcreteFunction",
    model_name: str,
) -> None:
    """Raises an error for loops and branches: calibration crashes on them.

    Args:
        traced: The concrete function of the model.
        model_name: The model's name, for the error.

    Raises:
        ValueError: When the graph has a loop or a branch.
    """
    types = {operation.type for operation in traced.graph.get_operations()}
    found = sorted(types & CONTROL_FLOW)
    if found:
        raise ValueError(
            "Expected a model without loops and branches, which int8 does not take. "
            f"Received: model {model_name!r}, with {', '.join(found)}. Build recurrent "
            'layers with `unroll=True`, or use quantize="dynamic".'
        )
