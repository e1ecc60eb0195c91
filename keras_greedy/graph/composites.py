"""Layers made of layers: the calls that a `call` of its own makes of the layers inside.

A block of the user's, or a model with a `call` of its own, is called once on symbolic
tensors. The calls that this leaves behind are those of a graph, as if it had been built
with Keras' functional API.
"""

import dataclasses
import inspect
import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import keras
from keras import KerasTensor, layers

from keras_greedy.graph.calls import Call, config_of
from keras_greedy.graph.masks import get_keras_mask
from keras_greedy.graph.nodes import calls_behind, without_new_nodes
from keras_greedy.graph.positions import check_alike, symbols_for_constants
from keras_greedy.graph.rules.base import Unprunable
from keras_greedy.graph.rules.contraction import operands
from keras_greedy.graph.symbols import first_line, is_symbolic, symbols_take_weights

# Layers of Keras with layers inside that are not just called, one after the other.
NOT_LAID_OUT = (
    layers.RNN,
    layers.StackedRNNCells,
    layers.Wrapper,
)
# They do nothing but in training.
OF_TRAINING = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
INPUT = "inputs"


class Composite:
    """A layer as the calls that it makes of those inside it.

    Args:
        call: A call of the layer, which is left as it is.
        args: Its positional arguments, symbolic tensors among them.
        kwargs: Its keyword arguments.

    Attributes:
        name: That of the call.
        inputs: Symbolic tensors that stand for those among the arguments.
        outputs: The symbolic tensors that it returns.
        calls: In topological order; their names are different ones, as in a model.

    Raises:
        Unprunable: When the layer cannot be laid out; says why.
    """

    def __init__(self, call: Call, args: tuple, kwargs: dict[str, Any]):
        self.name = call.name
        self._layer = call.operation
        self._specs = _specs(args, kwargs)
        given = tensors_among(args, kwargs)
        if any(get_keras_mask(tensor) is not None for tensor in given):
            raise Unprunable("it is made of layers, and gets a mask of positions")
        if _own_weights(self._layer):
            raise Unprunable("it is made of layers, and holds weights of its own")
        self.inputs = [KerasTensor(t.shape, t.dtype) for t in given]
        stand_ins = iter(self.inputs)
        args, kwargs = keras.tree.map_structure(
            lambda leaf: next(stand_ins) if is_symbolic(leaf) else leaf,
            (args, kwargs),
        )
        self._made, calls = self._laid_out(args, kwargs)
        self.outputs = keras.tree.flatten(self._made)
        self.calls = _with_names(self._layer, calls)
        _check_calls(self._layer, calls)

    @property
    def trainable(self) -> bool:
        """Returns whether the layer is trained."""
        return self._layer.trainable

    def is_called_alike(self, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Returns whether another call of the layer makes the same calls."""
        return _specs(args, kwargs) == self._specs

    def packed(self, tensors: Sequence[Any]) -> Any:
        """Returns tensors in the structure that the layer returns them in."""
        return keras.tree.pack_sequence_as(self._made, tensors)

    def _laid_out(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, list[Call]]:
        """Returns what the layer makes, and the calls that make it in both modes."""
        parameters = inspect.signature(self._layer.call).parameters
        if "training" not in parameters or kwargs.get("training") is not None:
            return self._called(args, kwargs)
        # Whatever the default is, a model calls it in the mode of its own.
        made, calls = self._called(args, {**kwargs, "training": False})
        in_training = {**kwargs, "training": True}
        made_in_training, calls_in_training = self._called(args, in_training)
        # What is of training alone may be called at all times.
        known = {call.operation for call in calls}
        more = set()
        for call in calls_in_training:
            operation = call.operation
            if isinstance(operation, OF_TRAINING) and operation not in known:
                more.add(operation)
        own = self._wiring(calls, made)
        if own != self._wiring(calls_in_training, made_in_training, more):
            raise Unprunable("it is made of layers, and computes otherwise in training")
        if not more:
            # The same calls; where the mode was handed on, that of the model is taken.
            made_in_training = made
        laid_out = []
        for call, other in zip(
            calls_in_training if more else calls,
            calls_in_training,
            strict=True,
        ):
            kwargs = dict(call.kwargs)
            if other.kwargs.get("training"):
                kwargs.pop("training", None)
            laid_out.append(dataclasses.replace(call, kwargs=kwargs))
        return made_in_training, laid_out

    def _called(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, list[Call]]:
        """Returns what one call of the layer makes, and the calls that make it."""
        layer = self._layer
        scope = keras.StatelessScope(collect_losses=True)
        with (
            without_new_nodes(layer),
            scope,
            symbols_take_weights(),
            symbols_for_constants(self.inputs[0]) as constants,
        ):
            try:
                made = layer.call(*args, **kwargs)
            except Exception as error:
                # Whatever it is: the code is the user's.
                raise Unprunable(
                    "it is made of layers, and cannot be called on symbolic tensors: "
                    f"{first_line(error)}"
                ) from error
            calls: list[Call] = []
            known = set(self.inputs)
            for tensor in keras.tree.flatten(made):
                if not is_symbolic(tensor):
                    raise Unprunable("it is made of layers, and makes no tensor")
                for call in calls_behind(tensor, known):
                    calls.append(call)
                    known.update(call.outputs)
        if constants and not kwargs.get("training"):
            check_alike(layer, args, kwargs, calls, made)
        inside = layer._flatten_layers()
        if scope.losses and not any(own.activity_regularizer for own in inside):
            raise Unprunable("it is made of layers, and adds a loss of its own")
        return made, calls

    def _wiring(
        self,
        calls: Sequence[Call],
        made: Any,
        passed: Collection[keras.Operation] = (),
    ) -> list[Any]:
        """Returns what tells two runs of the layer apart, but for the mode.

        Args:
            calls: Those of a run.
            made: What they make.
            passed: Operations that hand their input on.
        """
        counter = itertools.count()
        numbers = dict(zip(self.inputs, counter, strict=False))
        wiring: list[Any] = []
        for call in calls:
            if call.operation in passed:
                numbers[call.outputs[0]] = numbers[call.inputs[0]]
                continue
            kwargs = {k: v for k, v in call.kwargs.items() if k != "training"}
            leaves = []
            for leaf in keras.tree.flatten((call.args, kwargs)):
                leaves.append(numbers[leaf] if is_symbolic(leaf) else repr(leaf))
            wiring.append((_kind(call), leaves))
            for tensor in call.outputs:
                numbers[tensor] = next(counter)
        wiring.append([numbers[tensor] for tensor in keras.tree.flatten(made)])
        return wiring


def is_composite(call: Call) -> bool:
    """Returns whether a call is of a layer that may be laid out."""
    operation = call.operation
    if not call.is_layer or call.rule or isinstance(operation, NOT_LAID_OUT):
        return False
    inside = operation._flatten_layers(include_self=False)
    return any(not isinstance(own, layers.InputLayer) for own in inside)


def tensors_among(args: tuple, kwargs: dict[str, Any]) -> list[KerasTensor]:
    """Returns the symbolic tensors among the arguments of a call."""
    return [leaf for leaf in keras.tree.flatten((args, kwargs)) if is_symbolic(leaf)]


def _kind(call: Call) -> Any:
    """Returns what tells an operation from others in two runs of one layer.

    One without weights may be made in each of them, as `layers.ReLU()(x)` does.
    """
    if call.weights:
        return call.operation
    try:
        config = config_of(call.operation)
    except ValueError:
        return call.operation if call.is_layer else type(call.operation)
    own = {name: entry for name, entry in config.items() if name != "name"}
    return type(call.operation), repr(own)


def _specs(args: tuple, kwargs: dict[str, Any]) -> list[str]:
    """Returns what calls have in common that make the same calls inside."""
    given = {name: value for name, value in kwargs.items() if value is not None}
    specs = []
    for leaf in keras.tree.flatten((args, given)):
        specs.append(f"{leaf.shape} {leaf.dtype}" if is_symbolic(leaf) else repr(leaf))
    return [*specs, *sorted(given)]


def _own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the weights of a layer that are of no layer inside it."""
    of_others: set[int] = set()
    for inside in layer._flatten_layers(include_self=False):
        of_others.update(id(weight) for weight in inside.weights)
    return [weight for weight in layer.weights if id(weight) not in of_others]


def _check_calls(layer: keras.Layer, calls: Sequence[Call]) -> None:
    """Raises `Unprunable` where weights are used in another way than by calls.

    And where Keras would build a layer for another size than that of its input.
    """
    of_calls: set[int] = set()
    for call in calls:
        if type(call.operation).__name__ == "DotProductAttention":
            query, _, value = operands(call)
            if value.shape[-1] != query.shape[-1]:
                # Keras takes the output to have the size of the queries.
                raise Unprunable("its values have another size than its keys")
        leaves = keras.tree.flatten((call.args, call.kwargs))
        if call.kwargs.get("training"):
            raise Unprunable("it is made of layers, and calls some as in training")
        if any(isinstance(leaf, keras.Variable) for leaf in leaves):
            raise Unprunable("it is made of layers, and computes with weights itself")
        if call.is_layer:
            of_calls.update(id(weight) for weight in call.operation.weights)
    for inside in layer._flatten_layers(include_self=False):
        if any(id(weight) not in of_calls for weight in inside.weights):
            raise Unprunable(
                f"it is made of layers, and does not call all: '{inside.name}' is one"
            )


def _with_names(layer: keras.Layer, calls: Sequence[Call]) -> list[Call]:
    """Returns calls with names that tell the operations of a layer apart.

    A layer inside that got its name from Keras has that of the attribute it is: the
    counters of Keras are other ones in the next process.
    """
    attributes = dict(_attributes(layer))
    names: dict[keras.Operation, str] = {}
    named = []
    for call in calls:
        operation = call.operation
        if operation not in names:
            name = operation.name
            kind = re.sub(r"_\d+$", "", name)
            if kind.replace("_", "") == type(operation).__name__.lower():
                name = attributes.get(operation, kind)
            names[operation] = _unlike(name, [INPUT, *names.values()])
        named.append(dataclasses.replace(call, name=names[operation]))
    return named


def _attributes(layer: keras.Layer) -> Iterator[tuple[keras.Layer, str]]:
    """Yields each layer that is an attribute, or in one, and its name."""
    for name, value in vars(layer).items():
        entries: dict[str, Any] = {name: value}
        if isinstance(value, (list, tuple)):
            entries = {f"{name}_{i}": entry for i, entry in enumerate(value)}
        elif isinstance(value, dict):
            entries = {f"{name}_{key}": entry for key, entry in value.items()}
        if name == "_layers":
            continue
        for of_entry, entry in entries.items():
            if isinstance(entry, keras.Layer):
                yield entry, of_entry.strip("_").replace("/", "_")


def _unlike(name: str, taken: Collection[str]) -> str:
    """Returns a name, with a number behind it if it is taken."""
    number = 0
    unlike = name
    while unlike in taken:
        number += 1
        unlike = f"{name}_{number}"
    return unlike
