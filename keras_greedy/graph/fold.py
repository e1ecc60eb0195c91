"""The same function with fewer calls: BatchNorm folded into the layer before it.

The search evaluates a network at inference only, and there a BatchNorm behind a
linear layer is a scale of its kernel and a shift of its bias.
"""

import keras
import numpy as np

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.rebuild import copy_weights, full_weights, remake, replay
from keras_greedy.graph.trace import trace_quietly

FOLDABLE = (keras.layers.Conv2D, keras.layers.Dense, keras.layers.DepthwiseConv2D)


def folded(graph: ChannelGraph) -> ChannelGraph:
    """The graph of an inference-only copy without the BatchNorms it can do without.

    Groups, consumers and their names are those of `graph`.
    """
    norms = _foldable_norms(graph)
    new: dict[str, keras.Operation] = {}

    def apply(call, *args, **kwargs):
        if call.index in {norm.index for norm in norms.values()}:
            return args[0]
        if call.name not in new:
            changes = {"use_bias": True} if call.index in norms else {}
            new[call.name] = remake(call.operation, changes)
        return new[call.name](*args, **kwargs)

    model = replay(graph, apply)
    for call in graph.calls:
        if call.index in norms:
            weights = _folded_weights(call.operation, norms[call.index].operation)
            new[call.name].set_weights(weights)
        elif call.is_layer and call.name in new:
            copy_weights(call.operation, new[call.name])
    return trace_quietly(model)


def _foldable_norms(graph: ChannelGraph) -> dict[int, object]:
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
        ):
            norms[call.index] = readers[0]
    return norms


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
