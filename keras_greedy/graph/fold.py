"""The same function with fewer calls: BatchNorm folded into the layer before it.

The search evaluates a network at inference only, and there a BatchNorm behind a
linear layer is a scale of its kernel and a shift of its bias.
"""

import collections
import dataclasses

import keras
import numpy as np
from keras import layers

from keras_greedy.graph.channels import Call, ChannelGraph, named_weights
from keras_greedy.graph.clone import copy_weights, full_weights, remake, replay_flat

TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose)
DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
FOLDABLE = (
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(*TRANSPOSED, *DEPTHWISE, *SEPARABLE),
)


def folded(graph: ChannelGraph) -> ChannelGraph:
    """The graph of an inference-only copy without the BatchNorms it can do without.

    Channels, groups and names are those of `graph`, and so is `model`; the copy is
    the `functional`.
    """
    norms = foldable_norms(graph)
    gone = {norm.index for norm in norms.values()}
    calls: dict[int, Call] = {}
    new: dict[keras.Operation, keras.Operation] = {}
    channels = {}

    def apply(call, *args, **kwargs):
        if call.index in gone:
            return args[0]
        key = call.operation
        if key not in new:
            new[key] = _remade(call, biased=call.index in norms)
        outputs = new[key](*args, **kwargs)
        made = tuple(keras.tree.flatten(outputs))
        calls[call.index] = Call(
            len(calls), call.name, new[key], args, kwargs, made, call.rule
        )
        channels.update(_channels(graph, call.outputs, made))
        return outputs

    functional = replay_flat(graph, apply)
    channels |= _channels(graph, graph.inputs, functional.inputs)
    for call in graph.calls:
        if call.index in norms:
            _fold(call.operation, norms[call.index].operation, new[call.operation])
        elif call.is_layer and call.index not in gone:
            copy_weights(call.operation, new[call.operation])

    def copies(originals):
        return tuple(calls[call.index] for call in originals)

    groups = [
        dataclasses.replace(
            g,
            producers=copies(g.producers),
            consumers=copies(g.consumers),
            normalizers=copies(g.normalizers),
        )
        for g in graph.groups
    ]
    return dataclasses.replace(
        graph,
        functional=functional,
        calls=[*calls.values()],
        outputs=functional.outputs,
        stand_ins={},
        channels=channels,
        groups=groups,
    )


def foldable_norms(graph: ChannelGraph) -> dict[int, Call]:
    """Index of a linear layer's call -> the call of the only BatchNorm behind it."""
    outputs = set(graph.outputs)
    times_called = collections.Counter(call.operation for call in graph.calls)
    norms = {}
    for call in graph.calls:
        layer = call.operation
        if not (call.rule and type(layer) in FOLDABLE) or call.outputs[0] in outputs:
            continue
        readers = graph.calls_reading(call.outputs[0])
        if (
            layer.activation is keras.activations.linear
            and len(readers) == 1
            and readers[0].rule
            and type(readers[0].operation) is layers.BatchNormalization
            and times_called[layer] == times_called[readers[0].operation] == 1
            and not readers[0].kwargs.get("training")
        ):
            norms[call.index] = readers[0]
    return norms


def _remade(call: Call, biased: bool) -> keras.Operation:
    """A copy that computes in float32, whatever the precision of the model."""
    operation, changes = call.operation, {"use_bias": True} if biased else {}
    if call.is_layer and operation.compute_dtype != operation.variable_dtype:
        changes["dtype"] = operation.variable_dtype
    new = remake(operation, changes)
    new.name = f"call_{call.index}.{operation.name}"
    return new


def _channels(graph: ChannelGraph, old, new) -> dict[keras.KerasTensor, np.ndarray]:
    pairs = zip(old, new, strict=True)
    return {tensor: graph.channels_of(original) for original, tensor in pairs}


def _fold(layer, norm, new) -> None:
    """Gives `new` the weights that compute what `layer` and `norm` do."""
    weights, statistics = full_weights(layer), full_weights(norm)
    scale = 1 / np.sqrt(statistics["moving_variance"] + norm.epsilon)
    scale = scale * statistics.get("gamma", 1.0)
    name = "pointwise_kernel" if isinstance(layer, SEPARABLE) else "kernel"
    bias = weights.get("bias", 0.0) - statistics["moving_mean"]
    weights["bias"] = bias * scale + statistics.get("beta", 0.0)
    weights[name] = _scaled(layer, weights[name], scale)
    for own, weight in named_weights(new).items():
        weight.assign(weights[own])


def _scaled(layer, kernel, scale):
    """The kernel with each output channel multiplied by its factor."""
    if isinstance(layer, TRANSPOSED):
        return kernel * scale[:, None]
    if isinstance(layer, DEPTHWISE):
        return (kernel.reshape(*kernel.shape[:-2], -1) * scale).reshape(kernel.shape)
    return kernel * scale
