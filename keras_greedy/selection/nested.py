"""Least-squares weights of one consumer for nested cuts, each a part of the next.

The widths of a path are such a row. With the features sorted by how long they stay, the
kept ones S of each cut are the first ones of the widest, P, and so is its factor: with
`C_PP = L L'` the cut to the first n features has the factor `L_n = L[:n, :n]`. One
decomposition does for all, and one solution by it: the equations `C_SS Z = C_SD W_D` of
the weights Z that S takes over are `L_n L_n' Z = C_SR W_R + C_SM W_M`, where R are the
features that no cut keeps, and M those of P beyond the first n. As
`C_SM = L_n L[n:, :n]'`,

    L_n' Z = (L^-1 C_PR W_R)[:n] + L[n:, :n]' W_M,

a product and a triangular system for each cut.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import linalg

from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.moments import Scatter
from keras_greedy.selection.reconstruction import (
    KernelAndBias,
    Reconstruct,
    by_precision_pays,
    least_squares,
    mean_output,
)


def reconstructions(
    reconstruct: Reconstruct,
    consumer: Consumer,
    scatter: Scatter,
    scales: Sequence[np.ndarray],
) -> Iterator[KernelAndBias]:
    """Yields what `reconstruct` returns for each of some scales.

    Args:
        reconstruct: `least_squares` or `rescaled`.
        consumer: The consumer.
        scatter: Moments of its rows.
        scales: `(F,)` each; the features of each are among those of the next, or the
            other way round, for a quicker way.
    """
    by_factor = []
    if reconstruct is least_squares:
        kept = [scale != 0 for scale in scales]
        by_factor = [own for own in kept if own.any() and not _is_quick(consumer, own)]
    if len(by_factor) < 2 or not _are_nested(by_factor):
        for scale in scales:
            yield reconstruct(consumer, scatter, scale)
        return
    factor = _Factor(consumer, scatter, by_factor)
    for scale, own in zip(scales, kept, strict=True):
        if own.any() and not _is_quick(consumer, own):
            yield factor.weights(own)
        else:
            yield reconstruct(consumer, scatter, scale)


def _is_quick(consumer: Consumer, kept: np.ndarray) -> bool:
    return bool(kept.all()) or by_precision_pays(consumer, kept)


def _are_nested(masks: Sequence[np.ndarray]) -> bool:
    """Returns whether of any two masks one has all features of the other."""
    by_size = sorted(masks, key=np.count_nonzero)
    pairs = itertools.pairwise(by_size)
    return not any((small & ~large).any() for small, large in pairs)


class _Factor:
    """The decomposed covariance of the widest of some nested cuts.

    Args:
        consumer: The consumer.
        scatter: Moments of its rows.
        masks: `(F,)` each, the features that each cut keeps.
    """

    def __init__(
        self,
        consumer: Consumer,
        scatter: Scatter,
        masks: Sequence[np.ndarray],
    ):
        self._consumer = consumer
        self._scatter = scatter
        self._matrix = consumer.matrix()
        # How many cuts keep a feature: those that stay longest come first.
        stays = np.sum(masks, axis=0)
        self._order = np.argsort(-stays, kind="stable")
        widest = np.count_nonzero(stays)
        first, rest = np.split(self._order, [widest])
        covariance = scatter.regularized()
        across = covariance[np.ix_(first, rest)]
        # Of a symmetric matrix the transpose is the same, and has the order of LAPACK:
        # it is decomposed in place.
        self._triangle = linalg.cholesky(
            covariance[np.ix_(first, first)].T,
            lower=True,
            overwrite_a=True,
            check_finite=False,
        )
        # (P, columns): L^-1 C_PR W_R.
        self._solved = linalg.solve_triangular(
            self._triangle,
            across @ self._matrix[rest],
            lower=True,
            overwrite_b=True,
            check_finite=False,
        )

    def weights(self, kept: np.ndarray) -> KernelAndBias:
        """Returns the optimal kernel and bias of one of the cuts."""
        count = np.count_nonzero(kept)
        triangle = self._triangle
        first, middle = np.split(self._order[: len(triangle)], [count])
        lost = self._solved[:count] + triangle[count:, :count].T @ self._matrix[middle]
        taken_over = linalg.solve_triangular(
            triangle[:count, :count],
            lost,
            trans="T",
            lower=True,
            overwrite_b=True,
            check_finite=False,
        )
        new = np.zeros_like(self._matrix)
        new[first] = self._matrix[first] + taken_over
        mean = mean_output(self._consumer, self._scatter, self._matrix - new)
        return self._consumer.kernel(new), self._consumer.bias() + mean
