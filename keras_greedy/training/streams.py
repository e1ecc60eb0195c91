"""Streams: what the layers of the full and of the compact model read, side by side.

A layer of the compact model that reads as many channels as in the full one has the
same input there, but for the error of what was pruned before it. In a network of blocks
these are the residual streams: the hidden channels of a block go, its output keeps its
width. They are targets at every position of every block, where an answer is one vector.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from keras import KerasTensor

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call, Values
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.masks import is_real

# Maps a batch, one array per input of a model, to some of the tensors that it makes.
Tensors: TypeAlias = Callable[[list], list[Tensor]]


class Stream(NamedTuple):
    """A tensor of the full model, and the one in its place in the compact model.

    Attributes:
        name: Of the layer that reads them.
        full: `(n, ..., C)`.
        compact: Of the same shape.
    """

    name: str
    full: KerasTensor
    compact: KerasTensor


def streams_of(full: ChannelGraph, compact: ChannelGraph) -> list[Stream]:
    """Returns the streams with positions, in topological order.

    Args:
        full: The graph of the full model.
        compact: That of the compact one.
    """
    streams: list[Stream] = []
    known: set[KerasTensor] = {*full.inputs, *full.outputs}
    in_compact = _reads(compact)
    for key, tensor in _reads(full).items():
        counterpart = in_compact.get(key)
        if counterpart is None or tensor in known:
            continue
        known.add(tensor)
        is_whole = counterpart.shape[1:] == tensor.shape[1:]
        has_positions = len(tensor.shape) > 2
        if is_whole and has_positions and is_real(tensor.dtype):
            streams.append(Stream(key[0], tensor, counterpart))
    return streams


def _reads(graph: ChannelGraph) -> dict[tuple[str, int], KerasTensor]:
    """Returns what each reader of all channels reads, by its name and which call."""
    times: Counter[str] = Counter()
    reads = {}
    for call in graph.calls:
        if call.rule is not None and call.rule.consumes:
            reads[call.name, times[call.name]] = call.inputs[0]
            times[call.name] += 1
    return reads


def tensors_of(graph: ChannelGraph, wanted: Sequence[KerasTensor]) -> Tensors:
    """Returns a function that computes some tensors of a model, in inference mode.

    Args:
        graph: The traced model.
        wanted: Its tensors.
    """

    def compute(inputs: list) -> list[Tensor]:
        values = graph.feed(inputs)
        # An output may be an input.
        found: Values = {t: values[t] for t in wanted if t in values}
        for call in graph.calls:
            values = graph.run(values, [call], _apply)
            for tensor in call.outputs:
                if tensor in wanted:
                    found[tensor] = values[tensor]
            if len(found) == len({*wanted}):
                break
        return [found[tensor] for tensor in wanted]

    return compute


def _apply(call: Call, *args: Any, **kwargs: Any) -> Any:
    return call.compute(*args, **kwargs)
