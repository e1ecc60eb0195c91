"""The random network of a ticket: each linear map in two layers, the rest as it is."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.clone import input_layers, remake, replay_flat
from keras_greedy.graph.masks import Answer
from keras_greedy.lottery.layers import (
    MaskedConv2D,
    MaskedDense,
    RandomNeurons,
    Tensor,
)
from keras_greedy.lottery.samples import Samples
from keras_greedy.lottery.targets import Target

# The layers to call instead of each layer of the target, one after the other.
Blocks: TypeAlias = Mapping[keras.Layer, Sequence[keras.Layer]]


def random_network(graph: ChannelGraph, blocks: Blocks) -> keras.Model:
    """Returns the model with each target's block of layers in its place.

    Args:
        graph: Of the target network.
        blocks: The new layers.
    """
    names = _names(graph, blocks)
    others: dict[keras.Operation, keras.Operation] = {}

    def apply(call: Call, *args: Any, **kwargs: Any) -> Tensor:
        operation = call.operation
        if operation in blocks:
            x = args[0]
            for layer in blocks[operation]:
                x = layer(x)
            return x
        if isinstance(operation, Answer):
            # It is there for comparisons only.
            return args[0]
        # An operation that is called several times stays a single one.
        if operation not in others:
            others[operation] = remake(operation)
            others[operation].name = names[operation]
        return others[operation](*args, **kwargs)

    return replay_flat(graph, apply)


def _names(graph: ChannelGraph, blocks: Blocks) -> dict[keras.Operation, str]:
    """Returns the name of each operation of the target, and names the new layers.

    The layer that makes the outputs of a target has its name. The others come last,
    and get names that are still free.
    """
    taken = {layer.name for layer in input_layers(graph.functional)}

    def unused(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    # Operations first, each once: their names must not depend on the new layers'.
    own_names = {call.operation: call.name for call in graph.calls}
    names = {}
    for operation, name in own_names.items():
        names[operation] = unused(name.replace("/", "_"))
    for operation, layers in blocks.items():
        for layer in layers:
            if isinstance(layer, MaskedConv2D | MaskedDense):
                layer.name = names[operation]
            else:
                layer.name = unused(layer.name)
    return names


def block(target: Target, samples: Samples, solutions: np.ndarray) -> list[keras.Layer]:
    """Returns the layers that make a linear map of random weights and masks.

    Args:
        target: The linear map.
        samples: Its random weights.
        solutions: `(problems, redundancy)` masks of its subset sums.
    """
    into, out_of = samples.masks(solutions)
    redundancy, signs, inputs = samples.incoming.shape
    neurons = RandomNeurons(
        redundancy * signs,
        use_constant=target.layer.use_bias,
        name=f"{target.name}_neurons",
        # Whatever the global policy: the masks are those of these numbers.
        dtype="float32",
    )
    # The constant, which is the last of the inputs, is no number that they are given.
    neurons.build((None, inputs - neurons.use_constant))
    neurons.kernel.assign(_of_neurons(samples.incoming))
    neurons.mask.assign(_of_neurons(into))
    masked = target.masked()
    masked.build((None, redundancy * signs * inputs))
    shape = masked.kernel.shape
    masked.kernel.assign(_of_readers(samples.outgoing, shape))
    masked.mask.assign(_of_readers(out_of, shape))
    return [*target.before(), neurons, masked, *target.behind()]


def _of_neurons(incoming: np.ndarray) -> np.ndarray:
    """Returns the weights into neurons as `RandomNeurons` has them.

    Args:
        incoming: `(redundancy, signs, inputs)`.

    Returns:
        `(inputs, signs * redundancy)`: each input's group, positive neurons first.
    """
    inputs = incoming.shape[2]
    return incoming.transpose(2, 1, 0).reshape(inputs, -1)


def _of_readers(outgoing: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the weights out of neurons as a kernel.

    Args:
        outgoing: `(redundancy, signs, positions, inputs, outputs)`.
        shape: `(inputs * signs * redundancy, outputs)`, behind the kernel's height
            and width for a convolution.
    """
    # (positions, inputs, signs, redundancy, outputs): the neurons of all groups in the
    # order of `_of_neurons`, which is that of its flattened rows.
    ordered = outgoing.transpose(2, 3, 1, 0, 4)
    return ordered.reshape(shape)
