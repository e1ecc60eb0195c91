"""A model of tf_keras as one of Keras 3."""

import keras
import numpy as np

from keras_greedy.graph.trace import maker
from keras_greedy.interop.configs import Refused, Target, legacy_keras
from keras_greedy.interop.conversion import Conversion, check_custom_objects
from keras_greedy.interop.legacy import (
    check_legacy_model,
    has_legacy_graph,
    is_legacy_symbol,
    is_operation,
    legacy_calls,
    legacy_input_layers,
)
from keras_greedy.interop.operations import FUNCTIONS, arguments_for, slices


def from_tf_keras(
    model, custom_objects: dict | None = None, *, check: bool = True
) -> keras.Model:
    """Makes the Keras 3 model that computes what a model of tf_keras does.

    Layers become the same layers of Keras 3, with their weights, and keep their names,
    but for slashes, and whether they are trainable; functions of TensorFlow become
    `keras.ops`. How the model was compiled is not carried over: compile the new one.

    Args:
        model: A built Functional or Sequential model of tf_keras, which is not
            changed. Models inside it are converted, too.
        custom_objects: Name of a class of layers of your own -> the class in Keras 3,
            which takes the same config and the same list of weights.
        check: Whether to run both models once on random numbers, two examples with
            32 for sizes that are not known, and compare what each layer makes.

    Returns:
        A `keras.Sequential` for a Sequential, else a functional `keras.Model`.

    Raises:
        ValueError: When `model` is of another kind; when a layer has no counterpart
            or does not compute the same.
        ImportError: When tf_keras is not installed; says how to install it.

    Example:

    ```python
    legacy = tf_keras.models.load_model("legacy.h5")
    model = keras_greedy.interop.from_tf_keras(legacy)
    compact = keras_greedy.prune(model, images, budget=0.5)
    ```
    """
    target = Target(keras, legacy_keras(), check_custom_objects(custom_objects))
    check_legacy_model(model)
    return _FromLegacy(target, check).run(model)


class _FromLegacy(Conversion):
    def calls(self, model):
        return legacy_calls(model)

    def input_layers(self, model):
        return legacy_input_layers(model)

    def graph(self, model):
        return model

    def has_graph(self, layer):
        return has_legacy_graph(layer)

    def is_layer(self, layer):
        return not is_operation(layer)

    def is_symbol(self, value):
        return is_legacy_symbol(value)

    def new_input(self, layer, name):
        config = layer.get_config()
        if config["ragged"] or config["dtype"] == "string":
            raise Refused("it is ragged, or of strings")
        options = {key: config[key] for key in ("dtype", "sparse")}
        return keras.Input(
            batch_shape=config["batch_input_shape"], **options, name=name
        )

    def operation(self, call, name):
        layer = call.operation
        symbol = (layer.symbol or layer.function.__name__).removeprefix("compat.v1.")
        if symbol == "__operators__.getitem":
            tensor, spec = call.args
            function, arguments = keras.ops.get_item, {"x": tensor, "key": slices(spec)}
        elif symbol in FUNCTIONS:
            function = FUNCTIONS[symbol]
            arguments = arguments_for(function, layer.function, call.args, call.kwargs)
        else:
            raise Refused(f"tf.{symbol} has no counterpart in keras.ops")
        if arguments.get("mode") is not None:
            arguments["mode"] = arguments["mode"].lower()
            if arguments["mode"] != "constant":
                arguments.pop("constant_values")
        arguments = keras.tree.map_structure(_constant, arguments)

        def apply(values):
            made = function(**self.valued(arguments, values))
            maker(made).name = name
            return made

        return apply


def _constant(leaf):
    """A tensor that is no symbol as an array, or as a number."""
    value = leaf.numpy() if hasattr(leaf, "numpy") else leaf
    is_number = isinstance(value, np.ndarray | np.generic) and value.ndim == 0
    return value.item() if is_number else value
