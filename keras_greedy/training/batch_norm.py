"""BatchNorm statistics measured anew, as pruning has changed what flows."""

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import compiled
from keras_greedy.batches import Batches
from keras_greedy.graph.trace import trace_quietly


def reestimate_batch_norm(model: keras.Model, data, batch_size: int = 64) -> None:
    """Sets the moving statistics of `model`'s BatchNorm layers to those of `data`.

    Each batch is normalised by its own statistics, as in training; the means and
    variances of all batches are pooled. No weight is trained.

    Args:
        model: A Functional or Sequential model; changed in place.
        data: Inputs, or `(inputs, labels)`, in any form `prune` accepts.
        batch_size: Examples normalised together.

    Example:

    ```python
    keras_greedy.reestimate_batch_norm(compact, images)
    ```
    """
    graph = trace_quietly(model)
    norms = [
        call
        for call in graph.calls
        if isinstance(call.operation, keras.layers.BatchNormalization)
    ]
    if not norms:
        return
    statistics = compiled(_batch_statistics(graph, norms))
    count, mean, square = 0, 0.0, 0.0
    for batch in Batches(data, graph.functional, batch_size):
        found = statistics([ops.convert_to_tensor(x) for x in batch])
        means, variances = (
            [ops.convert_to_numpy(x).astype(float) for x in part] for part in found
        )
        n = len(batch[0])
        count += n
        mean = _plus(mean, means, n)
        square = _plus(
            square, [v + m * m for m, v in zip(means, variances, strict=True)], n
        )
    for layer in dict.fromkeys(call.operation for call in norms):
        own = [i for i, call in enumerate(norms) if call.operation is layer]
        m, s = (np.mean([total[i] for i in own], 0) / count for total in (mean, square))
        layer.moving_mean.assign(m)
        layer.moving_variance.assign(np.maximum(s - m**2, 0))


def _plus(total, values, n):
    totals = total or [0.0] * len(values)
    return [t + n * v for t, v in zip(totals, values, strict=True)]


def _batch_statistics(graph, norms):
    indices = {call.index for call in norms}
    last = max(indices) + 1

    def batch_statistics(inputs):
        means, variances = [], []

        def apply(call, *args, **kwargs):
            if call.index not in indices:
                return call.operation(*args, **kwargs)
            layer = call.operation
            x = ops.cast(args[0], keras.backend.result_type(args[0].dtype, "float32"))
            axes = [*range(len(x.shape))]
            del axes[layer.axis]
            m, v = ops.moments(x, axes)
            means.append(m)
            variances.append(v)
            y = ops.batch_normalization(
                x,
                m,
                v,
                axis=layer.axis,
                offset=layer.beta if layer.center else None,
                scale=layer.gamma if layer.scale else None,
                epsilon=layer.epsilon,
            )
            return ops.cast(y, layer.compute_dtype)

        graph.run(graph.feed(inputs), graph.calls[:last], apply)
        return means, variances

    return batch_statistics
