"""Measures BatchNorm statistics anew, as pruning has changed the activations."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import compiled
from keras_greedy.batches import Batches, Data
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.trace import trace_quietly

BATCH_SIZE = 64


def reestimate_batch_norm(
    model: keras.Model,
    data: Data,
    batch_size: int = BATCH_SIZE,
) -> None:
    """Sets the moving statistics of `model`'s BatchNorm layers to those of `data`.

    Each batch is normalised by its own statistics, as in training; the means and
    variances of all batches are pooled. No weight is trained.

    Args:
        model: A Functional or Sequential model; changed in place.
        data: Inputs, or `(inputs, labels)`, in any form `prune` accepts.
        batch_size: Examples normalised together.

    Raises:
        ValueError: When the data do not fit the model.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
        ]
    )
    images = np.random.default_rng(0).random((32, 8, 8, 3))
    keras_greedy.reestimate_batch_norm(model, images)
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
    sums = _summed_statistics(graph, norms, data, batch_size)
    layers = dict.fromkeys(call.operation for call in norms)
    for layer in layers:
        calls = [i for i, call in enumerate(norms) if call.operation is layer]
        mean, square = sums.means_of(calls)
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(np.maximum(square - mean**2, 0))


class _Sums:
    """Sums over the examples, at each call of a BatchNorm.

    Args:
        calls: How many calls there are.
    """

    def __init__(self, calls: int):
        self._examples = 0
        self._x: list = [0.0] * calls  # `(C,)` each
        self._squares: list = [0.0] * calls  # `(C,)` each

    def add(
        self,
        means: list[np.ndarray],
        variances: list[np.ndarray],
        examples: int,
    ) -> None:
        """Adds the statistics, `(C,)` for each call, of a batch of so many examples."""
        self._examples += examples
        pairs = zip(means, variances, strict=True)
        for i, (mean, variance) in enumerate(pairs):
            # E[x^2] of the batch: variances do not add up, second moments do.
            square = variance + mean * mean
            self._x[i] = self._x[i] + examples * mean
            self._squares[i] = self._squares[i] + examples * square

    def means_of(self, calls: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the means of x and of its square, over all calls of one layer."""
        x = np.mean([self._x[i] for i in calls], axis=0)
        squares = np.mean([self._squares[i] for i in calls], axis=0)
        return x / self._examples, squares / self._examples


def _summed_statistics(
    graph: ChannelGraph,
    norms: list[Call],
    data: Data,
    batch_size: int,
) -> _Sums:
    statistics = compiled(_batch_statistics(graph, norms))
    sums = _Sums(len(norms))
    for batch in Batches.of(data, graph.functional, batch_size):
        means, variances = statistics([ops.convert_to_tensor(x) for x in batch])
        sums.add(_to_host(means), _to_host(variances), len(batch[0]))
    return sums


def _to_host(tensors: list) -> list[np.ndarray]:
    return [ops.convert_to_numpy(tensor).astype(float) for tensor in tensors]


def _batch_statistics(graph: ChannelGraph, norms: list[Call]) -> Callable:
    """Returns a function of a batch: the mean and variance `(C,)` at each call."""
    indices = {call.index for call in norms}
    last = max(indices) + 1

    def batch_statistics(inputs: list) -> tuple[list, list]:
        means, variances = [], []

        def apply(call: Call, *args: Any, **kwargs: Any) -> Any:
            if call.index not in indices:
                return call.operation(*args, **kwargs)
            layer = call.operation
            # As Keras does: statistics of half-precision inputs are in float32.
            dtype = keras.backend.result_type(args[0].dtype, "float32")
            x = ops.cast(args[0], dtype)
            axes = list(range(len(x.shape)))
            del axes[layer.axis]
            mean, variance = ops.moments(x, axes)
            means.append(mean)
            variances.append(variance)
            y = ops.batch_normalization(
                x,
                mean,
                variance,
                axis=layer.axis,
                offset=layer.beta if layer.center else None,
                scale=layer.gamma if layer.scale else None,
                epsilon=layer.epsilon,
            )
            return ops.cast(y, layer.compute_dtype)

        graph.run(graph.feed(inputs), graph.calls[:last], apply)
        return means, variances

    return batch_statistics
