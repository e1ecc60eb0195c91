"""The state of a layer: its weights, and all else that it has learned."""

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_greedy.graph.calls import named_weights


def copy_weights(
    layer: keras.Layer,
    new: keras.Layer,
) -> None:
    """Gives a remade layer the state of the old one, whatever it is.

    The layers inside it count as well: in wrappers, in models, in lists and dicts.
    """
    new.set_weights(layer.get_weights())
    for old, copy in _pairs_inside(layer, new):
        _copy_derived_state(old, copy)


def _pairs_inside(
    layer: keras.Layer,
    new: keras.Layer,
) -> Iterator[tuple[keras.Layer, keras.Layer]]:
    """Yields a layer and its remade one, and each layer inside with that of the other.

    Raises:
        ValueError: When the remade layer has other layers inside.
    """
    yield layer, new
    inside = _layers_inside(layer)
    made = _layers_inside(new)
    if [type(own) for own in inside] != [type(own) for own in made]:
        raise ValueError(
            f"Expected the config of layer '{layer.name}' of type "
            f"{type(layer).__name__} to make the layers that are inside it, "
            f"{_kinds(inside)}. Received: {_kinds(made)}. Correct its `get_config`, or "
            "make the layers in `__init__` or `build`"
        )
    for old, copy in zip(inside, made, strict=True):
        yield from _pairs_inside(old, copy)


def _layers_inside(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers directly inside a layer, in the order it made them."""
    inside = []
    # A model has its layers by this name, behind them what it makes of them.
    own = layer.layers if isinstance(layer, keras.Model) else layer._layers
    for other in own:
        # Only some copies of a model have these, and they have no state.
        if not isinstance(other, keras.layers.InputLayer):
            inside.append(other)
    return inside


def _kinds(inside: Sequence[keras.Layer]) -> str:
    return ", ".join(type(layer).__name__ for layer in inside) or "none"


def _copy_derived_state(
    layer: keras.Layer,
    new: keras.Layer,
) -> None:
    """Gives a remade layer the part of the state that is not weights.

    It is copied as Keras saves and loads a layer: some compute from values derived of
    their weights on loading, and tables of words are files.
    """
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    # Variables assigned to variables would share memory, which `fit` on JAX frees.
    values = {}
    for name, value in store.items():
        values[name] = keras.ops.convert_to_numpy(value)
    new.load_own_variables(values)
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            new.load_assets(folder)
    if isinstance(layer, keras.layers.Discretization):
        # Its config has them, but that of a layer around it need not.
        new.bin_boundaries = layer.bin_boundaries
    if not type(layer).__module__.startswith("keras."):
        _copy_seeds(layer, new)


def _copy_seeds(
    layer: keras.Layer,
    new: keras.Layer,
) -> None:
    """Gives the random numbers of a user's layer the state that they are in.

    Those of Keras' own layers serve training alone, and are drawn anew.
    """
    pairs = zip(layer._seed_generators, new._seed_generators, strict=True)
    for old, copy in pairs:
        copy.state.assign(keras.ops.convert_to_numpy(old.state))


def full_weights(layer: keras.Layer) -> dict[str, np.ndarray]:
    """Returns a layer's weights as arrays, by name."""
    arrays = {}
    for name, weight in named_weights(layer).items():
        arrays[name] = keras.ops.convert_to_numpy(weight)
    return arrays
