"""Classes and functions of the user's that a layer is made of."""

import inspect
from typing import Any

import keras

# Settings of layers that have configs of their own.
CONFIGURED = (
    keras.Layer,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)


def own_objects(operation: keras.Operation) -> dict[str, Any]:
    """Returns the classes and functions in an operation that are not Keras' own.

    Keras finds them in a config by their names, if it is told. They may be layers
    inside, initializers, regularizers, constraints, activations, and what these have.

    Returns:
        Name -> class or function.
    """
    found: dict[str, Any] = {}
    layers_inside: list[Any] = []
    if isinstance(operation, keras.Layer):
        layers_inside = operation._flatten_layers(include_self=False)
    waiting = [operation, *layers_inside]
    seen = set()
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        if not _is_of_keras(type(holder)):
            found.setdefault(type(holder).__name__, type(holder))
        for value in list(vars(holder).values()):
            for leaf in _leaves(value):
                if inspect.isfunction(leaf) and not _is_of_keras(leaf):
                    found.setdefault(leaf.__name__, leaf)
                elif isinstance(leaf, CONFIGURED):
                    waiting.append(leaf)
    return found


def _leaves(value: Any) -> list[Any]:
    # Other structures, as of nodes, hold no settings.
    return keras.tree.flatten(value) if type(value) in (list, tuple, dict) else [value]


def _is_of_keras(thing: Any) -> bool:
    return (thing.__module__ or "").startswith("keras.")
