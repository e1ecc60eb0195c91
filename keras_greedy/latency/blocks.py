"""A model as blocks that can be run, and timed, one by one."""

import dataclasses
from collections.abc import Iterable

import keras
import numpy as np

from keras_greedy.graph.axes import all_numbers
from keras_greedy.graph.calls import Call, run_calls
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Widths
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rebuild import Cutter


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A layer with a kernel and those that follow it, up to the next such layers.

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
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]
    reads: list[str]
    others: list[str]

    @property
    def name(self) -> str:
        """The name of its first call; its number makes it unique."""
        return f"{self.calls[0].index} {self.calls[0].name}"

    def model(self, graph: ChannelGraph, widths: Widths) -> keras.Model:
        """Builds a model of the block alone, with fresh weights.

        Args:
            graph: The graph that the block is of.
            widths: Group name -> width; the others have all their channels.

        Returns:
            A Functional model.
        """
        # Times depend on the number of channels only, so the first ones will do.
        selection = {}
        for name, width in widths.items():
            selection[name] = np.arange(width)
        mask = graph.kept_mask(selection)
        kept = Kept(graph.channels, mask)
        values = {}
        inputs = []
        for tensor in self.inputs:
            cut = keras.Input(batch_shape=kept.shape(tensor), dtype=tensor.dtype)
            values[tensor] = cut
            inputs.append(cut)
        cutter = Cutter(graph, mask, {})
        run_calls(self.calls, values, cutter.apply)
        outputs = []
        for tensor in self.outputs:
            outputs.append(values[tensor])
        return keras.Model(inputs, outputs)


def blocks_of(graph: ChannelGraph) -> list[Block]:
    """Returns the blocks of a graph; every call is in exactly one."""
    members: list[list[Call]] = []
    block_of: dict[keras.KerasTensor, int] = {}
    for call in graph.calls:
        makers = []
        for tensor in call.inputs:
            # Inputs of the model are made by none.
            if tensor in block_of:
                makers.append(block_of[tensor])
        if _has_kernel(call) or not makers:
            index = len(members)
            members.append([])
        else:
            # The last of them: before it runs, not all inputs of the call are there.
            index = max(makers)
        members[index].append(call)
        for tensor in call.outputs:
            block_of[tensor] = index

    group_of: dict[int, str] = {}
    for group in graph.groups:
        for channel in group.channels:
            group_of[channel] = group.name
    blocks = []
    for calls in members:
        blocks.append(_block(graph, calls, group_of))
    return blocks


def _block(
    graph: ChannelGraph,
    calls: list[Call],
    group_of: dict[int, str],
) -> Block:
    # Dictionaries, as sets in the order of the calls: the block's model, and with it
    # the table, is the same in every process.
    made: dict[keras.KerasTensor, None] = {}
    used: dict[keras.KerasTensor, None] = {}
    for call in calls:
        made |= dict.fromkeys(call.outputs)
        used |= dict.fromkeys(call.inputs)
    taken = set(graph.outputs)
    own = set(calls)
    for call in graph.calls:
        if call not in own:
            taken.update(call.inputs)
    first_input = calls[0].inputs[:1]
    reads = _groups(graph, first_input, group_of)
    every = _groups(graph, [*used, *made], group_of)
    return Block(
        calls=calls,
        inputs=[tensor for tensor in used if tensor not in made],
        outputs=[tensor for tensor in made if tensor in taken],
        reads=reads,
        others=[name for name in every if name not in reads],
    )


def _groups(
    graph: ChannelGraph,
    tensors: Iterable[keras.KerasTensor],
    group_of: dict[int, str],
) -> list[str]:
    """Returns the names of the groups with channels in these tensors, once each."""
    names: dict[str, None] = {}
    for tensor in tensors:
        for channel in all_numbers(graph.channels[tensor]):
            name = group_of.get(channel)
            if name is not None:
                names[name] = None
    return list(names)


def _has_kernel(call: Call) -> bool:
    return any(name.endswith("kernel") for name in call.weights)
