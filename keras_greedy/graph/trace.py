"""A Keras model as a graph of channels: which ones live and die together.

Every position of every tensor's last axis carries the number of a channel.
Layers that make channels draw fresh numbers, layers that act per channel pass
them on, and joins declare numbers equal. In the end there are classes of equal
positions, which can only be removed together.
"""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import KerasTensor
from keras.src.models.functional import Functional

from keras_greedy.graph.calls import (
    Call,
    config_of,
    fresh_outputs,
    is_sized,
    run_calls,
)
from keras_greedy.graph.carry import Carrier
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.composites import Composite, is_composite, tensors_among
from keras_greedy.graph.groups import find_groups
from keras_greedy.graph.nodes import own_calls
from keras_greedy.graph.rules.base import Unprunable
from keras_greedy.graph.subclassed import functional_calling
from tflite_export.user_warnings import warn_user

# Names of layers that a message lists.
NAMES_SHOWN = 3


def trace(model: keras.Model, look_inside: bool = True) -> ChannelGraph:
    """Finds which channels of a model must be cut together.

    Layers without a rule keep all channels they touch, and one warning lists them. One
    without weights is probed on random inputs, as an activation without a rule is: if
    it acts on each channel alone, or reads all of them in a known way, they are cut,
    and another warning names it.

    Args:
        model: A built model, channels last. The layers of models inside it, and of
            layers made of layers, are traced too; a group's name then begins with that
            of the model or layer: `"backbone/conv1"`.
        look_inside: Whether to look into layers made of layers; else they stay whole.

    Returns:
        The `ChannelGraph`.

    Raises:
        ValueError: When `model` is of another kind, or not built.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, name="first"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(12, 3, name="second"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    for group in keras_greedy.trace(model).groups:
        print(group.name, group.size)  # first 8, then second 12
    ```
    """
    graph = trace_quietly(model, look_inside)
    for call in graph.calls:
        config_of(call.operation)  # Raises when it cannot be made anew.
    if graph.unprunable:
        lines = [f"  {name}: {reason}" for name, reason in graph.unprunable]
        listed = "\n".join(lines)
        warn_user(
            f"Some channels of model '{model.name}' stay unpruned because of "
            f"these layers:\n{listed}"
        )
    if graph.probed:
        lines = [f"  {name}: {kind}" for name, kind in graph.probed]
        listed = "\n".join(lines)
        warn_user(
            f"These layers of model '{model.name}' are taken to do to channels what "
            "they do on random inputs. Register rules for the classes or functions to "
            "be sure, as `keras_greedy.register_rule(my_function)(keras_greedy.Rule)` "
            f"if each channel is on its own:\n{listed}"
        )
    return graph


def trace_quietly(model: keras.Model, look_inside: bool = True) -> ChannelGraph:
    """Traces without the warning, for copies of a model traced before."""
    functional = check_model(model)
    if is_subclassed(model):
        model = functional
    layout = laid_out(functional, look_inside)
    carrier = Carrier(functional.inputs, layout.not_laid_out)
    for call in layout.calls:
        carrier.carry(call)
    for one, other in layout.shared_inputs:
        carrier.tie(one, other)
    channels, pins = carrier.finish(layout.outputs)
    groups, unprunable = find_groups(carrier.calls, channels, pins)
    in_groups = {channel for group in groups for channel in group.channels}
    return ChannelGraph(
        model=model,
        functional=functional,
        calls=carrier.calls,
        outputs=layout.outputs,
        stand_ins=layout.stand_ins,
        inside=layout.inside,
        channels=channels,
        groups=groups,
        unprunable=unprunable,
        whole=carrier.whole,
        probed=carrier.followed_by_probe(in_groups),
    )


def check_channels_last(graph: ChannelGraph) -> None:
    """Raises a ValueError when the layers that make channels have them first."""
    first = []
    for call in graph.calls:
        is_first = getattr(call.operation, "data_format", None) == "channels_first"
        if is_first and call.weights and call.name not in first:
            first.append(call.name)
    if first:
        shown = ", ".join(first[:NAMES_SHOWN])
        more = len(first) - NAMES_SHOWN
        raise ValueError(
            "Expected `model` to have channels last: build it anew with "
            "`data_format='channels_last'` and give it the same weights. Received: a "
            f"model with data_format='channels_first' in the layers {shown}"
            + (f" and {more} more" if more > 0 else "")
        )


