"""Copies of models: the same layers made anew, called in the same way."""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
from keras import KerasTensor

from keras_greedy.graph.calls import Apply, Call, run_calls
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.model_kinds import check_model, has_graph
from keras_greedy.graph.nodes import own_calls
from keras_greedy.graph.remake import made_anew
from keras_greedy.graph.state import copy_weights


def replay(
    model: keras.Model,
    fresh: Sequence[KerasTensor],
    outputs: Iterable[KerasTensor],
    calls: Sequence[Call],
    apply: Apply,
) -> keras.Model:
    """Makes a functional model of calls made anew on fresh inputs.

    Args:
        model: The model that gives the new one its structures and its name.
        fresh: The new inputs.
        outputs: The symbolic tensors of the calls that the model is to return.
        calls: In topological order.
        apply: `apply(call, *args, **kwargs)` makes one call.
    """
    functional = check_model(model)
    values = dict(zip(functional.inputs, fresh, strict=True))
    run_calls(calls, values, apply)
    made = [values[tensor] for tensor in outputs]
    with _recursion(len(calls)):
        return keras.Model(
            keras.tree.pack_sequence_as(functional.input, fresh),
            keras.tree.pack_sequence_as(functional.output, made),
            trainable=model.trainable,
            name=model.name,
        )


@contextlib.contextmanager
def _recursion(depth: int) -> Iterator[None]:
    """Lets functions call themselves so much deeper: Keras does, for each call."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def replay_flat(graph: ChannelGraph, apply: Apply) -> keras.Model:
    """Replays all calls of a graph: no models inside are left."""
    fresh = [remake(layer).output for layer in input_layers(graph.functional)]
    return replay(graph.functional, fresh, graph.outputs, graph.calls, apply)


def input_layers(functional: keras.Model) -> list[keras.layers.InputLayer]:
    """Returns the input layers of a model in the order of its inputs."""
    layers = {}
    for layer in functional.operations:
        if isinstance(layer, keras.layers.InputLayer):
            layers[layer.output] = layer
    return [layers[tensor] for tensor in functional.inputs]


class Copier:
    """Makes a model anew, and the models inside it, each operation once.

    The layers of a `keras.Sequential` are those of one again.

    Args:
        make: Gives the new operation of an old one that is not a model; by default
            one of the same config.

    Attributes:
        copies: `(old, new)` for each operation made, but for models.
    """

    def __init__(
        self,
        make: Callable[[keras.Operation], keras.Operation] | None = None,
    ):
        self.copies: list[tuple[keras.Operation, keras.Operation]] = []
        self._make = make or remake
        self._made: dict[keras.Operation, keras.Operation] = {}

    def model(self, model: keras.Model) -> keras.Model:
        """Returns the new one of a model, with no weights copied yet."""
        functional = check_model(model)
        calls = own_calls(functional)
        fresh = []
        for tensor, layer in zip(
            functional.inputs,
            input_layers(functional),
            strict=True,
        ):
            fresh.append(self.input(tensor, layer))
        if not isinstance(model, keras.Sequential):
            return replay(model, fresh, functional.outputs, calls, self.apply_own)
        new = [self.operation(call.operation) for call in calls]
        return keras.Sequential(
            [*fresh, *new],
            trainable=model.trainable,
            name=model.name,
        )

    def operation(self, operation: keras.Operation) -> keras.Operation:
        """Returns the new one of an operation; a model inside has all its layers."""
        if operation not in self._made:
            self._made[operation] = self.new(operation)
        return self._made[operation]

    def new(self, operation: keras.Operation) -> keras.Operation:
        """Makes the new one of an operation that has none yet."""
        if has_graph(operation):
            return self.model(operation)
        new = self._make(operation)
        self.copies.append((operation, new))
        return new

    def input(
        self,
        tensor: KerasTensor,
        layer: keras.layers.InputLayer,
    ) -> KerasTensor:
        """Returns the new one of a model's input."""
        return remake(layer).output

    def apply_own(
        self,
        own: Call,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Makes a call of one model's graph anew."""
        return self.operation(own.operation)(*args, **kwargs)


def copied(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers and weights, not compiled."""
    copier = Copier()
    new = copier.model(model)
    for old, copy in copier.copies:
        if isinstance(old, keras.Layer):
            copy_weights(old, copy)
    return new


def remake(
    operation: keras.Operation,
    changes: dict[str, Any] | None = None,
) -> keras.Operation:
    """Makes a new operation from the config of another, without its weights.

    A model comes with all of its weights.

    Args:
        operation: The old one.
        changes: Entries that take the place of those of its config.
    """
    if has_graph(operation):
        return copied(operation)
    return made_anew(operation, changes)
