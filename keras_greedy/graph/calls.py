"""The calls of a model: one operation applied once each.

Symbolic tensors and operations of Keras hash by identity. So they serve as keys of
dicts all over this package, and two of them that look alike stay two.
"""

import collections
import dataclasses
import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
from keras import KerasTensor

if TYPE_CHECKING:
    # The rules import calls; calls need rules for their annotation alone.
    from keras_greedy.graph.rules.base import Rule

# The names that Keras gives to variables made without one.
AUTO_NAME = re.compile(r"variable(_\d+)?")

# That of layers with no config of their own.
USUAL_GET_CONFIG = keras.Layer.get_config

# Symbolic tensor -> its value: an array, a tensor, or another symbolic tensor.
Values: TypeAlias = dict[KerasTensor, Any]
# `apply(call, *args, **kwargs)` computes one call from the values of its arguments.
Apply: TypeAlias = Callable[..., Any]


def named_weights(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Returns a layer's weights by name.

    A weight made without a name has that of the layer's attribute. Weights that
    share a name, of layers inside the layer, have the names of those before it.
    """
    attributes = {}
    for attribute, value in vars(layer).items():
        if isinstance(value, keras.Variable):
            attributes[id(value)] = attribute
    inside = _names_inside(layer)
    times = collections.Counter(weight.name for weight in layer.weights)
    named = {}
    for weight in layer.weights:
        if AUTO_NAME.fullmatch(weight.name):
            name = attributes.get(id(weight), inside[id(weight)])
        elif times[weight.name] == 1:
            name = weight.name
        else:
            name = inside[id(weight)]
        named[name] = weight
    return named


def _names_inside(layer: keras.Layer) -> dict[int, str]:
    """Returns by its id the name of each weight, behind those of the layers inside.

    The path that Keras gives a weight depends on when and where a layer was built.
    """
    names: dict[int, str] = {}
    for inside in layer._layers:
        for own, name in _names_inside(inside).items():
            names.setdefault(own, f"{inside.name}/{name}")
    for weight in layer.weights:
        names.setdefault(id(weight), weight.name)
    return names


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One operation applied once: a node of the model's graph.

    Attributes:
        index: Position in the graph's topological order.
        name: Name of the operation, behind those of the models it is nested in,
            as in `"backbone/conv1"`.
        operation: The `keras.Operation` (a layer or a raw operation).
        args: Positional arguments, symbolic tensors included.
        kwargs: Keyword arguments, symbolic tensors included.
        outputs: The symbolic tensors it makes.
        rule: The rule of the operation's channels; `None` where there is none.
    """

    index: int
    name: str
    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    outputs: tuple[KerasTensor, ...]
    rule: "Rule | None"

    @property
    def is_layer(self) -> bool:
        """Returns whether the operation is a layer, not a raw operation."""
        return isinstance(self.operation, keras.Layer)

    @property
    def weights(self) -> dict[str, keras.Variable]:
        """Returns the operation's weights by name; a raw operation has none."""
        return named_weights(self.operation) if self.is_layer else {}

    @property
    def inputs(self) -> list[KerasTensor]:
        """Returns the symbolic tensors among the arguments."""
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, KerasTensor)]

    @property
    def channel_inputs(self) -> list[KerasTensor]:
        """Returns the symbolic tensors among the arguments that are no masks."""
        others = {}
        for name, value in self.kwargs.items():
            if name != "mask" and not name.endswith("_mask"):
                others[name] = value
        leaves = keras.tree.flatten((self.args, others))
        return [leaf for leaf in leaves if isinstance(leaf, KerasTensor)]

    @property
    def entries_made(self) -> int:
        """Returns how wide each channel is that the call makes: 1, but for heads."""
        behind = self.outputs[0].shape[self.rule.made_axis :][1:] if self.rule else ()
        return math.prod(behind)

    def arguments(self, values: Values) -> tuple[tuple, dict[str, Any]]:
        """Returns the arguments with every symbolic tensor replaced by its value."""

        def value(leaf: Any) -> Any:
            return values[leaf] if isinstance(leaf, KerasTensor) else leaf

        return keras.tree.map_structure(value, (self.args, self.kwargs))

    def in_place(self, first: Any, others: Sequence[Any]) -> tuple:
        """Returns positional arguments of which `one_by_one` makes these."""
        given = [first, *others]
        own = self.args[0]
        if not isinstance(own, list | tuple):
            return tuple(given)
        return (given[: len(own)], *given[len(own) :])

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the call makes of these arguments at inference.

        Layers that change images at random would take it for training otherwise.
        """
        if trains_by_default(self.operation):
            kwargs["training"] = False
        return self.operation(*args, **kwargs)


def trains_by_default(operation: keras.Operation) -> bool:
    """Returns whether an operation takes each call for one in training."""
    parameters = inspect.signature(operation.call).parameters
    return "training" in parameters and parameters["training"].default is True


def one_by_one(args: tuple) -> tuple:
    """Returns positional arguments, those in a list in front each on its own."""
    first, *rest = args
    return (*first, *rest) if isinstance(first, list | tuple) else args


def run_calls(
    calls: Iterable[Call],
    values: Values,
    apply: Apply,
) -> None:
    """Evaluates calls, in their order, and adds the tensors they make to `values`.

    Args:
        calls: In topological order.
        values: Symbolic tensor -> value; updated in place.
        apply: `apply(call, *args, **kwargs)` computes one call.
    """
    for call in calls:
        args, kwargs = call.arguments(values)
        made = keras.tree.flatten(apply(call, *args, **kwargs))
        values.update(zip(call.outputs, made, strict=True))


def fresh_outputs(
    call: Call,
    args: tuple,
    kwargs: dict[str, Any],
) -> tuple[KerasTensor, ...]:
    """Returns tensors like the call's outputs, of the sizes these arguments make."""
    made: Iterable[KerasTensor] = call.outputs
    if _shapes(args, kwargs) != _shapes(call.args, call.kwargs):
        made = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
    if isinstance(call.operation, keras.layers.EinsumDense):
        made = [_with_sizes(call.operation, args[0], *made)]
    elif is_reshape(call.operation):
        made = [_with_rest(args[0], *made)]
    return tuple(KerasTensor(t.shape, t.dtype, name=t.name) for t in made)


