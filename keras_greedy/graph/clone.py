"""Copies of models: the same layers made anew, called in the same way."""

import contextlib
import inspect
import sys

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph, named_weights, run_calls
from keras_greedy.graph.trace import check_model, has_graph, own_calls


def replay(model: keras.Model, fresh, outputs, calls, apply) -> keras.Model:
    """A functional model of calls made anew on fresh inputs, each through `apply`.

    Args:
        model: What the new model is like: its structures, its name.
        fresh: The new inputs.
        outputs: The symbolic tensors of the calls that the model is to return.
        calls: In topological order.
        apply: `apply(call, *args, **kwargs)` makes one call.
    """
    functional = check_model(model)
    values = dict(zip(functional.inputs, fresh, strict=True))
    run_calls(calls, values, apply)
    outputs = [values[tensor] for tensor in outputs]
    with _recursion(len(calls)):
        return keras.Model(
            keras.tree.pack_sequence_as(functional.input, fresh),
            keras.tree.pack_sequence_as(functional.output, outputs),
            trainable=model.trainable,
            name=model.name,
        )


@contextlib.contextmanager
def _recursion(depth: int):
    """Lets functions call themselves so much deeper: Keras does, for each call."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + depth)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def replay_flat(graph: ChannelGraph, apply) -> keras.Model:
    """`replay` of all calls of a graph: no models inside are left."""
    fresh = [remake(layer).output for layer in input_layers(graph.functional)]
    return replay(graph.functional, fresh, graph.outputs, graph.calls, apply)


def input_layers(functional) -> list:
    layers = {
        layer.output: layer
        for layer in functional.operations
        if isinstance(layer, keras.layers.InputLayer)
    }
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

    def __init__(self, make=None):
        self.copies: list[tuple[keras.Operation, keras.Operation]] = []
        self._make = make or remake
        self._made: dict[keras.Operation, keras.Operation] = {}

    def model(self, model: keras.Model) -> keras.Model:
        """The new one of a model, with no weights copied yet."""
        functional = check_model(model)
        calls = own_calls(functional)
        fresh = [*map(self.input, functional.inputs, input_layers(functional))]
        if not isinstance(model, keras.Sequential):
            return replay(model, fresh, functional.outputs, calls, self.apply_own)
        new = [self.operation(call.operation) for call in calls]
        return keras.Sequential(
            [*fresh, *new], trainable=model.trainable, name=model.name
        )

    def operation(self, operation: keras.Operation) -> keras.Operation:
        """The new one of an operation; for a model inside, with all of its layers."""
        if operation not in self._made:
            self._made[operation] = self.new(operation)
        return self._made[operation]

    def new(self, operation: keras.Operation) -> keras.Operation:
        if has_graph(operation):
            return self.model(operation)
        self.copies.append((operation, self._make(operation)))
        return self.copies[-1][1]

    def input(self, tensor, layer):
        """The new one of a model's input."""
        return remake(layer).output

    def apply_own(self, own: Call, *args, **kwargs):
        """Makes a call of one model's graph anew."""
        return self.operation(own.operation)(*args, **kwargs)


def copied(model: keras.Model) -> keras.Model:
    """A model of the same layers and weights, not compiled."""
    copier = Copier()
    new = copier.model(model)
    for old, copy in copier.copies:
        if isinstance(old, keras.Layer):
            copy_weights(old, copy)
    return new


def remake(operation: keras.Operation, changes: dict | None = None) -> keras.Operation:
    """A new operation from the config of another, without its weights.

    A model comes with all of its weights.
    """
    if has_graph(operation):
        return copied(operation)
    cls, config = type(operation), operation.get_config()
    config |= _live_entries(operation, config) | (changes or {})
    is_lambda = isinstance(operation, keras.layers.Lambda)
    new = cls(**config) if is_lambda else cls.from_config(config)
    new.name = operation.name
    if isinstance(new, keras.Layer) and new.trainable != operation.trainable:
        new.trainable = operation.trainable
    return new


def copy_weights(layer: keras.Layer, new: keras.Layer) -> None:
    """Gives a remade layer the weights of the old one, whatever they are."""
    new.set_weights(layer.get_weights())
    # Some layers compute from what they derive of their weights on loading.
    store = {}
    layer.save_own_variables(store)
    # Variables assigned to variables would share memory, which `fit` on JAX frees.
    values = {name: keras.ops.convert_to_numpy(v) for name, v in store.items()}
    new.load_own_variables(values)


def full_weights(layer: keras.Layer) -> dict[str, np.ndarray]:
    """Weight name -> value."""
    return {
        name: keras.ops.convert_to_numpy(weight)
        for name, weight in named_weights(layer).items()
    }


def _live_entries(operation, config) -> dict:
    """The entries of a config that Keras cannot read back, as they are."""
    own = vars(operation)
    if isinstance(operation, keras.layers.Lambda):
        names = {"output_shape": "_output_shape"}
        names |= {name: name for name in ("function", "mask", "arguments")}
        return {entry: own[attribute] for entry, attribute in names.items()}
    functions = {
        name: own[name] for name in config if inspect.isfunction(own.get(name))
    }
    return {
        name: function
        for name, function in functions.items()
        if not function.__module__.startswith("keras.")
    }
