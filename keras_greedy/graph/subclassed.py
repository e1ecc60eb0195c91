"""Models with a `call` of their own, as Functionals that call them."""

from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.data_forms import is_array_like
from keras_greedy.graph.nodes import without_new_nodes
from keras_greedy.graph.symbols import first_line


def functional_calling(model: keras.Model, x: Any = None) -> keras.Model:
    """Returns a Functional that calls a model and does nothing else.

    Args:
        model: A model with a `call` of its own, which is left as it is.
        x: A batch of inputs, which gives their shapes; by default they are those that
            the model was built with.

    Raises:
        ValueError: When the model is not built, or cannot be called on such inputs.
    """
    if not model.built:
        raise ValueError(
            "Expected `model` to be built, with weights worth keeping: call it on a "
            f"batch first. Received: {type(model).__name__} '{model.name}', which has "
            "never been called"
        )
    inputs = _built_with(model) if x is None else keras.tree.map_structure(_like, x)
    try:
        with without_new_nodes(model):
            return keras.Model(inputs, model(inputs), name=model.name)
    except Exception as error:
        # Whatever it is: the code is the user's.
        raise ValueError(
            "Expected `model` to be one that can be called on symbolic tensors, as "
            "`keras.Input(...)` makes them: it must not decide on values. Received: "
            f"{type(model).__name__} '{model.name}', which says: {first_line(error)}"
        ) from error


def are_inputs_of(model: keras.Model, arrays: Any) -> bool:
    """Returns whether a list has an array for each tensor that a model was called on.

    To any other model it is a list of batches.
    """
    shapes = [*(model._build_shapes_dict or {}).values()]
    if not isinstance(arrays, list) or len(shapes) != 1:
        return False
    of_tensors = [shape for shape in shapes[0] if isinstance(shape, list | tuple)]
    return 1 < len(of_tensors) == len(arrays) and all(map(is_array_like, arrays))


def _built_with(model: keras.Model) -> Any:
    """Returns inputs of the shapes that a model was built with."""
    # A Sequential has its graph in a Functional, and a Functional is one.
    graph = getattr(model, "_functional", model)
    if isinstance(getattr(graph, "inputs", None), list):
        return keras.tree.map_structure(
            lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype),
            graph.input,
        )
    shapes = model._build_shapes_dict or {}
    given = [*shapes.values()]
    if len(given) != 1:
        raise ValueError(
            "Expected `model` to have been called on one argument, whose shape is "
            "known. Received: "
            f"{type(model).__name__} '{model.name}'; express it with "
            "`keras.Model(inputs, model(inputs))`"
        )
    return keras.tree.map_shape_structure(
        lambda shape: keras.Input(shape[1:], dtype=model.input_dtype),
        given[0],
    )


def _like(batch: Any) -> KerasTensor:
    """Returns an input for batches like this one."""
    array = np.asarray(batch)
    dtype = "float32" if array.dtype.kind == "f" else array.dtype.name
    return keras.Input(array.shape[1:], dtype=dtype)
