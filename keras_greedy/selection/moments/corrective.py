"""Greedy forward selection on moments, with fully corrective weights.

A consumer computes `x W` from rows x of F features. With the channels S selected,
the best weights on S leave the error

    min_V E ||x W - x_S V||^2 = tr(W' R W),

where R, `(F, F)`, is the covariance of x with all that x_S explains taken out: the
Schur complement `C - C_:S C_SS^-1 C_S:` of the covariance C. It is 0 in the rows and
columns of S. Adding channel i, with w features, takes out more of it,

    R <- R - R_:i R_ii^-1 R_i:,

and lowers the error by `tr(R_ii^-1 G_ii)` with `G = R W W' R`, `(F, F)`. For one
feature per channel that is `||(R W)_i||^2 / R_ii`: the squared covariance of the
channel with the missing output, over the variance the channel has left.

All scores need of R and G are the diagonal blocks `(w, w)` of each channel, and all
that adding a channel needs are its own w rows. So the updates, of rank w for R and of
rank 2 w for G, are applied to the diagonal blocks at once but to the matrices only
when many have come together, as one matrix product: a blocked pivoted Cholesky
decomposition. That is orthogonal matching pursuit on moments in place of data.

Both matrices are symmetric, so that only their upper half is updated, and the features
of channels that are in are taken out of them: together a sixth of the work of whole
matrices. G may be kept as a factor of it, see `gram`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_greedy.selection.moments.gram import (
    gram_of,
    shrunk,
    subtract_product,
    upper_rows,
)
from keras_greedy.selection.path import SelectionPath

BLOCK = 48
"""Update rows that wait: enough for a fast matrix product, few enough that the rows
of one channel are brought up to date quickly."""

FEW_GONE = 1 / 8
"""The matrices shrink when more than this share of their channels is in."""


class Problem:
    """One consumer's part in the selection.

    Args:
        covariance: `(F, F)` positive definite, features sorted by channel.
        weights: `(F, columns)` the consumer's kernel as a matrix, for the global
            objective with its columns weighted.
        channels: Number of channels; each owns w = F / channels features.

    Attributes:
        channels: As given.
        is_read: `(channels,)` mask of those with a weight that is not 0.
        error: The error of the best weights on the channels added so far.
    """

    def __init__(
        self,
        covariance: np.ndarray,
        weights: np.ndarray,
        channels: int,
    ):
        by_channel = weights.reshape(channels, -1)
        self.is_read = by_channel.any(axis=1)
        weights = _square(weights)
        # With nothing selected R = C, and so tr(W' C W) is the error, C W W' C is G.
        product = covariance @ weights
        self.channels = channels
        self.error = float((product * weights).sum())
        self._width = len(covariance) // channels
        # The channels that the matrices have features of, increasing, and which of
        # them have been added since.
        self._stored = np.arange(channels)
        self._is_added = np.zeros(channels, bool)
        self._residual = covariance.copy()
        # One row per feature that waits, because rows are contiguous and F is long. A
        # channel that fills the block may have rows beyond it.
        waiting = BLOCK + self._width
        self._gram = gram_of(product, self._width, waiting)
        self._residual_blocks = self._diagonal_blocks(self._residual)
        of_channels = product.reshape(channels, self._width, -1)
        self._gram_blocks = of_channels @ of_channels.swapaxes(1, 2)
        # Pending updates: R is `_residual - c' c`.
        self._c = np.empty((waiting, len(covariance)))
        self._pending = 0

    def scores(self) -> np.ndarray:
        """Returns the `(channels,)` error that adding each channel would remove.

        The score of a channel already added means nothing.
        """
        residual = self._residual_blocks
        gram = self._gram_blocks
        if self._width == 1:
            of_stored = gram[:, 0, 0] / residual[:, 0, 0]
        else:
            solved = np.linalg.solve(residual, gram)
            of_stored = np.trace(solved, axis1=1, axis2=2)
        scores = np.zeros(self.channels)
        scores[self._stored] = of_stored
        return scores

    def add(self, channel: int) -> None:
        """Moves a channel into the selected set."""
        place = int(np.searchsorted(self._stored, channel))
        start = place * self._width
        own = slice(start, start + self._width)
        # The channel's rows of R and G, `(w, F)`, with the pending updates applied.
        c = self._c[: self._pending]
        residual = upper_rows(self._residual, own) - c[:, own].T @ c
        gram = self._gram.rows(own, c)

        # With R_ii = L L' and c = L^-1 R_i:, (w, F), the step is R <- R - c' c. L is
        # small, (w, w), and its inverse is needed three times.
        triangle = np.linalg.cholesky(residual[:, own])
        inverse = np.linalg.inv(triangle)
        new_c = inverse @ residual
        # The new R is P R with the projection P = I - c' L^-1 E', where E, (F, w),
        # picks the channel's features, so the new G is P G P'. With u = L^-1 G_i:,
        # (w, F), and M = L^-1 G_ii L^-T, (w, w) and symmetric, that is
        #     G - c' u - u' c + c' M c.
        u = inverse @ gram
        inner = u[:, own] @ inverse.T
        # tr(M) = tr(R_ii^-1 G_ii), the channel's score.
        self.error -= float(np.trace(inner))
        # Half of M c to each side: c' v + v' c with v = u - M c / 2 is the same, and
        # needs no third kind of pending row.
        new_v = u - inner @ new_c / 2
        self._gram.append(own, c, inverse, new_v)
        self._append(new_c, new_v, place)

    def _append(
        self,
        c: np.ndarray,
        v: np.ndarray,
        place: int,
    ) -> None:
        """Lets the update rows `(w, F)` of a channel wait with the others."""
        waiting = self._pending + self._width
        self._c[self._pending : waiting] = c
        self._pending = waiting
        self._update_blocks(c, v)
        # R is 0 there now; 1 keeps the scores of the others free of a division by 0.
        self._residual_blocks[place] = np.eye(self._width)
        self._is_added[place] = True
        if self._pending >= BLOCK:
            self._flush()
            if self._is_added.mean() > FEW_GONE:
                self._shrink()

    def _update_blocks(
        self,
        c: np.ndarray,
        v: np.ndarray,
    ) -> None:
        """Applies an update to the diagonal blocks, which the scores are made of."""
        c = self._by_channel(c)
        v = self._by_channel(v)
        cross = c @ v.swapaxes(1, 2)
        self._residual_blocks -= c @ c.swapaxes(1, 2)
        self._gram_blocks -= cross + cross.swapaxes(1, 2)

    def _by_channel(self, rows: np.ndarray) -> np.ndarray:
        """Returns update rows `(w, F)` as `(stored, w features, w rows)`."""
        width = self._width
        split = rows.reshape(width, len(self._stored), width)
        return split.transpose(1, 2, 0)

    def _flush(self) -> None:
        """Applies the pending updates to the matrices."""
        c = self._c[: self._pending]
        subtract_product(self._residual, c, c, self._width)
        self._gram.flush(c, self._width)
        self._pending = 0

    def _shrink(self) -> None:
        """Takes the features of the channels that were added out of the matrices."""
        is_left = ~self._is_added
        features = np.flatnonzero(np.repeat(is_left, self._width))
        self._residual = shrunk(self._residual, features)
        self._gram.keep(features)
        self._residual_blocks = self._residual_blocks[is_left]
        self._gram_blocks = self._gram_blocks[is_left]
        self._stored = self._stored[is_left]
        self._is_added = np.zeros(len(self._stored), bool)
        self._c = np.empty((len(self._c), len(features)))

    def _diagonal_blocks(self, matrix: np.ndarray) -> np.ndarray:
        """Returns `(channels, w, w)` copies of an `(F, F)` matrix's diagonal blocks."""
        channels = self.channels
        width = self._width
        split = matrix.reshape(channels, width, channels, width)
        own = np.arange(channels)
        return split[own, :, own, :].copy()


