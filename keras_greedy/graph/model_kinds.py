"""Models of a graph of layers, and models with a `call` of their own."""

from typing import Any

import keras
from keras.src.models.functional import Functional

from keras_greedy.graph.subclassed import functional_calling


def check_model(model: Any) -> Functional:
    """Returns the built Functional that backs `model`, or that calls it.

    Raises:
        ValueError: When `model` is no model, not built, or cannot be called on
            symbolic tensors.
    """
    if has_graph(model):
        return model._functional if isinstance(model, keras.Sequential) else model
    if is_subclassed(model):
        return functional_calling(model)
    if isinstance(model, keras.Sequential) and _calls_as(model, keras.Sequential):
        raise ValueError(
            "Expected `model` to be built: call `model.build(input_shape)` or "
            f"start it with `keras.Input`. Received: model={model!r}"
        )
    raise ValueError(
        "Expected `model` to be a keras.Model. Received: model="
        f"{model!r} of type {type(model).__name__}"
    )


def check_has_graph(model: keras.Model) -> None:
    """Raises a ValueError for a model with a `call` of its own, or not built."""
    if is_subclassed(model):
        raise ValueError(
            "Expected a Functional or Sequential keras.Model without a `call` of its "
            "own, of which there is no graph: express it with `keras.Model(inputs, "
            f"outputs)`. Received: model={model!r} of type {type(model).__name__}"
        )
    check_model(model)


def has_graph(model: Any) -> bool:
    """Returns whether `model` is a model that computes its graph of layers."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None and _calls_as(model, keras.Sequential)
    return isinstance(model, Functional) and _calls_as(model, Functional)


def is_subclassed(model: Any) -> bool:
    """Returns whether `model` is a model with a `call` of its own."""
    if not isinstance(model, keras.Model) or has_graph(model):
        return False
    return not _calls_as(model, keras.Sequential)


def _calls_as(
    model: keras.Model,
    base: type[keras.Model],
) -> bool:
    return type(model).call is base.call


def wrapped(functional: Functional) -> keras.Layer | None:
    """Returns the model that a Functional does nothing but call, if it has no graph."""
    operations = [
        operation
        for operation in functional.operations
        if not isinstance(operation, keras.layers.InputLayer)
    ]
    if len(operations) != 1 or not isinstance(operations[0], keras.Model):
        return None
    return None if has_graph(operations[0]) else operations[0]
