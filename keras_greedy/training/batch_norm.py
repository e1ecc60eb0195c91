"""Measures BatchNorm statistics anew, as pruning has changed the activations."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, compiled_over
from keras_greedy.batches import Arrays, Batches, Data
from keras_greedy.devices import (
    moments_over_devices,
    parts_of,
    split,
    total_over_devices,
)
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.masks import get_keras_mask, set_keras_mask
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.processes import total_of_processes
from keras_greedy.scopes import scope_of
from tflite_export.checks import check_count

BATCH_SIZE = 64


def reestimate_batch_norm(
    model: keras.Model,
    data: Data,
    batch_size: int = BATCH_SIZE,
) -> None:
    """Sets the moving statistics of `model`'s BatchNorm layers to those of `data`.

    Each batch is normalised by its own statistics, as in training; the means and
    variances of all batches are pooled, and of all processes that were started
    together, each with its own data. No weight is trained.

    Args:
        model: A Functional or Sequential model; changed in place.
        data: Inputs, or `(inputs, labels)`, in any form `prune` accepts.
        batch_size: Examples normalised together.

    Raises:
        ValueError: When the data do not fit the model, or `batch_size` is no positive
            integer.

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
    batch_size = check_count("batch_size", batch_size, minimum=1)
    with scope_of(model):
        statistics = BatchNormStatistics(model)
        statistics.measure(Batches.of(data, statistics.functional, batch_size))


class BatchNormStatistics:
    """The moving statistics of a model's BatchNorm layers, to be measured repeatedly.

    Args:
        model: As for `reestimate_batch_norm`.

    Attributes:
        functional: The Functional whose inputs the data must fit.
    """

    def __init__(self, model: keras.Model):
        graph = trace_quietly(model)
        self.functional = graph.functional
        self._norms = [
            call
            for call in graph.calls
            if isinstance(call.operation, keras.layers.BatchNormalization)
        ]
        if self._norms:
            of_batch = _batch_statistics(graph, self._norms)
            self._of_batch = compiled_over(model.variables, of_batch)

    def measure(self, batches: Iterable[Arrays]) -> None:
        """Sets the statistics to those of some data.

        Args:
            batches: One array per input of the model in each.
        """
        if not self._norms:
            return
        sums = _Sums(len(self._norms))
        for batch in _even(batches):
            # Of the whole batch: on all devices the same.
            found, *_ = parts_of(self._of_batch(split(batch)))
            means, variances, shares = map(_to_host, found)
            sums.add(means, variances, shares, len(batch[0]))
        sums = sums.over_processes()
        layers = dict.fromkeys(call.operation for call in self._norms)
        for layer in layers:
            calls = [i for i, call in enumerate(self._norms) if call.operation is layer]
            moments = sums.means_of(calls)
            if moments is None:
                continue
            mean, square = moments
            layer.moving_mean.assign(mean)
            layer.moving_variance.assign(np.maximum(square - mean**2, 0))


