"""The calls of a model: one operation applied once each.

Symbolic tensors and operations of Keras hash by identity. So they serve as keys of
dicts all over this package, and two of them that look alike stay two.
"""

import collections
import dataclasses
import functools
import inspect
import re
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import keras
from keras import KerasTensor

if TYPE_CHECKING:
    # The rules import calls; calls need rules for their annotation alone.
    from keras_greedy.graph.rules.base import Rule

# The names that Keras gives to variables made without one.
AUTO_NAME = re.compile(r"variable(_\d+)?")

# Symbolic tensor -> its value: an array, a tensor, or another symbolic tensor.
Values: TypeAlias = dict[KerasTensor, Any]
# `apply(call, *args, **kwargs)` computes one call from the values of its arguments.
Apply: TypeAlias = Callable[..., Any]


def named_weights(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Returns a layer's weights by name.

    A weight made without a name has that of the layer's attribute. Weights that
    share a name, of layers inside the layer, have their path for one.
    """
    attributes = {}
    for attribute, value in vars(layer).items():
        if isinstance(value, keras.Variable):
            attributes[id(value)] = attribute
    times = collections.Counter(weight.name for weight in layer.weights)
    named = {}
    for weight in layer.weights:
        if AUTO_NAME.fullmatch(weight.name):
            name = attributes.get(id(weight), weight.path)
        elif times[weight.name] == 1:
            name = weight.name
        else:
            name = weight.path
        named[name] = weight
    return named


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

    def arguments(self, values: Values) -> tuple[tuple, dict[str, Any]]:
        """Returns the arguments with every symbolic tensor replaced by its value."""

        def value(leaf: Any) -> Any:
            return values[leaf] if isinstance(leaf, KerasTensor) else leaf

        return keras.tree.map_structure(value, (self.args, self.kwargs))

    def compute(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the call makes of these arguments at inference.

        Layers that change images at random would take it for training otherwise.
        """
        if self._trains_by_default and "training" not in kwargs:
            kwargs["training"] = False
        return self.operation(*args, **kwargs)

    @functools.cached_property
    def _trains_by_default(self) -> bool:
        parameters = inspect.signature(self.operation.call).parameters
        return "training" in parameters and parameters["training"].default is True


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
    shapes = []
    for leaf in keras.tree.flatten((args, kwargs)):
        if isinstance(leaf, KerasTensor):
            shapes.append(leaf.shape)
    made: Iterable[KerasTensor] = call.outputs
    if shapes != [tensor.shape for tensor in call.inputs]:
        made = keras.tree.flatten(call.operation.compute_output_spec(*args, **kwargs))
    return tuple(KerasTensor(t.shape, t.dtype, name=t.name) for t in made)


def check_has_config(operation: keras.Operation) -> None:
    """Raises a ValueError unless the operation can be made anew from a config."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            operation.get_config()
    except Exception as error:
        # Whatever it is: the code is the user's.
        reason = str(error).strip().split("\n\n")[0] or type(error).__name__
        raise ValueError(
            "Expected every layer of `model` to have a config, as saving the model "
            f"takes. Received: '{operation.name}' of type {type(operation).__name__}, "
            f"whose `get_config()` says: {reason}"
        ) from error
