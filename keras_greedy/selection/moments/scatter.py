"""Streaming second moments of what the consumers of a graph's groups read."""

import dataclasses
import functools
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import compiled
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.selection.consumers import Consumer, consumers_by_call, consumers_of

POSITIONS_PER_IMAGE = 32
RIDGE = 0.03


@dataclasses.dataclass(frozen=True, eq=False)
class Scatter:
    """Count, mean and centred scatter of rows: a monoid under `merge`.

    Attributes:
        count: Number of rows.
        mean: `(folds, F)`; each fold has a mean of its own.
        scatter: `(F, F)` sum of the centred rows' outer products, over all folds.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def zero(cls, folds: int, features: int) -> "Scatter":
        return cls(0, np.zeros((folds, features)), np.zeros((features, features)))

    def merge(self, other: "Scatter") -> "Scatter":
        """The scatter of both sets of rows (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        between = (self.count * other.count / count) * shift.T @ shift
        return Scatter(
            count,
            self.mean + shift * (other.count / count),
            self.scatter + other.scatter + between,
        )

    def covariance(self) -> np.ndarray:
        """`(F, F)` covariance of a row, averaged over folds."""
        return self.scatter / max(self.count * len(self.mean), 1)

    def regularized(self) -> np.ndarray:
        """The covariance with a ridge, so that every set of features can be solved.

        The ridge is `0.03 F / n` of the mean variance: the fewer the rows for the
        features, the less their covariance can be believed. A globally pooled layer
        has one row per image, and without a ridge its fit on few images is all noise.
        """
        covariance = self.covariance()
        share = RIDGE * len(covariance) / max(self.count, 1) + 1e-6
        ridge = share * np.diag(covariance).mean() + np.finfo(np.float32).tiny
        return covariance + ridge * np.eye(len(covariance))

    @functools.cached_property
    def precision(self) -> np.ndarray:
        """The inverse of `regularized`, kept: it takes O(F^3)."""
        return np.linalg.inv(self.regularized())


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What `observe` returns: one `Scatter` per consumer.

    Attributes:
        scatters: Name of a consumer -> moments of what it reads.
        examples: How many examples they are of.
    """

    scatters: dict[str, Scatter]
    examples: int = 0

    @classmethod
    def zero(cls, reads: dict[str, Consumer]) -> "Moments":
        return cls(
            {n: Scatter.zero(r.folds, len(r.features)) for n, r in reads.items()}
        )

    def merge(self, other: "Moments") -> "Moments":
        scatters = {n: s.merge(other.scatters[n]) for n, s in self.scatters.items()}
        return Moments(scatters, self.examples + other.examples)


def observe(
    graph: ChannelGraph, batches: Iterable, seed: int = 0, first: int = 0
) -> tuple[Moments, Moments]:
    """Reads the data once and accumulates the moments of every consumer's input.

    Memory does not depend on the amount of data. At most 32 positions per image
    are sampled, anew for each batch.

    Args:
        graph: The traced model.
        batches: Lists of arrays, one per model input.
        seed: Of the sampled positions.
        first: How many examples to keep apart.

    Returns:
        The `Moments` of (at least) the `first` examples, and of the others.

    Raises:
        ValueError: When the model makes NaN or infinite values of the data.
    """
    reads, rng = consumers_by_call(graph), np.random.default_rng(seed)
    apart = others = Moments.zero(consumers_of(graph))
    batch_scatters, seen = compiled(_batch_scatters(graph, reads)), 0
    for batch in batches:
        positions = [r.positions(rng, POSITIONS_PER_IMAGE) for r in reads.values()]
        results = batch_scatters([ops.convert_to_tensor(x) for x in batch], positions)
        new = _to_host(reads, results, examples=len(batch[0]))
        if seen < first:
            apart = apart.merge(new)
        else:
            others = others.merge(new)
        seen += len(batch[0])
    return apart, others


def _batch_scatters(graph, reads):
    """A function of a batch that gives each read's count, mean and scatter."""
    last = 1 + max(reads)

    def batch_scatters(inputs, positions):
        sampled = dict(zip(reads, positions, strict=True))
        found = []

        def apply(call, *args, **kwargs):
            if call.index in reads:
                rows = reads[call.index].rows(args[0], sampled[call.index])
                found.append(_scatter_of(rows))
            return call.operation(*args, **kwargs)

        graph.run(graph.feed(inputs), graph.calls[:last], apply)
        return found

    return batch_scatters


def _scatter_of(rows):
    rows = ops.cast(rows, "float32")
    mean = ops.mean(rows, axis=0)
    centred = ops.reshape(rows - mean, (-1, rows.shape[-1]))
    return ops.shape(rows)[0], mean, ops.matmul(ops.transpose(centred), centred)


def _to_host(reads, results, examples) -> Moments:
    scatters = {}
    for read, result in zip(reads.values(), results, strict=True):
        name = read.call.name
        count, mean, scatter = map(keras.ops.convert_to_numpy, result)
        if not np.isfinite(scatter).all():
            raise ValueError(
                "Expected the model to make finite values of `data`. Received: NaN or "
                f"infinite values at the input of layer '{name}'."
            )
        usable = read.usable(int(count), mean.astype(float), scatter.astype(float))
        new = Scatter(int(count), *usable)
        scatters[name] = scatters[name].merge(new) if name in scatters else new
    return Moments(scatters, examples)
