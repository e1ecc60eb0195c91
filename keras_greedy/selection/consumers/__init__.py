"""What consumers read: their input as rows of features, their kernel as a matrix."""

import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.graph.rules import linear
from keras_greedy.selection.consumers.base import (
    Consumer,
    DenseConsumer,
    FlattenedConsumer,
)
from keras_greedy.selection.consumers.convolution import (
    ConvConsumer,
    ConvTransposeConsumer,
    GroupedConvConsumer,
    SeparableConvConsumer,
)
from keras_greedy.selection.consumers.opaque import OpaqueConsumer

# The rule itself and none derived from it, which may be of a layer that computes
# something else.
_KINDS = {
    linear.ConvRule: ConvConsumer,
    linear.GroupedConvRule: GroupedConvConsumer,
    linear.ConvTransposeRule: ConvTransposeConsumer,
    linear.SeparableConvRule: SeparableConvConsumer,
}

__all__ = ["Consumer", "consumer_of", "consumers_by_call", "consumers_of"]


def consumers_of(graph: ChannelGraph) -> dict[str, Consumer]:
    """Name -> `Consumer`, for every consumer of a group, in topological order.

    A layer that is called several times has that of its first call.
    """
    reads = {}
    for read in consumers_by_call(graph).values():
        reads.setdefault(read.call.name, read)
    return reads


def consumers_by_call(graph: ChannelGraph) -> dict[int, Consumer]:
    """Index of a call -> `Consumer`, for every consumer of a group."""
    calls = {c.index: c for group in graph.groups for c in group.consumers}
    return {
        index: consumer_of(calls[index], graph.channels_of(calls[index].inputs[0]))
        for index in sorted(calls)
    }


def consumer_of(call: Call, channels: np.ndarray) -> Consumer:
    """The `Consumer` of a consumer whose input carries these channel numbers."""
    if type(call.rule) is linear.DenseRule:
        is_map = len(call.inputs[0].shape) > 2
        return (DenseConsumer if is_map else FlattenedConsumer)(call, channels)
    return _KINDS.get(type(call.rule), OpaqueConsumer)(call, channels)
