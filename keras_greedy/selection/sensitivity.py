"""Second moments of the gradient of the network's output divergence."""

from collections.abc import Iterable

import numpy as np
from keras import ops

from keras_greedy.backend import gradients
from keras_greedy.graph.trace import ChannelGraph
from keras_greedy.selection.outputs import outputs_of
from keras_greedy.selection.reads import reads_of


def sensitivities(
    graph: ChannelGraph, batches: Iterable, seed: int = 0
) -> dict[str, np.ndarray]:
    """How much the network's output cares for each output channel of a consumer.

    The gradient of the log likelihood of a label drawn from the model's own
    prediction; its second moment is the diagonal of the Fisher information, the
    weight of the global imitation error to second order (Ye et al., NeurIPS 2020).

    Args:
        graph: The traced model.
        batches: Lists of arrays, one per model input.
        seed: Of the drawn labels.

    Returns:
        Name of a consumer -> `(outputs,)` mean squared gradient.
    """
    consumers = list(reads_of(graph))
    rng, kinds = np.random.default_rng(seed), outputs_of(graph)
    totals, count = dict.fromkeys(consumers, 0.0), 0
    for batch in batches:
        inputs = [ops.convert_to_tensor(x) for x in batch]
        outputs, shapes = _forward(graph, inputs, consumers)
        directions = [
            ops.convert_to_tensor(kind.sampled_gradient(out, rng).astype("float32"))
            for kind, out in zip(kinds, outputs, strict=True)
        ]
        zeros = [ops.zeros(shape) for shape in shapes]
        function = _perturbed(graph, inputs, consumers, directions)
        for name, gradient in zip(consumers, gradients(function, zeros), strict=True):
            squares = np.square(ops.convert_to_numpy(gradient).astype(float))
            totals[name] += squares.mean(axis=tuple(range(1, squares.ndim - 1))).sum(0)
        count += len(batch[0])
    return {name: total / count for name, total in totals.items()}


def _forward(graph, inputs, consumers):
    shapes = {}

    def apply(call, *args, **kwargs):
        y = call.operation(*args, **kwargs)
        if call.name in consumers:
            shapes[call.name] = tuple(y.shape)
        return y

    values = graph.run(dict(zip(map(id, graph.inputs), inputs)), graph.calls, apply)
    outputs = [ops.convert_to_numpy(values[id(t)]) for t in graph.outputs]
    return outputs, [shapes[name] for name in consumers]


def _perturbed(graph, inputs, consumers, directions):
    """The output along `directions`, as a function of what is added to consumers."""

    def function(perturbations):
        added = dict(zip(consumers, perturbations, strict=True))

        def apply(call, *args, **kwargs):
            y = call.operation(*args, **kwargs)
            return y + added[call.name] if call.name in added else y

        values = graph.run(dict(zip(map(id, graph.inputs), inputs)), graph.calls, apply)
        products = [
            ops.sum(values[id(tensor)] * direction)
            for tensor, direction in zip(graph.outputs, directions, strict=True)
        ]
        return sum(products)

    return function
