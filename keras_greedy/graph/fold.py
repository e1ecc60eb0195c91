"""The same function with fewer calls: BatchNorm folded into the layer before it.

The search evaluates a network at inference only, and there a BatchNorm behind a
linear layer is a scale of its kernel and a shift of its bias.
"""

import dataclasses

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.graph.rebuild import copy_weights, full_weights, remake, replay

FOLDABLE = (keras.layers.Conv2D, keras.layers.Dense, keras.layers.DepthwiseConv2D)


def folded(graph: ChannelGraph) -> ChannelGraph:
    """The graph of an inference-only copy without the BatchNorms it can do without.

    Channels, groups and names are those of `graph`, and so is `model`; the copy is
    the `functional`.
    """
    norms = foldable_norms(graph)
    gone = {norm.index for norm in norms.values()}
    calls: dict[int, Call] = {}
    new: dict[str, keras.Operation] = {}
    channels = {}

    def apply(call, *args, **kwargs):
        if call.index in gone:
            return args[0]
        if call.name not in new:
            new[call.name] = _remade(call.operation, biased=call.index in norms)
        outputs = new[call.name](*args, **kwargs)
        made = tuple(keras.tree.flatten(outputs))
        calls[call.index] = Call(
            len(calls), new[call.name], args, kwargs, made, call.rule
        )
        channels.update(_channels(graph, call.outputs, made))
        return outputs

    functional = replay(graph, apply)
    channels |= _channels(graph, graph.inputs, functional.inputs)
    for call in graph.calls:
        if call.index in norms:
            weights = _folded_weights(call.operation, norms[call.index].operation)
            new[call.name].set_weights(weights)
        elif call.is_layer and call.name in new:
            copy_weights(call.operation, new[call.name])

    def copies(originals):
        return tuple(calls[call.index] for call in originals)

    groups = [
        dataclasses.replace(
            g, producers=copies(g.producers), consumers=copies(g.consumers)
        )
        for g in graph.groups
    ]
    return dataclasses.replace(
        graph,
        functional=functional,
        calls=[*calls.values()],
        channels=channels,
        groups=groups,
    )


def foldable_norms(graph: ChannelGraph) -> dict[int, Call]:
    """Index of a linear layer's call -> the call of the only BatchNorm behind it."""
    outputs = {id(tensor) for tensor in graph.outputs}
    norms = {}
    for call in graph.calls:
        layer = call.operation
        if (
            not (call.rule and type(layer) in FOLDABLE)
            or id(call.outputs[0]) in outputs
        ):
            continue
        readers = graph.readers(call.outputs[0])
        if (
            layer.activation is keras.activations.linear
            and len(readers) == 1
            and readers[0].rule
            and type(readers[0].operation) is keras.layers.BatchNormalization
            and not readers[0].kwargs.get("training")
        ):
            norms[call.index] = readers[0]
    return norms


def _remade(operation: keras.Operation, biased: bool) -> keras.Operation:
    """A copy that computes in float32, whatever the precision of the model."""
    changes = {"use_bias": True} if biased else {}
    is_layer = isinstance(operation, keras.Layer)
    if is_layer and operation.compute_dtype != operation.variable_dtype:
        changes["dtype"] = operation.variable_dtype
    return remake(operation, changes)


def _channels(graph: ChannelGraph, old, new) -> dict[int, np.ndarray]:
    pairs = zip(old, new, strict=True)
    return {id(tensor): graph.channels_of(original) for original, tensor in pairs}


def _folded_weights(layer, norm) -> list[np.ndarray]:
    weights, statistics = full_weights(layer), full_weights(norm)
    scale = 1 / np.sqrt(statistics["moving_variance"] + norm.epsilon)
    scale = scale * statistics.get("gamma", 1.0)
    bias = weights.get("bias", 0.0) - statistics["moving_mean"]
    kernel = weights["kernel"]
    per_output = (
        kernel.reshape(*kernel.shape[:-2], -1) if _is_depthwise(layer) else kernel
    )
    return [
        (per_output * scale).reshape(kernel.shape),
        bias * scale + statistics.get("beta", 0.0),
    ]


def _is_depthwise(layer) -> bool:
    return isinstance(layer, keras.layers.DepthwiseConv2D)
