"""Carries channel numbers through the calls of a model."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.graph.axes import all_numbers, width_of
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import Channels, Reasons
from keras_greedy.graph.parted import settled
from keras_greedy.graph.rule_faults import blamed_on_rule
from keras_greedy.graph.rules.base import Rule, Unprunable, pin_axes
from keras_greedy.graph.rules.probed import rule_without_one
from keras_greedy.graph.space import Boundary, ByAxis, ChannelSpace, Pin


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
        # The number of examples, `None` where it may be any.
        self._batch: int | None = None
        for tensor in inputs:
            self._batch = tensor.shape[0]
            self._channels[tensor] = {-1: self._space.fresh(width_of(tensor))}
            self._pin_boundary([tensor], Boundary.INPUT)

    def carry(self, call: Call) -> None:
        """Gives the call's outputs their channel numbers."""
        try:
            rule = self._applicable_rule(call)
            call = dataclasses.replace(call, rule=rule)
            self._check_batch(call, rule)
            inputs = [self._channels[tensor] for tensor in call.channel_inputs]
            if not rule.takes_parts:
                positions = rule.positions_of(call)
                inputs = [
                    settled(by_axis, self._space, positions=positions)
                    for by_axis in inputs
                ]
            carried = _carried(rule, call, inputs, self._space)
            _pin_lost(call, rule, inputs, carried, self._space)
            self._channels.update(zip(call.outputs, carried, strict=True))
            self._tie_to_first(call, rule)
        except Unprunable as reason:
            # The pins follow in `finish`: the reason holds for every call of the
            # operation, those carried already among them.
            self.whole[call.operation] = str(reason)
            for tensor in call.outputs:
                self._channels[tensor] = {-1: self._space.fresh(width_of(tensor))}
        self.calls.append(call)

    def tie(self, one: KerasTensor, other: KerasTensor) -> None:
        """Declares the channels of two tensors equal."""
        ids = self._channels[one]
        others = self._channels[other]
        widths = {axis: numbers.shape for axis, numbers in ids.items()}
        if widths != {axis: numbers.shape for axis, numbers in others.items()}:
            raise Unprunable("it is called more than once, on different widths")
        self._space.unify(all_numbers(ids), all_numbers(others))

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
                numbers = all_numbers(self._channels[tensor])
                self._space.pin(numbers, call.name, reason)
            self.calls[i] = dataclasses.replace(call, rule=None)
        self._pin_boundary(outputs, Boundary.OUTPUT)
        alone = {}
        for tensor, by_axis in self._channels.items():
            alone[tensor] = settled(by_axis, self._space)
        channels: Channels = {}
        for tensor, by_axis in alone.items():
            channels[tensor] = {}
            for axis, ids in by_axis.items():
                channels[tensor][axis] = self._space.resolve(ids)
        return channels, self._space.pins()

    def followed_by_probe(self, channels: Collection[int]) -> Reasons:
        """Returns `(layer name, kind)` of the layers that are followed due to a probe.

        Args:
            channels: The channel numbers that matter.
        """
        layers = []
        for trusted in self._space.probes.trusted:
            ids = self._space.resolve(trusted.channels)
            if trusted.layer not in self.whole and not set(channels).isdisjoint(ids):
                layers.append((trusted.layer, trusted.kind))
        return list(dict.fromkeys(layers))

    def _check_batch(self, call: Call, rule: Rule) -> None:
        """Raises `Unprunable` for a layer of channels without the batch in front."""
        first, *others = call.inputs[0].shape
        is_behind = self._batch is None and first is not None and None in others
        if is_behind and (rule.consumes or rule.normalizes):
            raise Unprunable("its first axis is not the batch")

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

    def _applicable_rule(self, call: Call) -> Rule:
        """Returns the call's rule, or raises `Unprunable` where it does not apply."""
        if call.operation in self.whole:
            raise Unprunable(self.whole[call.operation])
        if isinstance(call.operation, keras.Model):
            raise Unprunable("the layers of a model inside the model are not seen")
        if call.rule is None:
            return rule_without_one(call, self._space)
        rule = call.rule.of_call(call)
        has_several = len(call.channel_inputs) > 1
        if rule.consumes and has_several and not rule.takes_several:
            raise Unprunable("it reads the channels of several tensors")
        extra = set(call.weights) - set(rule.weight_axes)
        if extra:
            raise Unprunable(f"its rule does not know the weights {sorted(extra)}")
        return rule

    def _pin_boundary(
        self,
        tensors: Iterable[KerasTensor],
        boundary: Boundary,
    ) -> None:
        for tensor in tensors:
            numbers = all_numbers(self._channels[tensor])
            self._space.pin(numbers, None, boundary.value, boundary)


def _carried(
    rule: Rule,
    call: Call,
    inputs: Sequence[ByAxis],
    space: ChannelSpace,
) -> Sequence[ByAxis]:
    """Returns the channel numbers of each output, as the rule has them."""
    expected = "to have a `carry` that returns the channel numbers of its output"
    reason = None
    with blamed_on_rule(call, expected):
        try:
            carried = rule.carry_axes(call, inputs, space)
            _check_widths(call, carried)
        except Unprunable as found:
            reason = found
    if reason is not None:
        raise reason
    return carried


def _pin_lost(
    call: Call,
    rule: Rule,
    inputs: Sequence[ByAxis],
    carried: Sequence[ByAxis],
    space: ChannelSpace,
) -> None:
    """Forbids cutting channels on other axes than the last that a rule loses sight of.

    What comes out has none of them on any axis, and the rule does not say that the call
    reads them: it takes them for positions.
    """
    if rule.consumes or rule.normalizes:
        return
    made: set[int] = set()
    for by_axis in carried:
        made.update(space.resolve(all_numbers(by_axis)))
    for by_axis in inputs:
        for axis, numbers in by_axis.items():
            if axis != -1 and made.isdisjoint(space.resolve(np.ravel(numbers))):
                pin_axes(call, [by_axis], [axis], space)


def _check_widths(call: Call, carried: Sequence[ByAxis]) -> None:
    """Raises `Unprunable` where a rule gives another number of channels than Keras."""
    widths = [width_of(tensor) for tensor in call.outputs]
    given = []
    for by_axis in carried:
        sizes: dict[int, int] = {}
        for axes, numbers in by_axis.items():
            sizes |= dict(zip(np.ravel(axes).tolist(), numbers.shape, strict=True))
        given.append(sizes)
    if widths != [sizes[-1] for sizes in given]:
        raise Unprunable(f"its rule does not explain its {widths} output channels")
    for tensor, sizes in zip(call.outputs, given, strict=True):
        for axis, size in sizes.items():
            if axis != -1 and tensor.shape[axis] != size:
                raise Unprunable(f"its rule does not explain its {tensor.shape} output")
