"""A model of tf_keras as one of Keras 3."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_greedy.graph.calls import Call
from keras_greedy.graph.nodes import maker
from keras_greedy.interop.conversion import Conversion, Values, check_custom_objects
from keras_greedy.interop.either import AnyLayer, AnyModel
from keras_greedy.interop.legacy import (
    check_legacy_model,
    has_legacy_graph,
    is_legacy_symbol,
    is_operation,
    legacy_calls,
    legacy_input_layers,
    legacy_keras,
)
from keras_greedy.interop.operations import (
    FUNCTIONS,
    Function,
    arguments_for,
    index_of,
)
from keras_greedy.interop.translated import Refused
from keras_greedy.interop.translator import Translator


def from_tf_keras(
    model: AnyModel,
    custom_objects: dict[str, type] | None = None,
    *,
    check: bool = True,
) -> keras.Model:
    """Makes the Keras 3 model that computes the same as a model of tf_keras.

    Layers become the same layers of Keras 3, with their weights, and keep their names,
    but for slashes, and whether they are trainable; functions of TensorFlow become
    `keras.ops`. How the model was compiled is not carried over: compile the new one.

    Args:
        model: A built Functional or Sequential model of tf_keras, which is not
            changed. Models inside it are converted, too.
        custom_objects: Name of a class of layers of your own -> the class in Keras 3,
            which takes the same config and the same list of weights.
        check: Whether to run both models once on random numbers, two examples with
            32 for sizes that are not known, and compare the outputs of each layer.

    Returns:
        A `keras.Sequential` for a Sequential, else a functional `keras.Model`.

    Raises:
        ValueError: When `model` is of another kind; when a layer has no counterpart
            or does not compute the same.
        ImportError: When tf_keras is not installed; says how to install it.

    Example:

    ```python
    import numpy as np
    import tf_keras

    import keras_greedy

    legacy = tf_keras.Sequential(
        [
            tf_keras.Input((16, 16, 3)),
            tf_keras.layers.Conv2D(32, 3, activation="relu"),
            tf_keras.layers.GlobalAveragePooling2D(),
            tf_keras.layers.Dense(5, activation="softmax"),
        ]
    )
    model = keras_greedy.interop.from_tf_keras(legacy)
    images = np.random.default_rng(0).random((16, 16, 16, 3), "float32")
    compact = keras_greedy.prune(model, images, budget=0.5, verbose=0)
    compact.summary()
    ```
    """
    translator = Translator(
        library=keras,
        source=legacy_keras(),
        custom_objects=check_custom_objects(custom_objects),
    )
    check_legacy_model(model)
    return _FromLegacy(translator, check).run(model)


class _FromLegacy(Conversion):
    """The conversion of a model of tf_keras."""

    def calls(self, model: AnyModel) -> list[Call]:
        return legacy_calls(model)

    def input_layers(self, model: AnyModel) -> list[AnyLayer]:
        return legacy_input_layers(model)

    def graph(self, model: AnyModel) -> AnyModel:
        return model

    def has_graph(self, layer: AnyLayer) -> bool:
        return has_legacy_graph(layer)

    def is_layer(self, layer: AnyLayer) -> bool:
        return not is_operation(layer)

    def is_symbol(self, value: object) -> bool:
        return is_legacy_symbol(value)

    def new_input(self, layer: AnyLayer, name: str) -> keras.KerasTensor:
        config = layer.get_config()
        if config["ragged"] or config["dtype"] == "string":
            raise Refused("it is ragged, or of strings")
        return keras.Input(
            batch_shape=config["batch_input_shape"],
            dtype=config["dtype"],
            sparse=config["sparse"],
            name=name,
        )

    def operation(self, call: Call, name: str) -> Callable[[Values], Any]:
        function, arguments = _in_keras_ops(call)
        # Keras writes it in small letters, and takes values for constants alone.
        if arguments.get("mode") is not None:
            arguments["mode"] = arguments["mode"].lower()
            if arguments["mode"] != "constant":
                arguments.pop("constant_values")
        arguments = keras.tree.map_structure(_constant, arguments)

        def apply(values: Values) -> Any:
            made = function(**self.valued(arguments, values))
            maker(made).name = name
            return made

        return apply


def _in_keras_ops(call: Call) -> tuple[Function, dict[str, Any]]:
    """Returns the function of `keras.ops` for a function of TensorFlow.

    Args:
        call: A call of a raw operation of tf_keras.

    Returns:
        The function, and its arguments by their names.

    Raises:
        Refused: When there is none.
    """
    layer: AnyLayer = call.operation
    symbol = layer.symbol or layer.function.__name__
    symbol = symbol.removeprefix("compat.v1.")
    if symbol == "__operators__.getitem":
        tensor, spec = call.args
        return keras.ops.get_item, {"x": tensor, "key": index_of(spec)}
    if symbol not in FUNCTIONS:
        raise Refused(f"tf.{symbol} has no counterpart in keras.ops")
    function = FUNCTIONS[symbol]
    arguments = arguments_for(function, layer.function, call.args, call.kwargs)
    return function, arguments


def _constant(leaf: Any) -> Any:
    """Returns a tensor that is no symbol as an array, or as a number."""
    value = leaf.numpy() if hasattr(leaf, "numpy") else leaf
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        return value.item()
    return value