class _Sums:
    """Sums over the examples, at each call of a BatchNorm.

    Args:
        calls: How many calls there are.
    """

    def __init__(self, calls: int):
        # How many examples there were; of those with masked positions a share counts.
        self._examples = [0.0] * calls
        self._x: list = [0.0] * calls  # `(C,)` each
        self._squares: list = [0.0] * calls  # `(C,)` each

    def add(
        self,
        means: list[np.ndarray],
        variances: list[np.ndarray],
        shares: list[np.ndarray],
        examples: int,
    ) -> None:
        """Adds the statistics of a batch.

        Args:
            means: `(C,)` for each call.
            variances: `(C,)` for each call.
            shares: For each call, how much of its input is not masked.
            examples: Size of the batch.
        """
        statistics = zip(means, variances, shares, strict=True)
        for i, (mean, variance, share) in enumerate(statistics):
            count = examples * float(share)
            # E[x^2] of the batch: variances do not add up, second moments do.
            square = variance + mean * mean
            self._examples[i] += count
            self._x[i] = self._x[i] + count * mean
            self._squares[i] = self._squares[i] + count * square

    def over_processes(self) -> "_Sums":
        """Returns the sums over the examples of all processes."""
        sums = _Sums(len(self._examples))
        sums._examples = [total_of_processes(own) for own in self._examples]
        sums._x = [total_of_processes(own) for own in self._x]
        sums._squares = [total_of_processes(own) for own in self._squares]
        return sums

    def means_of(self, calls: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the means of x and of its square, over all calls of one layer.

        `None` where all positions are masked.
        """
        examples = np.mean([self._examples[i] for i in calls])
        if not examples:
            return None
        x = np.mean([self._x[i] for i in calls], axis=0)
        squares = np.mean([self._squares[i] for i in calls], axis=0)
        return x / examples, squares / examples


def _even(batches: Iterable[Arrays]) -> Iterator[Arrays]:
    """Yields the batches; a last one that is short shares with the one before it.

    A few examples normalised by their own statistics are not what the layers behind
    see of a full batch, however little they weigh.
    """
    previous: Arrays | None = None
    for batch in batches:
        if previous is None:
            previous = batch
        elif len(batch[0]) == len(previous[0]):
            yield previous
            previous = batch
        else:
            joined = [
                np.concatenate(parts) for parts in zip(previous, batch, strict=True)
            ]
            half = len(joined[0]) // 2
            yield [x[half:] for x in joined]
            previous = [x[:half] for x in joined]
    if previous is not None:
        yield previous


def _to_host(tensors: list) -> list[np.ndarray]:
    return [ops.convert_to_numpy(tensor).astype(float) for tensor in tensors]


def _batch_statistics(graph: ChannelGraph, norms: list[Call]) -> Callable:
    """Returns a function of a batch: mean, variance and share counted at each call."""
    indices = {call.index for call in norms}
    last = max(indices) + 1

    def batch_statistics(inputs: list) -> tuple[list, list, list]:
        means, variances, shares = [], [], []

        def apply(call: Call, *args: Any, **kwargs: Any) -> Any:
            if call.index not in indices:
                return call.compute(*args, **kwargs)
            normalized = normalized_by_batch(call.operation, *args, **kwargs)
            means.append(normalized.mean)
            variances.append(normalized.variance)
            shares.append(normalized.share)
            return normalized.y

        graph.run(graph.feed(inputs), graph.calls[:last], apply)
        return means, variances, shares

    return batch_statistics


class Normalized(NamedTuple):
    """The output of a BatchNorm by the statistics of the batch, and these.

    Attributes:
        y: The output of the layer.
        mean: `(C,)` mean of the batch.
        variance: `(C,)` its variance.
        share: How much of the batch was counted, up to 1.
    """

    y: Tensor
    mean: Tensor
    variance: Tensor
    share: Tensor


def normalized_by_batch(
    layer: keras.layers.BatchNormalization,
    x: Tensor,
    training: bool | None = None,
    mask: Tensor | None = None,
) -> Normalized:
    """Computes a BatchNorm as in training; its moving statistics stay as they are.

    Args:
        layer: The layer.
        x: Its input.
        training: Of the call; makes no difference.
        mask: Of the call; by default the one that the input carries.
    """
    if mask is None:
        mask = get_keras_mask(x)
    # As Keras does: statistics of half-precision inputs are in float32.
    dtype = keras.backend.result_type(x.dtype, "float32")
    x = ops.cast(x, dtype)
    mean, variance, share = _moments(x, layer.axis, mask)
    y = ops.batch_normalization(
        x,
        mean,
        variance,
        axis=layer.axis,
        offset=layer.beta if layer.center else None,
        scale=layer.gamma if layer.scale else None,
        epsilon=layer.epsilon,
    )
    y = ops.cast(y, layer.compute_dtype)
    if mask is not None:
        # The layer would have handed it on.
        set_keras_mask(y, mask)
    return Normalized(y, mean, variance, share)


def _moments(
    x: Tensor,
    axis: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean and the variance `(C,)` of all but an axis, and a share.

    Args:
        x: A tensor.
        axis: The axis of its channels.
        mask: Booleans for all axes but the last, true for the positions that count.

    Returns:
        Mean, variance, and how much of `x` counts, up to 1.
    """
    axes = list(range(len(x.shape)))
    del axes[axis]
    if mask is None:
        mean, variance = moments_over_devices(x, axes)
        return mean, variance, ops.ones(())
    counted = ops.broadcast_to(ops.expand_dims(mask, -1), ops.shape(x))
    counted = ops.cast(counted, "bool")
    # (C,): how many entries of each channel count.
    count = _total(ops.cast(counted, x.dtype), axes)
    at_least_one = ops.maximum(count, 1)
    mean = _total(ops.where(counted, x, 0), axes) / at_least_one
    centred = ops.where(counted, x - mean, 0)
    variance = _total(ops.square(centred), axes) / at_least_one
    every = range(len(x.shape))
    share, _ = moments_over_devices(ops.cast(counted, "float32"), every)
    return ops.squeeze(mean, axes), ops.squeeze(variance, axes), share


def _total(x: Tensor, axes: list[int]) -> Tensor:
    """Returns the sum over some axes, which stay, of the examples of all devices."""
    return total_over_devices(ops.sum(x, axes, keepdims=True))
