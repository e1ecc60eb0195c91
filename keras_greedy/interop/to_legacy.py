"""A model of Keras 3 as one of tf_keras."""

import inspect
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.channels import Call
from keras_greedy.graph.clone import input_layers
from keras_greedy.graph.trace import check_model, has_graph, own_calls, public_key
from keras_greedy.interop.as_layers import as_layer
from keras_greedy.interop.configs import Refused, Target, legacy_keras
from keras_greedy.interop.conversion import Conversion, check_custom_objects
from keras_greedy.interop.legacy import is_legacy_symbol
from keras_greedy.interop.operations import (
    ONE_DTYPE,
    SYMBOLS,
    arguments_for,
    tensorflow_function,
)


def to_tf_keras(
    model: keras.Model, custom_objects: dict | None = None, *, check: bool = True
):
    """Makes the tf_keras model that computes what a model of Keras 3 does.

    Layers become the same layers of tf_keras, with their weights, and keep their
    names and whether they are trainable. An activation that tf_keras does not have,
    such as `relu6`, becomes layers behind. Raw operations become layers if there are
    such, which is what TF-MOT reads, else calls of TensorFlow. What tf_keras forbids
    in names becomes underscores.

    How the model was compiled is not carried over: compile the new one.

    Args:
        model: A built Functional or Sequential model, which is not changed. Models
            inside it are converted, too.
        custom_objects: Name of a class of layers of your own -> the class in
            tf_keras, which takes the same config and the same list of weights.
        check: Whether to run both models once on random numbers, two examples with
            32 for sizes that are not known, and compare what each layer makes.

    Returns:
        A `tf_keras.Sequential` for a Sequential, else a functional `tf_keras.Model`.

    Raises:
        ValueError: When `model` is of another kind; when a layer has no counterpart
            or does not compute the same.
        ImportError: When tf_keras is not installed; says how to install it.

    Example:

    ```python
    compact = keras_greedy.prune(model, images, budget=0.5)
    legacy = keras_greedy.interop.to_tf_keras(compact)
    legacy.save("legacy.keras")  # for TF-MOT, in a process of its own
    ```
    """
    check_model(model)
    target = Target(legacy_keras(), keras, check_custom_objects(custom_objects))
    return _ToLegacy(target, check).run(model)


class _ToLegacy(Conversion):
    def calls(self, model):
        return own_calls(check_model(model))

    def input_layers(self, model):
        return input_layers(check_model(model))

    def graph(self, model):
        return check_model(model)

    def has_graph(self, layer):
        return has_graph(layer)

    def is_layer(self, layer):
        return isinstance(layer, keras.Layer)

    def is_symbol(self, value):
        return isinstance(value, keras.KerasTensor)

    def new_input(self, layer, name):
        config = layer.get_config()
        if layer.optional or config["dtype"] == "string":
            raise Refused("it is optional, or of strings")
        options = {key: config[key] for key in ("batch_shape", "dtype", "sparse")}
        return self.target.library.Input(**options, name=name)

    def operation(self, call, name):
        function = public_key(call.operation)
        given = _given(function, call)
        found = as_layer(function, given)
        if found is not None:
            kind, config, inputs = found
            layer = self.target.made(kind, name, call.outputs[0].dtype, **config)
            return lambda values: layer(self.valued(inputs, values))
        if function is ops.get_item:
            return lambda values: values[id(given["x"])][given["key"]]
        return self._tensorflow_call(function, given, call.outputs[0].dtype)

    def _tensorflow_call(self, function, given: dict, dtype: str) -> Callable:
        if function not in SYMBOLS:
            raise Refused("tf_keras has no such layer, nor is it translated")
        counterpart = tensorflow_function(SYMBOLS[function])
        arguments = arguments_for(counterpart, function, (), given)
        if "mode" in arguments:
            arguments["mode"] = arguments["mode"].upper()
        cast = tensorflow_function("cast")

        def of_dtype(leaf):
            if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f":
                return leaf.astype(dtype)
            is_other = is_legacy_symbol(leaf) and leaf.dtype.name != dtype
            return cast(leaf, dtype) if is_other and function in ONE_DTYPE else leaf

        def apply(values):
            valued = self.valued(arguments, values)
            return counterpart(**keras.tree.map_structure(of_dtype, valued))

        return apply


def _given(function, call: Call) -> dict:
    """The arguments of a raw operation, those of its config among them."""
    try:
        config = call.operation.get_config()
        signature = inspect.signature(function)
        config = {k: v for k, v in config.items() if k in signature.parameters}
        bound = signature.bind(*call.args, **call.kwargs, **config)
    except (NotImplementedError, TypeError) as error:
        raise Refused("it has arguments that cannot be read") from error
    bound.apply_defaults()
    return keras.tree.map_structure(_constant, dict(bound.arguments))


def _constant(leaf):
    """A tensor that is no symbol as an array."""
    if isinstance(leaf, keras.Variable):
        raise Refused("it reads a variable")
    is_tensor = keras.ops.is_tensor(leaf) and not isinstance(leaf, keras.KerasTensor)
    return keras.ops.convert_to_numpy(leaf) if is_tensor else leaf
