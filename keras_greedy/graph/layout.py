"""The calls of a model in a row, with those of models and layers inside it."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import keras
from keras import KerasTensor
from keras.src.models.functional import Functional

from keras_greedy.graph.calls import Call, fresh_outputs, is_sized, run_calls
from keras_greedy.graph.composites import Composite, is_composite, tensors_among
from keras_greedy.graph.model_kinds import check_model, has_graph, wrapped
from keras_greedy.graph.nodes import own_calls
from keras_greedy.graph.rules.base import Unprunable


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
