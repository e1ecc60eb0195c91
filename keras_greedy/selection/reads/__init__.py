"""What consumers read: their input as rows of features, their kernel as a matrix."""

import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.graph.rules import linear
from keras_greedy.selection.reads.convolution import (
    ConvRead,
    ConvTransposeRead,
    GroupedConvRead,
    SeparableConvRead,
)
from keras_greedy.selection.reads.opaque import OpaqueRead
from keras_greedy.selection.reads.read import DenseRead, FlattenedRead, Read

# The rule itself and none derived from it, which may be of a layer that computes
# something else.
_KINDS = {
    linear.ConvRule: ConvRead,
    linear.GroupedConvRule: GroupedConvRead,
    linear.ConvTransposeRule: ConvTransposeRead,
    linear.SeparableConvRule: SeparableConvRead,
}

__all__ = ["Read", "read_of", "reads_by_call", "reads_of"]


def reads_of(graph: ChannelGraph) -> dict[str, Read]:
    """Name -> `Read`, for every consumer of a group, in topological order.

    A layer that is called several times has that of its first call.
    """
    reads = {}
    for read in reads_by_call(graph).values():
        reads.setdefault(read.call.name, read)
    return reads


def reads_by_call(graph: ChannelGraph) -> dict[int, Read]:
    """Index of a call -> `Read`, for every consumer of a group."""
    calls = {c.index: c for group in graph.groups for c in group.consumers}
    return {
        index: read_of(calls[index], graph.channels_of(calls[index].inputs[0]))
        for index in sorted(calls)
    }


def read_of(call: Call, channels: np.ndarray) -> Read:
    """The `Read` of a consumer whose input carries these channel numbers."""
    if type(call.rule) is linear.DenseRule:
        is_map = len(call.inputs[0].shape) > 2
        return (DenseRead if is_map else FlattenedRead)(call, channels)
    return _KINDS.get(type(call.rule), OpaqueRead)(call, channels)
