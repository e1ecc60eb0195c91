"""A model as blocks that can be run, and timed, one by one."""

import dataclasses

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph, run_calls
from keras_greedy.graph.rebuild import Cutter


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A layer with a kernel and what follows it up to the next ones.

    Activations, normalizations, pooling and joins are part of the block that makes
    the last of their inputs, as runtimes fuse them into its kernel.

    Attributes:
        calls: In topological order.
        inputs: The symbolic tensors it takes from other blocks or the model's inputs.
        outputs: Those that other blocks, or the user, take from it.
        reads: Names of the groups with channels that its first call reads.
        others: Names of all other groups with channels in it.
    """

    calls: list[Call]
    inputs: list
    outputs: list
    reads: list[str]
    others: list[str]

    @property
    def name(self) -> str:
        return f"{self.calls[0].index} {self.calls[0].name}"

    def model(self, graph: ChannelGraph, widths: dict[str, int]) -> keras.Model:
        """A model of the block alone, with fresh weights.

        Args:
            graph: The graph that the block is of.
            widths: Group name -> width; the others have all their channels.
        """
        kept = graph.kept_mask({name: np.arange(n) for name, n in widths.items()})
        cutter = Cutter(graph, kept, {})
        fresh = [_input(t, kept[graph.channels_of(t)].sum()) for t in self.inputs]
        values = dict(zip(self.inputs, fresh, strict=True))
        run_calls(self.calls, values, cutter.apply)
        return keras.Model(fresh, [values[tensor] for tensor in self.outputs])


def blocks_of(graph: ChannelGraph) -> list[Block]:
    """Every call of a graph, in exactly one block."""
    members, block_of = [], {}
    for call in graph.calls:
        makers = [block_of[t] for t in call.inputs if t in block_of]
        if _has_kernel(call) or not makers:
            makers = [len(members)]
            members.append([])
        members[max(makers)].append(call)
        block_of |= dict.fromkeys(call.outputs, max(makers))
    group_of = {c: group.name for group in graph.groups for c in group.channels}
    return [_block(graph, calls, group_of) for calls in members]


def _block(graph, calls, group_of) -> Block:
    own = set(calls)
    made = {tensor: tensor for call in calls for tensor in call.outputs}
    used = {tensor: tensor for call in calls for tensor in call.inputs}
    taken = {t for c in graph.calls if c not in own for t in c.inputs}
    taken |= set(graph.outputs)
    reads = _groups(graph, calls[0].inputs[:1], group_of)
    every = _groups(graph, [*used.values(), *made.values()], group_of)
    return Block(
        calls,
        [tensor for key, tensor in used.items() if key not in made],
        [tensor for key, tensor in made.items() if key in taken],
        reads,
        [name for name in every if name not in reads],
    )


def _groups(graph, tensors, group_of) -> list[str]:
    channels = [c for tensor in tensors for c in graph.channels_of(tensor)]
    return list(dict.fromkeys(group_of[c] for c in channels if c in group_of))


def _has_kernel(call: Call) -> bool:
    return any(name.endswith("kernel") for name in call.weights)


def _input(tensor, channels):
    shape = (*tensor.shape[:-1], int(channels))
    return keras.Input(batch_shape=shape, dtype=tensor.dtype)
