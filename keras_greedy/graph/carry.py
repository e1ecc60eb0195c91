"""Carries channel numbers through the calls of a model."""

import dataclasses

import keras
import numpy as np

from keras_greedy.graph.channels import Call
from keras_greedy.graph.rules.base import Unprunable
from keras_greedy.graph.space import ChannelSpace


class Carrier:
    """Carries channel numbers through calls, in topological order.

    Attributes:
        calls: Those carried, without a rule where all channels are kept.
    """

    def __init__(self, inputs):
        self.calls: list[Call] = []
        self._space, self._channels = ChannelSpace(), {}
        self._first: dict[keras.Operation, Call] = {}
        self._whole: dict[keras.Operation, str] = {}
        for tensor in inputs:
            self._channels[tensor] = self._space.fresh(_width(tensor))
            self._pin([tensor], None, "the model's input")

    def carry(self, call: Call) -> None:
        try:
            _check_rule_applies(call)
            inputs = [self._channels[tensor] for tensor in call.inputs]
            outputs = [call.rule.carry(call, inputs, self._space)]
            _check_widths(call, outputs)
            self._note(call, outputs)
            self._tie_to_first(call)
        except Unprunable as reason:
            self._note(call, [self._space.fresh(_width(t)) for t in call.outputs])
            self._whole[call.operation] = str(reason)
        self.calls.append(call)

    def tie(self, one, other) -> None:
        """Declares the channels of two tensors equal."""
        ids, others = self._channels[one], self._channels[other]
        if len(ids) != len(others):
            raise Unprunable("it is called more than once, on different widths")
        self._space.unify(ids, others)

    def finish(self, outputs):
        """Returns the final channel numbers of each tensor, and the pins."""
        for i, call in enumerate(self.calls):
            reason = self._whole.get(call.operation)
            if reason is not None:
                self._pin([*call.inputs, *call.outputs], call.name, reason)
                self.calls[i] = dataclasses.replace(call, rule=None)
        self._pin(outputs, None, "the model's output")
        resolve = self._space.resolve
        channels = {key: resolve(ids) for key, ids in self._channels.items()}
        return channels, self._space.pins()

    def _tie_to_first(self, call):
        """A layer called again has the same weights: the same channels, too."""
        first = self._first.setdefault(call.operation, call)
        if first is call or not call.rule.is_cut(call):
            return
        again = (*call.inputs, *call.outputs)
        for one, other in zip((*first.inputs, *first.outputs), again, strict=True):
            self.tie(one, other)

    def _note(self, call, outputs):
        self._channels.update(zip(call.outputs, outputs, strict=True))

    def _pin(self, tensors, layer, reason):
        for tensor in tensors:
            self._space.pin(self._channels[tensor], layer, reason)


def _check_rule_applies(call: Call) -> None:
    if isinstance(call.operation, keras.Model):
        raise Unprunable("the layers of a model inside the model are not seen")
    if call.rule is None:
        raise Unprunable(f"no channel rule for {type(call.operation).__name__}")
    if call.rule.consumes and len(call.inputs) > 1:
        raise Unprunable("it reads the channels of several tensors")
    extra = {*call.weights} - {*call.rule.weight_axes}
    if extra:
        raise Unprunable(f"its rule does not know the weights {sorted(extra)}")


def _check_widths(call: Call, outputs: list[np.ndarray]) -> None:
    widths = [_width(tensor) for tensor in call.outputs]
    if [len(ids) for ids in outputs] != widths:
        raise Unprunable(f"its rule does not explain its {widths} output channels")


def _width(tensor) -> int:
    return tensor.shape[-1] or 1 if len(tensor.shape) > 1 else 1
