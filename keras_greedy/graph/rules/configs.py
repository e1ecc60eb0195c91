"""Configs of layers inside layers, changed for a cut."""

from typing import Any

import keras
import numpy as np

from keras_greedy.graph.calls import config_of


def changed_config(layer: keras.Layer, changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a layer in serialized form, some entries of its config changed."""
    serialized = keras.saving.serialize_keras_object(layer)
    # It would be built for as many channels as the layer has.
    serialized.pop("build_config", None)
    config = serialized["config"] | fitting_initializers(layer) | changes
    return serialized | {"config": config}


def fitting_initializers(operation: keras.Operation) -> dict[str, str]:
    """Returns zeros for constants of the full shape, which a cut layer cannot take."""
    changes = {}
    for name in config_of(operation):
        if not name.endswith("_initializer"):
            continue
        initializer = getattr(operation, name, None)
        if np.ndim(getattr(initializer, "value", 0)) > 0:
            changes[name] = "zeros"
    return changes
