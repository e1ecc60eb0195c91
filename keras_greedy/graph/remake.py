"""Operations made anew from their configs, without their weights."""

import functools
import inspect
from collections.abc import Collection
from typing import Any

import keras

from keras_greedy.graph.blank import blank
from keras_greedy.graph.calls import config_of
from keras_greedy.graph.own_objects import own_objects

# A reason that Keras gives may repeat the whole config.
REASON_LENGTH = 300

OF_EVERY_LAYER = ("name", "trainable", "dtype")


def made_anew(
    operation: keras.Operation,
    changes: dict[str, Any] | None = None,
) -> keras.Operation:
    """Makes a new operation, which is no model, from the config of another.

    Args:
        operation: The old one.
        changes: Entries that take the place of those of its config.
    """
    cls = type(operation)
    config = config_of(operation)
    config |= _live_entries(operation, config)
    config |= changes or {}
    # A Lambda's `from_config` expects its function in serialized form.
    if isinstance(operation, keras.layers.Lambda):
        new = cls(**config)
    else:
        new = _from_config(operation, config, [*changes] if changes else [])
    new.name = operation.name
    # Setting a layer's flag sets those of the layers inside it: only where it differs.
    if isinstance(new, keras.Layer):
        blank(new)
        if new.trainable != operation.trainable:
            new.trainable = operation.trainable
    return new


def _from_config(
    operation: keras.Operation,
    config: dict[str, Any],
    changed: Collection[str],
) -> keras.Operation:
    """Makes an operation of the class of another.

    Args:
        operation: The other one.
        config: Of the new one.
        changed: The names of the entries that are not those of the other.

    Raises:
        ValueError: When it cannot be made.
    """
    cls = type(operation)
    try:
        with keras.saving.custom_object_scope(own_objects(operation)):
            taken = _taken(cls, config)
            try:
                return cls.from_config(config)
            except Exception:
                # Some tell more of themselves than their constructors take.
                if len(taken) == len(config) or not taken.keys() >= {*changed}:
                    raise
                new = cls.from_config(taken)
                # The file of the new model is to be one that can be loaded.
                new.get_config = functools.partial(dict, taken)
                return new
    except Exception as error:
        # Whatever it is: the code may be the user's.
        reason = str(error).strip().split("\n\n")[0] or type(error).__name__
        raise ValueError(
            "Expected every layer of `model` to be one that its config makes anew, as "
            "loading a saved model takes: decorate classes and functions of your own "
            "with `@keras.saving.register_keras_serializable()`. Received: "
            f"'{operation.name}' of type {cls.__name__}, whose `from_config` says: "
            f"{reason[:REASON_LENGTH]}"
        ) from error


def _taken(cls: type, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the entries of a config that the constructor of a class names."""
    named = {*inspect.signature(cls).parameters, *OF_EVERY_LAYER}
    return {name: value for name, value in config.items() if name in named}


def _live_entries(
    operation: keras.Operation,
    config: dict[str, Any],
) -> dict[str, Any]:
    """Returns the entries of a config that Keras cannot read back, as they are."""
    own = vars(operation)
    if isinstance(operation, keras.layers.Lambda):
        entries = {name: own[name] for name in ("function", "mask", "arguments")}
        entries["output_shape"] = own["_output_shape"]
        return entries
    entries = {}
    for name in config:
        value = own.get(name)
        # A config has a function by its registered name, which those of users lack.
        if inspect.isfunction(value) and not value.__module__.startswith("keras."):
            entries[name] = value
    return entries
