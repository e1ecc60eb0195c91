"""A model of Keras 3 as one of tf_keras."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.clone import input_layers
from keras_greedy.graph.model_kinds import check_has_graph, check_model, has_graph
from keras_greedy.graph.nodes import own_calls
from keras_greedy.graph.rules import public_key
from keras_greedy.interop.as_layers import as_layer
from keras_greedy.interop.conversion import Conversion, Values, check_custom_objects
from keras_greedy.interop.either import AnyLayer, AnyModel, AnyTensor
from keras_greedy.interop.legacy import is_legacy_symbol, legacy_keras
from keras_greedy.interop.operations import (
    ONE_DTYPE,
    SYMBOLS,
    Function,
    arguments_for,
    tensorflow_function,
)
from keras_greedy.interop.translated import Refused
from keras_greedy.interop.translator import Translator


def to_tf_keras(
    model: keras.Model,
    custom_objects: dict[str, type] | None = None,
    *,
    check: bool = True,
) -> AnyModel:
    """Makes the tf_keras model that computes the same as a model of Keras 3.

    Layers become the same layers of tf_keras, with their weights, and keep their
    names and whether they are trainable. An activation that tf_keras does not have,
    such as `relu6`, becomes layers behind. Raw operations become layers if there are
    such, the form that TF-MOT reads, else calls of TensorFlow. Characters that
    tf_keras forbids in names become underscores.

    How the model was compiled is not carried over: compile the new one.

    Args:
        model: A built Functional or Sequential model, which is not changed. Models
            inside it are converted, too.
        custom_objects: Name of a class of layers of your own -> the class in
            tf_keras, which takes the same config and the same list of weights.
        check: Whether to run both models once on random numbers, two examples with
            32 for sizes that are not known, and compare the outputs of each layer.

    Returns:
        A `tf_keras.Sequential` for a Sequential, else a functional `tf_keras.Model`.

    Raises:
        ValueError: When `model` is of another kind; when a layer has no counterpart
            or does not compute the same.
        ImportError: When tf_keras is not installed; says how to install it.

    Example:

    ```python
    import keras

    import keras_greedy

    compact = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, activation="relu6"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )
    legacy = keras_greedy.interop.to_tf_keras(compact)
    legacy.save("legacy.keras")  # for TF-MOT, in a process of its own
    ```
    """
    check_has_graph(model)
    translator = Translator(
        library=legacy_keras(),
        source=keras,
        custom_objects=check_custom_objects(custom_objects),
    )
    return _ToLegacy(translator, check).run(model)


class _ToLegacy(Conversion):
    """The conversion of a model of Keras 3."""

    def calls(self, model: AnyModel) -> list[Call]:
        return own_calls(check_model(model))

    def input_layers(self, model: AnyModel) -> list[AnyLayer]:
        return input_layers(check_model(model))

    def graph(self, model: AnyModel) -> AnyModel:
        return check_model(model)

    def has_graph(self, layer: AnyLayer) -> bool:
        return has_graph(layer)

    def is_layer(self, layer: AnyLayer) -> bool:
        return isinstance(layer, keras.Layer)

    def is_symbol(self, value: object) -> bool:
        return isinstance(value, keras.KerasTensor)

    def new_input(self, layer: AnyLayer, name: str) -> AnyTensor:
        config = layer.get_config()
        if layer.optional or config["dtype"] == "string":
            raise Refused("it is optional, or of strings")
        return self.translator.library.Input(
            batch_shape=config["batch_shape"],
            dtype=config["dtype"],
            sparse=config["sparse"],
            name=name,
        )

    def operation(self, call: Call, name: str) -> Callable[[Values], AnyTensor]:
        # A function of `keras.ops`: names and classes are the keys of layers.
        function: Any = public_key(call.operation)
        given = _given(function, call)
        dtype = call.outputs[0].dtype
        found = as_layer(function, given)
        if found is not None:
            inputs = found.inputs
            layer = self.translator.make(found.kind, name, dtype, found.config)
            return lambda values: layer(self.valued(inputs, values))
        if function is ops.get_item:
            return lambda values: values[id(given["x"])][given["key"]]
        return self._tensorflow_call(function, given, dtype)

    def _tensorflow_call(
        self,
        function: Function,
        given: dict[str, Any],
        dtype: str,
    ) -> Callable[[Values], AnyTensor]:
        """Returns a function that calls TensorFlow's counterpart.

        Args:
            function: Of `keras.ops`.
            given: Its arguments.
            dtype: Of its output.

        Raises:
            Refused: When there is none.
        """
        if function not in SYMBOLS:
            raise Refused("tf_keras has no such layer, nor is it translated")
        counterpart = tensorflow_function(SYMBOLS[function])
        arguments = arguments_for(counterpart, function, (), given)
        if "mode" in arguments:
            arguments["mode"] = arguments["mode"].upper()
        cast = tensorflow_function("cast")
        takes_one_dtype = function in ONE_DTYPE

        # Keras promotes arguments of several dtypes, TensorFlow raises.
        def of_dtype(leaf: Any) -> Any:
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
                return leaf.astype(dtype)
            if takes_one_dtype and is_legacy_symbol(leaf) and leaf.dtype.name != dtype:
                return cast(leaf, dtype)
            return leaf

        def apply(values: Values) -> AnyTensor:
            valued = self.valued(arguments, values)
            return counterpart(**keras.tree.map_structure(of_dtype, valued))

        return apply


def _given(function: Function, call: Call) -> dict[str, Any]:
    """Returns the arguments of a raw operation, those of its config among them.

    Args:
        function: Its function of `keras.ops`.
        call: Its call.

    Raises:
        Refused: When they do not fit the function.
    """
    try:
        signature = inspect.signature(function)
        config = {}
        for entry, value in call.operation.get_config().items():
            if entry in signature.parameters:
                config[entry] = value
        bound = signature.bind(*call.args, **call.kwargs, **config)
    except (NotImplementedError, TypeError) as error:
        raise Refused("it has arguments that cannot be read") from error
    bound.apply_defaults()
    return keras.tree.map_structure(_constant, dict(bound.arguments))


def _constant(leaf: Any) -> Any:
    """Returns a tensor that is no symbol as an array."""
    if isinstance(leaf, keras.Variable):
        raise Refused("it reads a variable")
    if isinstance(leaf, keras.KerasTensor) or not keras.ops.is_tensor(leaf):
        return leaf
    return keras.ops.convert_to_numpy(leaf)
