"""Models of tf_keras as graphs: the one module that touches its private node API."""

import types
from typing import Any

import keras

from keras_greedy.graph.calls import Call
from keras_greedy.interop.either import AnyLayer, AnyModel


def legacy_keras() -> types.ModuleType:
    """Returns the module tf_keras.

    Raises:
        ImportError: When it is not installed; says how to install it.
    """
    try:
        import tf_keras
    except ImportError as error:
        raise ImportError(
            "Models of legacy Keras need tf_keras, of TensorFlow's minor version: "
            "pip install tf_keras"
        ) from error
    return tf_keras


def check_legacy_model(model: AnyModel) -> None:
    """Raises when `model` is not a built Functional or Sequential one of tf_keras."""
    if has_legacy_graph(model):
        return
    if isinstance(model, legacy_keras().Sequential):
        raise ValueError(
            "Expected `model` to be built: call `model.build(input_shape)`. "
            f"Received: model={model!r}"
        )
    raise ValueError(
        "Expected `model` to be a Functional or Sequential tf_keras.Model without a "
        f"`call` of its own. Received: model={model!r} of type "
        f"{type(model).__module__}.{type(model).__name__}"
    )


def has_legacy_graph(model: AnyModel) -> bool:
    """Returns whether `model` computes as its graph of layers says."""
    from tf_keras.src.engine.functional import Functional

    if not isinstance(model, Functional):
        return False
    # A subclass may compute something else.
    calls = (Functional.call, legacy_keras().Sequential.call)
    return type(model).call in calls and model._is_graph_network


def legacy_calls(model: AnyModel) -> list[Call]:
    """Returns the calls of a model's graph, in topological order.

    A call of a model inside it is a single one.

    Args:
        model: A model that `has_legacy_graph`.
    """
    calls: list[Call] = []
    by_depth = model._nodes_by_depth
    # Depth counts from the outputs: the deepest nodes come first.
    for depth in sorted(by_depth, reverse=True):
        for node in by_depth[depth]:
            if not node.is_input:
                calls.append(_call(len(calls), node))
    return calls


def _call(index: int, node: Any) -> Call:
    layer = node.layer
    args = tuple(node.call_args)
    kwargs = {k: value for k, value in node.call_kwargs.items() if value is not None}
    # The layers of both libraries name their options alike, but may order them
    # otherwise: all but the first argument are given by name.
    if not is_operation(layer):
        names = layer._call_spec.arg_names[1:]
        for name, value in zip(names, args[1:], strict=False):
            if value is not None:
                kwargs[name] = value
        args = args[:1]
    return Call(
        index=index,
        name=layer.name,
        operation=layer,
        args=args,
        kwargs=kwargs,
        outputs=tuple(keras.tree.flatten(node.outputs)),
        rule=None,
    )


def legacy_input_layers(model: AnyModel) -> list[AnyLayer]:
    """Returns the layers of a model's inputs, in their order."""
    return [tensor._keras_history.layer for tensor in model.inputs]


def is_operation(layer: AnyLayer) -> bool:
    """Returns whether a layer is a function of TensorFlow, called on a tensor."""
    from tf_keras.src.layers.core.tf_op_layer import TFOpLambda

    return isinstance(layer, TFOpLambda)


def is_legacy_symbol(value: object) -> bool:
    """Returns whether a value is a symbolic tensor of tf_keras."""
    from tf_keras.src.engine.keras_tensor import KerasTensor

    return isinstance(value, KerasTensor)
