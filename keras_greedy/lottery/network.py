"""The random network of a ticket: each linear map in two layers, the rest as it is."""

import functools

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.graph.clone import input_layers, remake, replay_flat
from keras_greedy.lottery.layers import MaskedConv2D, MaskedDense, RandomNeurons
from keras_greedy.lottery.samples import Samples
from keras_greedy.lottery.targets import Target


def random_network(graph: ChannelGraph, blocks: dict[int, list]) -> keras.Model:
    """The model with each target's block of layers in its place.

    Args:
        graph: Of the target network.
        blocks: Id of a layer -> the layers to call instead, one after the other.
    """
    names = _names(graph, blocks)
    others: dict[int, keras.Operation] = {}

    def apply(call: Call, *args, **kwargs):
        key = call.operation
        if key in blocks:
            return functools.reduce(lambda x, layer: layer(x), blocks[key], args[0])
        if key not in others:
            others[key] = remake(call.operation)
            others[key].name = names[key]
        return others[key](*args, **kwargs)

    return replay_flat(graph, apply)


def _names(graph: ChannelGraph, blocks: dict[int, list]) -> dict[int, str]:
    """Id of a layer of the target -> its name; new layers get names besides."""
    taken = {layer.name for layer in input_layers(graph.functional)}

    def unused(name):
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    operations = {call.operation: call.name for call in graph.calls}
    names = {key: unused(name.replace("/", "_")) for key, name in operations.items()}
    for key, own in blocks.items():
        for layer in own:
            is_main = isinstance(layer, MaskedConv2D | MaskedDense)
            layer.name = names[key] if is_main else unused(layer.name)
    return names


def block(target: Target, samples: Samples, solutions: np.ndarray) -> list:
    """The layers that make a target's linear map of random weights and masks."""
    into, out_of = samples.masks(solutions)
    neurons = RandomNeurons(
        len(samples.incoming) * samples.incoming.shape[1],
        use_constant=target.layer.use_bias,
        name=f"{target.name}_neurons",
        # Whatever the global policy: the masks are those of these numbers.
        dtype="float32",
    )
    masked = target.masked()
    neurons.build((None, target.layer.kernel.shape[-2]))
    neurons.kernel.assign(_of_neurons(samples.incoming))
    neurons.mask.assign(_of_neurons(into))
    masked.build((None, into.size))
    masked.kernel.assign(_of_readers(samples.outgoing, masked.kernel.shape))
    masked.mask.assign(_of_readers(out_of, masked.kernel.shape))
    return [*target.before(), neurons, masked, *target.behind()]


def _of_neurons(incoming: np.ndarray) -> np.ndarray:
    """`(redundancy, signs, inputs)` -> `(inputs, neurons)`."""
    return incoming.transpose(2, 1, 0).reshape(incoming.shape[2], -1)


def _of_readers(outgoing: np.ndarray, shape) -> np.ndarray:
    """`(redundancy, signs, positions, inputs, outputs)` -> a kernel of this shape."""
    return outgoing.transpose(2, 3, 1, 0, 4).reshape(shape)
