"""Greedy forward selection on moments, with fully corrective weights.

With C the covariance of what a consumer reads, W its kernel (columns weighted for
the global objective) and R the Schur complement of C given the channels S already
selected, the error of the best weights on S is `tr(W' R W)`. Adding channel i
lowers it by `tr(R_ii^-1 G_ii)` with `G = R W W' R`. Both matrices change by low
rank when a channel is added: R loses `c c'` and G loses `c v' + v c'`. As in a
blocked pivoted Cholesky the updates of many steps wait and are applied together.
"""

import numpy as np

from keras_greedy.selection.path import SelectionPath

BLOCK = 48


def forward_path(problems: list["Problem"]) -> SelectionPath:
    """Adds the channel that lowers the summed error most, until all are in.

    Args:
        problems: One per consumer, over the same channels in the same order.

    Returns:
        The `SelectionPath`. Costs O(F^3) flops as matrix products for F features.
    """
    channels = problems[0].channels
    left = np.ones(channels, bool)
    order, errors = [], [sum(p.error for p in problems)]
    for _ in range(channels):
        scores = np.where(left, sum(p.scores() for p in problems), -np.inf)
        best = int(scores.argmax())
        for problem in problems:
            problem.add(best)
        left[best] = False
        order.append(best)
        errors.append(max(0.0, sum(p.error for p in problems)))
    return SelectionPath(np.array(order), np.array(errors))


class Problem:
    """One consumer's part in the selection.

    Args:
        covariance: `(F, F)` positive definite, features sorted by channel.
        weights: `(F, columns)`.
        channels: Number of channels; each owns F / channels features.
    """

    def __init__(self, covariance: np.ndarray, weights: np.ndarray, channels: int):
        weights = _square(weights)
        product = covariance @ weights
        self.channels = channels
        self.error = float((product * weights).sum())
        self._width = len(covariance) // channels
        self._residual, self._gram = covariance.copy(), product @ product.T
        self._residual_blocks = self._diagonal_blocks(self._residual)
        self._gram_blocks = self._diagonal_blocks(self._gram)
        # Pending updates, one row each: rows are contiguous and F is long.
        self._c = np.empty((BLOCK + self._width, len(covariance)))
        self._v = np.empty_like(self._c)
        self._pending = 0

    def scores(self) -> np.ndarray:
        """`(channels,)` error that adding each channel would remove."""
        if self._width == 1:
            return self._gram_blocks[:, 0, 0] / self._residual_blocks[:, 0, 0]
        solved = np.linalg.solve(self._residual_blocks, self._gram_blocks)
        return np.trace(solved, axis1=1, axis2=2)

    def add(self, channel: int) -> None:
        """Moves a channel into the selected set."""
        own = slice(channel * self._width, (channel + 1) * self._width)
        pending = slice(self._pending)
        own_c, own_v = self._c[pending, own].T, self._v[pending, own].T
        c, v = self._c[pending], self._v[pending]
        residual = self._residual[own] - own_c @ c
        gram = self._gram[own] - own_v @ c - own_c @ v
        inverse = np.linalg.inv(np.linalg.cholesky(residual[:, own]))
        new_c, u = inverse @ residual, inverse @ gram
        inner = u[:, own] @ inverse.T
        self.error -= float(np.trace(inner))
        self._append(new_c, u - inner @ new_c / 2, channel)

    def _append(self, c, v, channel):
        rows = slice(self._pending, self._pending + self._width)
        self._c[rows], self._v[rows] = c, v
        self._pending += self._width
        self._update_blocks(c, v)
        self._residual_blocks[channel] = np.eye(self._width)
        if self._pending >= BLOCK:
            self._flush()

    def _update_blocks(self, c, v):
        shape = (self._width, self.channels, self._width)
        c, v = (rows.reshape(shape).transpose(1, 2, 0) for rows in (c, v))
        cross = c @ v.swapaxes(1, 2)
        self._residual_blocks -= c @ c.swapaxes(1, 2)
        self._gram_blocks -= cross + cross.swapaxes(1, 2)

    def _flush(self):
        c, v = self._c[: self._pending], self._v[: self._pending]
        cross = c.T @ v
        self._residual -= c.T @ c
        self._gram -= cross + cross.T
        self._pending = 0

    def _diagonal_blocks(self, matrix):
        channel = np.arange(self.channels)
        split = matrix.reshape(self.channels, self._width, self.channels, self._width)
        return split[channel, :, channel, :].copy()


def _square(weights: np.ndarray) -> np.ndarray:
    """The same `W W'` with no more columns than rows."""
    if weights.shape[1] <= weights.shape[0]:
        return weights
    return np.linalg.qr(weights.T, mode="r").T
