"""The calls that Keras has recorded, as nodes of a graph.

This is the one module that touches Keras' private node API.
"""

import contextlib
import inspect
from collections.abc import Collection, Iterator
from typing import Any

import keras
from keras import KerasTensor
from keras.src.models.functional import Functional

from keras_greedy.graph.calls import Call, trains_by_default
from keras_greedy.graph.rules import public_key, rule_for


def own_calls(functional: Functional) -> list[Call]:
    """Returns the calls of a model's graph; that of a model inside is a single one."""
    nodes = _nodes(functional)
    return [_call_of(node, index) for index, node in enumerate(nodes)]


def calls_behind(
    tensor: KerasTensor,
    known: Collection[KerasTensor],
) -> list[Call]:
    """Returns the calls that make a tensor out of known ones, in topological order.

    They have no place among other calls yet: the index of each is 0.
    """
    calls: list[Call] = []
    made = set(known)
    # Each tensor is met twice: before those it is made of, and behind them.
    waiting = [(tensor, False)]
    while waiting:
        wanted, has_sources = waiting.pop()
        node = None if wanted in made else _node_of(wanted)
        if node is None or node.is_input:
            continue
        if has_sources:
            calls.append(_call_of(node, 0))
            made.update(node.outputs)
        else:
            waiting.append((wanted, True))
            waiting.extend((source, False) for source in reversed(node.input_tensors))
    return calls


@contextlib.contextmanager
def without_new_nodes(layer: keras.Layer) -> Iterator[None]:
    """Takes back what calls on symbolic tensors leave at the layers inside a layer."""
    before = []
    for inside in layer._flatten_layers():
        for nodes in (inside._inbound_nodes, inside._outbound_nodes):
            before.append((nodes, len(nodes)))
    try:
        yield
    finally:
        for nodes, count in before:
            del nodes[count:]


def _node_of(tensor: KerasTensor) -> Any:
    """Returns Keras' node of the call that made a symbolic tensor, if one did."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    return history.operation._inbound_nodes[history.node_index]


def _call_of(node: Any, index: int) -> Call:
    operation = node.operation
    args, kwargs = _arguments(node)
    return Call(
        index=index,
        name=operation.name,
        operation=operation,
        args=args,
        kwargs=kwargs,
        outputs=tuple(node.outputs),
        rule=rule_for(public_key(operation), operation),
    )


def maker(tensor: KerasTensor) -> keras.Operation:
    """Returns the operation that made a symbolic tensor."""
    return tensor._keras_history.operation


def _nodes(functional: Functional) -> list:
    """Returns the nodes that belong to this model alone, in topological order."""
    nodes = []
    # Keras counts the depth from the outputs: the greatest comes first.
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            if not node.is_input:
                nodes.append(node)
    return nodes


def _arguments(node: Any) -> tuple[tuple, dict[str, Any]]:
    """Returns a node's arguments, the first of them by position in any case."""
    args = node.arguments.args
    kwargs = dict(node.arguments.kwargs)
    parameters = inspect.signature(node.operation.call).parameters
    first = next(iter(parameters), None)
    if first in kwargs:
        args = (kwargs.pop(first),)
    # Keras notes a default as if it had been given, and does not keep to it: a model
    # gives each layer the mode of its own.
    if trains_by_default(node.operation) and kwargs.get("training"):
        del kwargs["training"]
    return args, kwargs