def is_sized(call: Call, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Returns whether the call's own outputs have all sizes that are known of them."""
    if isinstance(call.operation, keras.layers.EinsumDense):
        return False
    if is_reshape(call.operation):
        return None not in call.outputs[0].shape[1:]
    return _shapes(args, kwargs) == _shapes(call.args, call.kwargs)


def known_sizes(call: Call) -> dict[str, Any]:
    """Returns the entries of a config that tell sizes, which are unknown without."""
    if is_reshape(call.operation):
        sizes = call.outputs[0].shape[1:]
        return {} if None in sizes else {"newshape": (-1, *sizes)}
    if not isinstance(call.operation, keras.layers.EinsumDense):
        return {}
    sizes = keras.tree.flatten(call.operation.get_config()["output_shape"])
    return {"output_shape": call.outputs[0].shape[-len(sizes) :]}


def _shapes(args: tuple, kwargs: dict[str, Any]) -> list[tuple]:
    """Returns the shapes of the symbolic tensors among arguments."""
    leaves = keras.tree.flatten((args, kwargs))
    return [leaf.shape for leaf in leaves if isinstance(leaf, KerasTensor)]


def is_reshape(operation: keras.Operation) -> bool:
    """Returns whether an operation is `keras.ops.reshape`."""
    is_layer = isinstance(operation, keras.Layer)
    return not is_layer and type(operation).__name__ == "Reshape"


def _with_rest(read: KerasTensor, made: KerasTensor) -> KerasTensor:
    """Returns the output of a reshape, with a size that follows from the others."""
    before, after = read.shape, list(made.shape)
    if None in before[1:] or after[1:].count(None) != 1 or after[0] != before[0]:
        return made
    known = math.prod(size for size in after[1:] if size is not None)
    after[after.index(None, 1)] = math.prod(before[1:]) // known
    return KerasTensor(after, made.dtype, name=made.name)


def _with_sizes(
    layer: keras.layers.EinsumDense,
    read: KerasTensor,
    made: KerasTensor,
) -> KerasTensor:
    """Returns the output of a layer, which does not tell the sizes that it leaves."""
    given, letters = layer.equation.replace(" ", "").split("->")
    of_read = given.split(",")[0]
    if "." in letters:
        return made
    sizes = dict(zip(of_read, read.shape, strict=True))
    shape = []
    for letter, size in zip(letters, made.shape, strict=True):
        shape.append(sizes.get(letter) if size is None else size)
    return KerasTensor(shape, made.dtype, name=made.name)


def config_of(operation: keras.Operation) -> dict[str, Any]:
    """Returns the config that an operation can be made anew from.

    Raises:
        ValueError: When it has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return operation.get_config()
    except Exception as error:
        if _has_usual_arguments(operation):
            return _usual_config(operation)
        # Whatever it is: the code is the user's.
        reason = str(error).strip().split("\n\n")[0] or type(error).__name__
        raise ValueError(
            "Expected every layer of `model` to have a config, as saving the model "
            f"takes. Received: '{operation.name}' of type {type(operation).__name__}, "
            f"whose `get_config()` says: {reason}"
        ) from error


def _has_usual_arguments(operation: keras.Operation) -> bool:
    """Returns whether a layer has no other arguments than all layers have.

    Keras finds no config for one that is given a `DTypePolicy`, as KerasHub's are.
    """
    cls = type(operation)
    if not isinstance(operation, keras.Layer) or cls.get_config is not USUAL_GET_CONFIG:
        return False
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    return all(own.kind is inspect.Parameter.VAR_KEYWORD for own in parameters)


def _usual_config(layer: keras.Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "trainable": layer.trainable,
        "dtype": keras.dtype_policies.serialize(layer.dtype_policy),
    }