def check_model(model: Any) -> Functional:
    """Returns the built Functional that backs `model`, or that calls it.

    Raises:
        ValueError: When `model` is no model, not built, or cannot be called on
            symbolic tensors.
    """
    if has_graph(model):
        return model._functional if isinstance(model, keras.Sequential) else model
    if is_subclassed(model):
        return functional_calling(model)
    if isinstance(model, keras.Sequential) and _calls_as(model, keras.Sequential):
        raise ValueError(
            "Expected `model` to be built: call `model.build(input_shape)` or "
            f"start it with `keras.Input`. Received: model={model!r}"
        )
    raise ValueError(
        "Expected `model` to be a keras.Model. Received: model="
        f"{model!r} of type {type(model).__name__}"
    )


def check_has_graph(model: keras.Model) -> None:
    """Raises a ValueError for a model with a `call` of its own, or not built."""
    if is_subclassed(model):
        raise ValueError(
            "Expected a Functional or Sequential keras.Model without a `call` of its "
            "own, of which there is no graph: express it with `keras.Model(inputs, "
            f"outputs)`. Received: model={model!r} of type {type(model).__name__}"
        )
    check_model(model)


def has_graph(model: Any) -> bool:
    """Returns whether `model` is a model that computes its graph of layers."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None and _calls_as(model, keras.Sequential)
    return isinstance(model, Functional) and _calls_as(model, Functional)


def is_subclassed(model: Any) -> bool:
    """Returns whether `model` is a model with a `call` of its own."""
    if not isinstance(model, keras.Model) or has_graph(model):
        return False
    return not _calls_as(model, keras.Sequential)


def _calls_as(
    model: keras.Model,
    base: type[keras.Model],
) -> bool:
    return type(model).call is base.call


def laid_out(functional: Functional, look_inside: bool) -> "Layout":
    """Returns the layout of a model, in which each layer is looked into or is not."""
    not_laid_out: dict[keras.Operation, str] = {}
    while True:
        try:
            return Layout(functional, not_laid_out, look_inside)
        except _CalledInOtherWays as error:
            # Another of its calls has been laid out already: once more, from the start.
            not_laid_out[error.layer] = error.reason


class _CalledInOtherWays(Exception):
    """Raised where not all calls of a layer can be laid out in the same way."""

    def __init__(self, layer: keras.Layer, reason: str):
        super().__init__(reason)
        self.layer = layer
        self.reason = reason


class Layout:
    """All calls of a model, those of the models and layers inside it among them.

    A model inside gets fresh symbolic tensors, as it may be called several times.

    Args:
        functional: The model.
        not_laid_out: Layers made of layers that are to stay single calls -> why.
        look_inside: As for `trace`.

    Attributes:
        calls: In topological order.
        outputs: The symbolic tensors the model returns, as the calls make them.
        stand_ins: As of `ChannelGraph`.
        inside: As of `ChannelGraph`.
        not_laid_out: As given, and those found.
        shared_inputs: Pairs of tensors that are the same input of a model inside, at
            different times.
    """

    def __init__(
        self,
        functional: Functional,
        not_laid_out: dict[keras.Operation, str],
        look_inside: bool = True,
    ):
        self.calls: list[Call] = []
        self.stand_ins: dict[KerasTensor, KerasTensor] = {}
        self.inside: dict[keras.Operation, Composite] = {}
        self.not_laid_out = not_laid_out
        self._look_inside = look_inside
        self.shared_inputs: list[tuple[KerasTensor, KerasTensor]] = []
        # An operation has the name of its first call, however often it is called.
        self._names: dict[keras.Operation, str] = {}
        self._whole = wrapped(functional)
        self.outputs = self._add(functional, functional.inputs, path=(), training=None)

    def _add(
        self,
        model: Functional | Composite,
        inputs: Sequence[KerasTensor],
        path: tuple[str, ...],
        training: Any,
    ) -> list[KerasTensor]:
        """Adds a model's calls; returns the tensors that stand for its outputs.

        Args:
            model: The model, or a layer made of layers.
            inputs: The tensors that it is called on.
            path: Names of the models around it, its own at the end; none for the
                model that is traced.
            training: The mode that it is called in, `None` where that is left open.
        """
        # The model's own tensors -> those of this call of it.
        here = dict(zip(model.inputs, inputs, strict=True))
        for own in model.inputs:
            # An input of any width has no channels of its own to be tied.
            if own.shape[-1] is not None and own in self.stand_ins:
                pair = (self.stand_ins[own], here[own])
                self.shared_inputs.append(pair)

        def add(
            own: Call,
            /,
            *args: Any,
            **kwargs: Any,
        ) -> Sequence[KerasTensor]:
            inner = self._looked_into(own, args, kwargs)
            if inner is not None:
                mode = kwargs.get("training", training)
                names = path if own.operation is self._whole else (*path, own.name)
                return self._add(inner, tensors_among(args, kwargs), names, mode)
            kwargs |= _training(own, training)
            return self._add_call(own, args, kwargs, path)

        run_calls(calls_of(model), here, add)
        # Of a model that is called several times, the first tensors stay.
        self.stand_ins = here | self.stand_ins
        return [here[tensor] for tensor in model.outputs]

    def _looked_into(
        self,
        own: Call,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> Functional | Composite | None:
        """Returns the model, or the layer as one, that a call is of, if it is seen."""
        if _is_transparent(own):
            return check_model(own.operation)
        layer = own.operation
        if layer in self.not_laid_out or has_graph(layer) or not is_composite(own):
            return None
        if not self._look_inside:
            return None
        known = self.inside.get(layer)
        if known is not None:
            if known.is_called_alike(args, kwargs):
                return known
            raise _CalledInOtherWays(
                layer, "it is made of layers, and called in different ways"
            )
        try:
            self.inside[layer] = Composite(own, args, kwargs)
        except Unprunable as reason:
            self.not_laid_out[layer] = str(reason)
            return None
        return self.inside[layer]

    def _add_call(
        self,
        own: Call,
        args: tuple,
        kwargs: dict[str, Any],
        path: tuple[str, ...],
    ) -> tuple[KerasTensor, ...]:
        """Adds a call with these arguments; returns the tensors that it makes."""
        full_name = "/".join((*path, own.name))
        outputs = own.outputs
        if path or not is_sized(own, args, kwargs):
            outputs = fresh_outputs(own, args, kwargs)
        call = dataclasses.replace(
            own,
            index=len(self.calls),
            name=self._names.setdefault(own.operation, full_name),
            args=args,
            kwargs=kwargs,
            outputs=outputs,
        )
        self.calls.append(call)
        return call.outputs


def calls_of(model: Functional | Composite) -> list[Call]:
    """Returns the calls of one model's graph, or of a layer made of layers."""
    return model.calls if isinstance(model, Composite) else own_calls(model)


