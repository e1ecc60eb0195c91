"""Carries channel numbers through the calls of a model."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import Channels
from keras_greedy.graph.rule_faults import blamed_on_rule
from keras_greedy.graph.rules.base import Rule, Unprunable
from keras_greedy.graph.space import Boundary, ChannelSpace, Pin


class Carrier:
    """Carries channel numbers through calls, in topological order.

    Args:
        inputs: The model's input tensors.
        whole: Operation -> the reason why all channels that it touches are kept, of
            those known beforehand.

    Attributes:
        calls: The calls carried so far; those whose channels are all kept lose
            their rule in `finish`.
        whole: The same of all operations that have such a reason.
    """

    def __init__(
        self,
        inputs: Iterable[KerasTensor],
        whole: Mapping[keras.Operation, str],
    ):
        self.calls: list[Call] = []
        self._space = ChannelSpace()
        self._channels: Channels = {}
        # The first call of each operation; a layer may be called several times.
        self._first: dict[keras.Operation, Call] = {}
        self.whole: dict[keras.Operation, str] = dict(whole)
        for tensor in inputs:
            self._channels[tensor] = self._space.fresh(_width(tensor))
            self._pin_boundary([tensor], Boundary.INPUT)

    def carry(self, call: Call) -> None:
        """Gives the call's outputs their channel numbers."""
        try:
            if call.operation in self.whole:
                raise Unprunable(self.whole[call.operation])
            rule = _applicable_rule(call)
            inputs = [self._channels[tensor] for tensor in call.channel_inputs]
            carried = _carried(rule, call, inputs, self._space)
            self._channels.update(zip(call.outputs, carried, strict=True))
            self._tie_to_first(call, rule)
        except Unprunable as reason:
            # The pins follow in `finish`: the reason holds for every call of the
            # operation, those carried already among them.
            self.whole[call.operation] = str(reason)
            for tensor in call.outputs:
                self._channels[tensor] = self._space.fresh(_width(tensor))
        self.calls.append(call)

    def tie(self, one: KerasTensor, other: KerasTensor) -> None:
        """Declares the channels of two tensors equal."""
        ids = self._channels[one]
        others = self._channels[other]
        if len(ids) != len(others):
            raise Unprunable("it is called more than once, on different widths")
        self._space.unify(ids, others)

    def finish(
        self,
        outputs: Iterable[KerasTensor],
    ) -> tuple[Channels, dict[int, Pin]]:
        """Closes the graph.

        Args:
            outputs: The model's output tensors.

        Returns:
            The final channel numbers of each tensor, and the pin of each channel
            number that has one.
        """
        for i, call in enumerate(self.calls):
            reason = self.whole.get(call.operation)
            if reason is None:
                continue
            for tensor in (*call.inputs, *call.outputs):
                self._space.pin(self._channels[tensor], call.name, reason)
            self.calls[i] = dataclasses.replace(call, rule=None)
        self._pin_boundary(outputs, Boundary.OUTPUT)
        channels = {}
        for tensor, ids in self._channels.items():
            channels[tensor] = self._space.resolve(ids)
        return channels, self._space.pins()

    def _tie_to_first(self, call: Call, rule: Rule) -> None:
        """Ties a layer that is called again: it has the same weights, cut once."""
        first = self._first.setdefault(call.operation, call)
        if first is call or not rule.is_cut(call):
            return
        before = rule.tied(first)
        again = rule.tied(call)
        if len(before) != len(again):
            raise Unprunable("it is called more than once, on more tensors and on less")
        for one, other in zip(before, again, strict=True):
            self.tie(one, other)

    def _pin_boundary(
        self,
        tensors: Iterable[KerasTensor],
        boundary: Boundary,
    ) -> None:
        for tensor in tensors:
            ids = self._channels[tensor]
            self._space.pin(ids, None, boundary.value, boundary)


def _applicable_rule(call: Call) -> Rule:
    """Returns the call's rule, or raises `Unprunable` where it does not apply."""
    if isinstance(call.operation, keras.Model):
        raise Unprunable("the layers of a model inside the model are not seen")
    if call.rule is None:
        raise Unprunable(f"no channel rule for {_kind(call.operation)}")
    has_several = len(call.channel_inputs) > 1
    if call.rule.consumes and has_several and not call.rule.takes_several:
        raise Unprunable("it reads the channels of several tensors")
    extra = set(call.weights) - set(call.rule.weight_axes)
    if extra:
        raise Unprunable(f"its rule does not know the weights {sorted(extra)}")
    return call.rule


def _kind(operation: keras.Operation) -> str:
    """Returns the class of an operation, of a wrapper with that of the layer inside."""
    kind = type(operation).__name__
    for attribute in ("layer", "forward_layer", "cell"):
        inside = getattr(operation, attribute, None)
        if isinstance(inside, keras.Layer):
            return f"{kind} of {_kind(inside)}"
    return kind


def _carried(
    rule: Rule,
    call: Call,
    inputs: Sequence[np.ndarray],
    space: ChannelSpace,
) -> list[np.ndarray]:
    """Returns the channel numbers of each output, as the rule has them."""
    expected = "to have a `carry` that returns the channel numbers of its output"
    reason = None
    with blamed_on_rule(call, expected):
        try:
            carried = rule.carry_all(call, inputs, space)
            _check_widths(call, carried)
        except Unprunable as found:
            reason = found
    if reason is not None:
        raise reason
    return carried


def _check_widths(call: Call, carried: Sequence[np.ndarray]) -> None:
    """Raises `Unprunable` where a rule gives another number of channels than Keras."""
    widths = [_width(tensor) for tensor in call.outputs]
    if widths != [len(ids) for ids in carried]:
        raise Unprunable(f"its rule does not explain its {widths} output channels")


def _width(tensor: KerasTensor) -> int:
    """Returns the size of a tensor's last axis, 1 where there is none or no size."""
    has_channels = len(tensor.shape) > 1
    if not has_channels:
        return 1
    return tensor.shape[-1] or 1