def forward_path(problems: Sequence[Problem]) -> SelectionPath:
    """Adds the channel that lowers the summed error most, until all are in.

    A channel that no consumer reads may still tell of those that are read, as far as
    they vary together. Once these are in it is of no use, so it comes last.

    Args:
        problems: One per consumer, over the same channels in the same order. They
            are used up.

    Returns:
        The `SelectionPath`. Costs O(F^3) flops as matrix products for F features.

    Reference: Pati, Rezaiifar and Krishnaprasad, Orthogonal Matching Pursuit, 1993.
    """
    channels = problems[0].channels
    is_left = np.ones(channels, bool)
    is_read = np.any([problem.is_read for problem in problems], axis=0)
    order = []
    errors = [_total_error(problems)]
    for _ in range(channels):
        scores = sum(problem.scores() for problem in problems)
        first = is_left & is_read
        candidates = first if first.any() else is_left
        scores = np.where(candidates, scores, -np.inf)
        best = int(scores.argmax())
        for problem in problems:
            problem.add(best)
        is_left[best] = False
        order.append(best)
        # Rounding of many subtractions may leave the last errors below 0.
        errors.append(max(0.0, _total_error(problems)))
    return SelectionPath(np.array(order), np.array(errors))


def _total_error(problems: Sequence[Problem]) -> float:
    return sum(problem.error for problem in problems)


def _square(weights: np.ndarray) -> np.ndarray:
    """Returns weights of the same `W W'` with no more columns than rows.

    The selection depends on `W W'` alone. With `W' = Q T`, Q orthonormal, that is
    `T' T`: the `(F, F)` triangle stands for any number of columns.
    """
    if weights.shape[1] <= weights.shape[0]:
        return weights
    # NumPy's type hints do not know that mode "r" gives the triangle alone.
    triangle: Any = np.linalg.qr(weights.T, mode="r")
    return triangle.T