def wrapped(functional: Functional) -> keras.Layer | None:
    """Returns the model that a Functional does nothing but call, if it has no graph."""
    operations = [
        operation
        for operation in functional.operations
        if not isinstance(operation, keras.layers.InputLayer)
    ]
    if len(operations) != 1 or not isinstance(operations[0], keras.Model):
        return None
    return None if has_graph(operations[0]) else operations[0]


def _is_transparent(call: Call) -> bool:
    """Returns whether the call is of a model that equals the calls of its layers."""
    if not has_graph(call.operation) or len(call.args) != 1:
        return False
    for name, value in call.kwargs.items():
        leaves = keras.tree.flatten(value)
        if name != "training" and any(leaf is not None for leaf in leaves):
            return False
    expected = check_model(call.operation).input
    given = call.args[0]
    # Keras picks the entries of a dict by name, those of a list by position.
    if isinstance(expected, dict) and isinstance(given, dict):
        return expected.keys() == given.keys()
    if isinstance(expected, dict) or isinstance(given, dict):
        return False
    if call.inputs != keras.tree.flatten(given):
        return False
    # Keras adds or drops an axis of size 1 where the ranks differ.
    return _ranks(expected) == _ranks(given)


def _ranks(tensors: Any) -> list[int]:
    """Returns the rank of each tensor in a structure."""
    return [len(tensor.shape) for tensor in keras.tree.flatten(tensors)]


def _training(
    call: Call,
    training: Any,
) -> dict[str, Any]:
    """Returns the mode of the model around, for a layer called without one."""
    if training is None or "training" in call.kwargs:
        return {}
    parameters = inspect.signature(call.operation.call).parameters
    return {"training": training} if "training" in parameters else {}
