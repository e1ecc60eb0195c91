"""Second moments of the gradient of the network's output divergence."""

from collections.abc import Iterable

import numpy as np
from keras import ops

from keras_greedy.backend import compiled, float32, gradients
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.selection.consumers import consumers_by_call


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
        Name of a consumer -> `(outputs,)` mean over the examples of the squared
        gradient at what the consumer computes before its activation, summed over
        positions.
    """
    rng, reads = np.random.default_rng(seed), consumers_by_call(graph)
    squared_gradients = compiled(_squared_gradients(graph, reads))
    totals, count = {read.call.name: 0.0 for read in reads.values()}, 0
    for batch in batches:
        n = len(batch[0])
        uniform = [
            rng.uniform(1e-6, 1 - 1e-6, (n, *tensor.shape[1:])).astype("float32")
            for tensor in graph.outputs
        ]
        inputs = [ops.convert_to_tensor(x) for x in batch]
        squares = squared_gradients(inputs, list(map(ops.convert_to_tensor, uniform)))
        for read, square in zip(reads.values(), squares, strict=True):
            totals[read.call.name] += ops.convert_to_numpy(square).astype(float)
        count += n
    return {name: total / count for name, total in totals.items()}


def _squared_gradients(graph, reads):
    """A function of a batch: for each call `(outputs,)`, summed over examples."""
    kinds = outputs_of(graph)
    own = {
        index: [float32(read.kernel(read.matrix())), float32(read.bias())]
        for index, read in reads.items()
    }

    def read_linear(call, x):
        kernel, bias = own[call.index]
        return reads[call.index].linear(x, kernel) + bias

    def squared_gradients(inputs, uniform):
        linear = {}

        def remember(call, *args, **kwargs):
            if call.index not in reads:
                return call.operation(*args, **kwargs)
            linear[call.index] = read_linear(call, args[0])
            return reads[call.index].activate(linear[call.index])

        outputs = graph.run_all(inputs, remember)
        directions = [
            kind.sampled_gradient(output, u)
            for kind, output, u in zip(kinds, outputs, uniform, strict=True)
        ]

        def along_directions(perturbations):
            added = dict(zip(reads, perturbations, strict=True))

            def perturb(call, *args, **kwargs):
                if call.index not in added:
                    return call.operation(*args, **kwargs)
                perturbed = read_linear(call, args[0]) + added[call.index]
                return reads[call.index].activate(perturbed)

            return sum(
                ops.sum(output * direction)
                for output, direction in zip(
                    graph.run_all(inputs, perturb), directions, strict=True
                )
            )

        zeros = [ops.zeros_like(linear[index]) for index in reads]
        return [
            ops.sum(ops.square(g), axis=list(range(len(g.shape) - 1)))
            for g in gradients(along_directions, zeros)
        ]

    return squared_gradients
