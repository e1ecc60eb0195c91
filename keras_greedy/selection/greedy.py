"""Greedy forward selection on moments, with fully corrective weights.

With C the covariance of what a consumer reads, W its kernel (columns weighted for
the global objective) and R the Schur complement of C given the channels S already
selected, the error of the best weights on S is `tr(W' R W)`. Adding channel i
lowers it by `tr(R_ii^-1 G_ii)` with `G = R W W' R`. Both matrices change by low
rank when a channel is added: R loses `c c'` and G loses `c v' + v c'`. As in a
blocked pivoted Cholesky the updates of many steps wait and are applied together.
"""

from typing import NamedTuple

import numpy as np

BLOCK = 48


class Path(NamedTuple):
    """The order in which a group's channels are added.

    Attributes:
        order: `(N,)` indices of the group's channels, the most helpful first.
        errors: `(N + 1,)` error left with the first n channels of the order.
    """

    order: np.ndarray
    errors: np.ndarray


def forward_path(problems: list["Problem"]) -> Path:
    """Adds the channel that lowers the summed error most, until all are in.

    Args:
        problems: One per consumer, over the same channels in the same order.

    Returns:
        The `Path`. Costs O(F^3) flops as matrix products for F features.
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
    return Path(np.array(order), np.array(errors))


class Problem:
    """One consumer's part in the selection.

    Args:
        covariance: `(F, F)` positive definite, features sorted by channel.
        weights: `(F, columns)`.
        channels: Number of channels; each owns F / channels features.
    """

    def __init__(self, covariance: np.ndarray, weights: np.ndarray, channels: int):
        self.channels = channels
        self._width = len(covariance) // channels
        product = covariance @ _square(weights)
        self.error = float((product * _square(weights)).sum())
        self._residual, self._gram = covariance.copy(), product @ product.T
        self._residual_blocks = self._diagonal_blocks(self._residual)
        self._gram_blocks = self._diagonal_blocks(self._gram)
        self._c = np.zeros((len(covariance), 0))
        self._v = np.zeros((len(covariance), 0))

    def scores(self) -> np.ndarray:
        """`(channels,)` error that adding each channel would remove."""
        if self._width == 1:
            return self._gram_blocks[:, 0, 0] / self._residual_blocks[:, 0, 0]
        solved = np.linalg.solve(self._residual_blocks, self._gram_blocks)
        return np.trace(solved, axis1=1, axis2=2)

    def add(self, channel: int) -> None:
        """Moves a channel into the selected set."""
        own = slice(channel * self._width, (channel + 1) * self._width)
        residual = self._residual[:, own] - self._c @ self._c[own].T
        gram = self._gram[:, own] - self._c @ self._v[own].T - self._v @ self._c[own].T
        inverse = np.linalg.inv(np.linalg.cholesky(residual[own])).T
        c, u = residual @ inverse, gram @ inverse
        inner = inverse.T @ u[own]
        v = u - c @ inner / 2
        self.error -= float(np.trace(inner))
        self._update_blocks(c, v, own)
        self._c, self._v = np.hstack([self._c, c]), np.hstack([self._v, v])
        if self._c.shape[1] >= BLOCK:
            self._flush()

    def _update_blocks(self, c, v, own):
        shape = (self.channels, self._width, self._width)
        c, v = c.reshape(shape), v.reshape(shape)
        cross = c @ v.swapaxes(1, 2)
        self._residual_blocks -= c @ c.swapaxes(1, 2)
        self._gram_blocks -= cross + cross.swapaxes(1, 2)
        self._residual_blocks[own.start // self._width] = np.eye(self._width)

    def _flush(self):
        cross = self._c @ self._v.T
        self._residual -= self._c @ self._c.T
        self._gram -= cross + cross.T
        self._c, self._v = self._c[:, :0], self._v[:, :0]

    def _diagonal_blocks(self, matrix):
        channel = np.arange(self.channels)
        split = matrix.reshape(self.channels, self._width, self.channels, self._width)
        return split[channel, :, channel, :].copy()


def _square(weights: np.ndarray) -> np.ndarray:
    """The same `W W'` with no more columns than rows."""
    if weights.shape[1] <= weights.shape[0]:
        return weights
    return np.linalg.qr(weights.T, mode="r").T
