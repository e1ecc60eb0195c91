"""Consumers: their input as rows of features, their kernel as a matrix."""

import collections

import numpy as np

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.rules import contraction, linear
from keras_greedy.graph.rules.recurrent import CONV_LSTM, RecurrentRule, directions
from keras_greedy.graph.rules.wrappers import TimeDistributedRule, WrapperRule
from keras_greedy.selection.consumers.base import (
    Consumer,
    DenseConsumer,
    FlattenedConsumer,
)
from keras_greedy.selection.consumers.convolution import (
    ConvConsumer,
    GroupedConvConsumer,
    SeparableConvConsumer,
)
from keras_greedy.selection.consumers.einsum import EinsumConsumer
from keras_greedy.selection.consumers.opaque import OpaqueConsumer
from keras_greedy.selection.consumers.recurrent import (
    ConvLSTMConsumer,
    RecurrentConsumer,
)
from keras_greedy.selection.consumers.time_distributed import TimeDistributedConsumer
from keras_greedy.selection.consumers.transposed import ConvTransposeConsumer

__all__ = ["Consumer", "consumer_of", "consumers_by_call", "consumers_of"]

# The rule itself and none derived from it, which may be of a layer that computes
# something else.
_KINDS: dict[type, type[Consumer]] = {
    linear.ConvRule: ConvConsumer,
    linear.GroupedConvRule: GroupedConvConsumer,
    linear.ConvTransposeRule: ConvTransposeConsumer,
    linear.SeparableConvRule: SeparableConvConsumer,
    contraction.EinsumDenseRule: EinsumConsumer,
}


def consumers_of(graph: ChannelGraph) -> dict[str, Consumer]:
    """Returns name -> `Consumer`, for every consumer of a group.

    They are in topological order. A layer that is called several times has the
    `Consumer` of its first call.
    """
    consumers: dict[str, Consumer] = {}
    for consumer in consumers_by_call(graph).values():
        consumers.setdefault(consumer.call.name, consumer)
    return consumers


def consumers_by_call(graph: ChannelGraph) -> dict[int, Consumer]:
    """Returns index of a call -> `Consumer`, for every consumer of a group."""
    groups_read = collections.Counter[int]()
    calls = {}
    for group in graph.groups:
        for call in group.consumers:
            groups_read[call.index] += 1
            calls[call.index] = call
    consumers = {}
    for index in sorted(calls):
        call = calls[index]
        channels = graph.channels_read(call).ravel()
        consumers[index] = consumer_of(call, channels)
        consumers[index].groups_read = groups_read[index]
    return consumers


def consumer_of(call: Call, channels: np.ndarray) -> Consumer:
    """Returns the `Consumer` of a call whose input carries these channel numbers.

    Args:
        call: The call of a consumer.
        channels: `(C,)` channel numbers of the axis that it reads.
    """
    rule = call.rule
    if isinstance(rule, TimeDistributedRule):
        return TimeDistributedConsumer(call, consumer_of(rule.inside(call), channels))
    if isinstance(rule, WrapperRule):
        return consumer_of(rule.inside(call), channels)
    kind = _KINDS.get(type(rule), OpaqueConsumer)
    if type(rule) is linear.DenseRule:
        is_map = len(call.inputs[0].shape) > 2
        kind = DenseConsumer if is_map else FlattenedConsumer
    if type(rule) is RecurrentRule:
        first, *_ = directions(call.operation)
        is_conv = isinstance(first, CONV_LSTM)
        kind = ConvLSTMConsumer if is_conv else RecurrentConsumer
    return kind(call, channels)
