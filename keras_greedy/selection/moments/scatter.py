"""The second moments of the inputs of the consumers: sums that merge."""

import dataclasses
import functools
import threading
from collections.abc import Mapping

import numpy as np

from keras_greedy.processes import gathered, total_of_processes
from keras_greedy.selection.consumers import (
    Consumer,
)
from keras_greedy.selection.moments.gram import tiles

RIDGE = 0.03
"""Ridge over the mean variance, for as many rows as features."""

LEAST_RIDGE = 1e-6
"""Added to it: with any number of rows, repeated features can be solved for."""

SMALLEST_VARIANCE = float(np.finfo(np.float32).tiny)
"""Added to the ridge: features that never vary can be solved for, too."""


PRECISION_LOCK = threading.Lock()
"""Threads that cut different groups ask for the precision of the same scatter."""


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

    def __repr__(self) -> str:
        return f"<Scatter of {self.count:,} rows of {len(self.scatter):,} features>"

    @classmethod
    def zero(cls, folds: int, features: int) -> "Scatter":
        """Returns the scatter of no rows."""
        mean = np.zeros((folds, features))
        scatter = np.zeros((features, features))
        return cls(0, mean, scatter)

    def merge(self, other: "Scatter") -> "Scatter":
        """Returns the scatter of both sets of rows.

        Reference: Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm
        for Computing Sample Variances, 1979.
        """
        count = self.count + other.count
        if not self.count or not other.count:
            one = self if self.count else other
            return Scatter(count, one.mean, one.scatter.astype(float, copy=False))
        # Around the common mean, each set has its own scatter and that of its mean:
        # together n m / (n + m) times the outer product of the means' distance,
        # (F, F), summed over the folds.
        shift = other.mean - self.mean
        weight = self.count * other.count / count
        mean = self.mean + shift * (other.count / count)
        # (F, F) may be large: there is one new matrix, and no others on the way to it.
        scatter = np.add(self.scatter, other.scatter, dtype=float)
        for rows in tiles(len(scatter)):
            scatter[rows] += weight * shift[:, rows].T @ shift
        return Scatter(count, mean, scatter)

    def over_processes(self) -> "Scatter":
        """Returns the scatter of the rows of all processes, in the order of ranks."""
        counts = gathered(np.array(self.count))
        means = gathered(self.mean)
        if len(counts) == 1:
            return self
        count = int(sum(counts))
        # One after the other, so that all processes round alike.
        common = sum(n * mean for n, mean in zip(counts, means, strict=True))
        common = common / max(count, 1)
        # Around the common mean, as in `merge`; there the scatters just add up.
        shift = self.mean - common
        scatter = self.scatter.astype(float)
        for rows in tiles(len(scatter)):
            scatter[rows] += self.count * shift[:, rows].T @ shift
            scatter[rows] = total_of_processes(scatter[rows])
        return Scatter(count, common, scatter)

    def covariance(self) -> np.ndarray:
        """Returns the `(F, F)` covariance of a row, averaged over folds."""
        folds = len(self.mean)
        return self.scatter / max(self.count * folds, 1)

    def regularized(self) -> np.ndarray:
        """Returns the covariance with a ridge, so that any features can be solved for.

        The ridge is `0.03 F / n` of the mean variance: the fewer the rows for the
        features, the less their covariance can be believed. A globally pooled layer
        has one row per image, and without a ridge its fit on few images is all noise.
        """
        covariance = self.covariance()
        features = len(covariance)
        share = RIDGE * features / max(self.count, 1) + LEAST_RIDGE
        variances = np.einsum("ii->i", covariance)  # A view: no second (F, F) matrix.
        variances += share * variances.mean() + SMALLEST_VARIANCE
        return covariance

    @property
    def precision(self) -> np.ndarray:
        """Returns the `(F, F)` inverse of `regularized`, kept: it takes O(F^3)."""
        with PRECISION_LOCK:
            return self._precision

    @functools.cached_property
    def _precision(self) -> np.ndarray:
        return np.linalg.inv(self.regularized())


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """One `Scatter` per consumer: the result of `observe`.

    Attributes:
        scatters: Name of a consumer -> moments of its rows.
        examples: How many examples they are of.
    """

    scatters: Mapping[str, Scatter]
    examples: int = 0

    def __repr__(self) -> str:
        return (
            f"<Moments of {self.examples:,} examples, for {len(self.scatters)} layers>"
        )

    @classmethod
    def zero(cls, consumers: dict[str, Consumer]) -> "Moments":
        """Returns the moments of no examples.

        Args:
            consumers: Name -> `Consumer`.
        """
        scatters = {}
        for name, consumer in consumers.items():
            features = len(consumer.features)
            scatters[name] = Scatter.zero(consumer.folds, features)
        return cls(scatters)

    def merge(self, other: "Moments") -> "Moments":
        """Returns the moments of both sets of examples."""
        scatters = {}
        for name, scatter in self.scatters.items():
            others = other.scatters[name]
            scatters[name] = scatter.merge(others)
        return Moments(scatters, self.examples + other.examples)

    def over_processes(self) -> "Moments":
        """Returns the moments of the examples of all processes."""
        scatters = {}
        for name, scatter in self.scatters.items():
            scatters[name] = scatter.over_processes()
        return Moments(scatters, total_of_processes(self.examples))
