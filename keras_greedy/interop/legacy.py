"""Models of tf_keras as graphs: the one module that touches its private node API."""

import keras

from keras_greedy.graph.channels import Call
from keras_greedy.interop.configs import legacy_keras


def check_legacy_model(model) -> None:
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


def has_legacy_graph(model) -> bool:
    """Whether `model` computes what its graph of layers says."""
    from tf_keras.src.engine.functional import Functional

    calls = (Functional.call, legacy_keras().Sequential.call)
    is_graph = isinstance(model, Functional) and type(model).call in calls
    return is_graph and model._is_graph_network


def legacy_calls(model) -> list[Call]:
    """The calls of a model's graph, one of a model inside it being a single one."""
    by_depth = model._nodes_by_depth
    depths = sorted(by_depth, reverse=True)
    nodes = [node for depth in depths for node in by_depth[depth] if not node.is_input]
    return [_call(index, node) for index, node in enumerate(nodes)]


def _call(index: int, node) -> Call:
    layer, args = node.layer, tuple(node.call_args)
    kwargs = {k: v for k, v in node.call_kwargs.items() if v is not None}
    if not is_operation(layer):
        names = layer._call_spec.arg_names[1:]
        options = zip(names, args[1:], strict=False)
        kwargs |= {name: value for name, value in options if value is not None}
        args = args[:1]
    outputs = tuple(keras.tree.flatten(node.outputs))
    return Call(index, layer.name, layer, args, kwargs, outputs, None)


def legacy_input_layers(model) -> list:
    return [tensor._keras_history.layer for tensor in model.inputs]


def is_operation(layer) -> bool:
    """Whether a layer is a function of TensorFlow that was called on a tensor."""
    from tf_keras.src.layers.core.tf_op_layer import TFOpLambda

    return isinstance(layer, TFOpLambda)


def is_legacy_symbol(value) -> bool:
    """Whether a value is a symbolic tensor."""
    from tf_keras.src.engine.keras_tensor import KerasTensor

    return isinstance(value, KerasTensor)
