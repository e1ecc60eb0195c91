"""Layers that begin with zeros, as they get the weights of others."""

import functools
from typing import Any

import keras


def blank(layer: keras.Layer) -> None:
    """Lets a layer that is not built yet begin with zeros where it would draw numbers.

    Nobody would see the numbers, and on JAX a program is compiled for each shape that
    is drawn: half the time of a rebuild. The layer's initializers stay as they are.

    Args:
        layer: A layer that is about to get its weights; changed in place.
    """
    # Keras takes its arguments from the signature, so it is to look like the layer's.
    build = layer.build

    @functools.wraps(build)
    def build_blank(*args: Any, **kwargs: Any) -> None:
        layer.build = build
        drawing = _drawing_initializers(layer)
        for name in drawing:
            setattr(layer, name, keras.initializers.Zeros())
        try:
            build(*args, **kwargs)
        finally:
            for name, initializer in drawing.items():
                setattr(layer, name, initializer)

    layer.build = build_blank


def _drawing_initializers(layer: keras.Layer) -> dict[str, Any]:
    """Returns attribute -> initializer, for those that draw at random."""
    drawing = {}
    for name, value in vars(layer).items():
        # A layer hands those with a leading underscore on to the layers inside it.
        is_public = not name.startswith("_")
        if (
            is_public
            and isinstance(value, keras.Initializer)
            and hasattr(value, "seed")
        ):
            drawing[name] = value
    return drawing
