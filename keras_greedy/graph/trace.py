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

from keras_greedy.graph.calls import Call, check_has_config, fresh_outputs, run_calls
from keras_greedy.graph.carry import Carrier
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.groups import find_groups
from keras_greedy.graph.nodes import own_calls
from tflite_export.user_warnings import warn_user

# Names of layers that a message lists.
NAMES_SHOWN = 3


def trace(model: keras.Model) -> ChannelGraph:
    """Finds which channels of a model must be cut together.

    Layers without a rule keep all channels they touch, and one warning lists them. One
    without weights is probed on random inputs, as an activation without a rule is: if
    it acts on each channel alone, or reads all of them in a known way, they are cut,
    and another warning names it.

    Args:
        model: A built Functional or Sequential model, channels last. The layers of
            such models inside it are traced too, a group's name then begins with
            that model's: `"backbone/conv1"`.

    Returns:
        The `ChannelGraph`.

    Raises:
        ValueError: When `model` is of another kind, not built, or has a layer that
            cannot be made anew from its config.

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
    graph = trace_quietly(model)
    for call in graph.calls:
        check_has_config(call.operation)
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


def trace_quietly(model: keras.Model) -> ChannelGraph:
    """Traces without the warning, for copies of a model traced before."""
    functional = check_model(model)
    layout = Layout(functional)
    carrier = Carrier(functional.inputs)
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
        channels=channels,
        groups=groups,
        unprunable=unprunable,
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
    """Returns the built Functional that backs `model`.

    Raises:
        ValueError: When `model` is no model of Keras' own graph API, or not built.
    """
    if has_graph(model):
        return model._functional if isinstance(model, keras.Sequential) else model
    if isinstance(model, keras.Sequential) and _calls_as(model, keras.Sequential):
        raise ValueError(
            "Expected `model` to be built: call `model.build(input_shape)` or "
            f"start it with `keras.Input`. Received: model={model!r}"
        )
    raise ValueError(
        "Expected `model` to be a Functional or Sequential keras.Model without a "
        "`call` of its own (there is no graph to trace in one: express it with "
        f"`keras.Model(inputs, outputs)`). Received: model={model!r} "
        f"of type {type(model).__name__}"
    )


def has_graph(model: Any) -> bool:
    """Returns whether `model` is a model that computes its graph of layers."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None and _calls_as(model, keras.Sequential)
    return isinstance(model, Functional) and _calls_as(model, Functional)


def _calls_as(
    model: keras.Model,
    base: type[keras.Model],
) -> bool:
    return type(model).call is base.call


class Layout:
    """All calls of a model, those of the models inside it among them.

    A model inside gets fresh symbolic tensors, as it may be called several times.

    Args:
        functional: The model.

    Attributes:
        calls: In topological order.
        outputs: The symbolic tensors the model returns, as the calls make them.
        stand_ins: As of `ChannelGraph`.
        shared_inputs: Pairs of tensors that are the same input of a model inside, at
            different times.
    """

    def __init__(self, functional: Functional):
        self.calls: list[Call] = []
        self.stand_ins: dict[KerasTensor, KerasTensor] = {}
        self.shared_inputs: list[tuple[KerasTensor, KerasTensor]] = []
        # An operation has the name of its first call, however often it is called.
        self._names: dict[keras.Operation, str] = {}
        self.outputs = self._add(functional, functional.inputs, path=(), training=None)

    def _add(
        self,
        functional: Functional,
        inputs: Sequence[KerasTensor],
        path: tuple[str, ...],
        training: Any,
    ) -> list[KerasTensor]:
        """Adds a model's calls; returns the tensors that stand for its outputs.

        Args:
            functional: The model.
            inputs: The tensors that it is called on.
            path: Names of the models around it, its own at the end; none for the
                model that is traced.
            training: The mode that it is called in, `None` where that is left open.
        """
        # The model's own tensors -> those of this call of it.
        here = dict(zip(functional.inputs, inputs, strict=True))
        for own in functional.inputs:
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
            if _is_transparent(own):
                mode = kwargs.get("training", training)
                inner_inputs = keras.tree.flatten(args[0])
                inner = check_model(own.operation)
                return self._add(inner, inner_inputs, (*path, own.name), mode)
            kwargs |= _training(own, training)
            return self._add_call(own, args, kwargs, path)

        run_calls(own_calls(functional), here, add)
        # Of a model that is called several times, the first tensors stay.
        self.stand_ins = here | self.stand_ins
        return [here[tensor] for tensor in functional.outputs]

    def _add_call(
        self,
        own: Call,
        args: tuple,
        kwargs: dict[str, Any],
        path: tuple[str, ...],
    ) -> tuple[KerasTensor, ...]:
        """Adds a call with these arguments; returns the tensors that it makes."""
        full_name = "/".join((*path, own.name))
        call = dataclasses.replace(
            own,
            index=len(self.calls),
            name=self._names.setdefault(own.operation, full_name),
            args=args,
            kwargs=kwargs,
            outputs=fresh_outputs(own, args, kwargs) if path else own.outputs,
        )
        self.calls.append(call)
        return call.outputs


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
