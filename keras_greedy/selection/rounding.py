"""A kernel rounded to 4 bits so that the output of its layer changes least.

Rounding each weight to the nearest step of its output channel looks at the weights
alone. But what the layer reads is correlated: where one weight was rounded up, others
can be rounded so that they make up for it. So the weights are rounded one after the
other, and each error is handed on to those that are still free, as least squares says.

Reference: E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh. GPTQ: Accurate
Post-Training Quantization for Generative Pre-trained Transformers. ICLR 2023. arXiv
2210.17323.
"""

import numpy as np
from scipy import linalg

from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.moments import Scatter
from keras_greedy.selection.reconstruction import KernelAndBias, mean_output

LEVELS = 7
"""The integers go from -7 to 7: 4 bits, symmetric as the kernels of the runtime are."""

SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Of the largest weight, what the largest integer may stand for: more is clipped."""

ROWS_AT_ONCE = 64
"""So many errors are handed on together to the weights far behind."""


def in_four_bits(consumer: Consumer, scatter: Scatter) -> KernelAndBias:
    """Returns a consumer's kernel in 4 bits, and the bias to it.

    Each output channel has a step of its own, and at least one weight of 7 or -7 steps:
    from these weights alone, `max |w| / 7`, the step is found again. A positive factor
    per output channel, as that of a BatchNorm folded into the layer, changes nothing.

    Args:
        consumer: The consumer.
        scatter: Moments of its rows.

    Returns:
        `(kernel, bias)`; the mean of the difference goes to the bias.
    """
    matrix = consumer.matrix()
    features = len(matrix)
    # Behind a Flatten the columns of all positions, of one output, have one step.
    by_output = matrix.reshape(features, consumer.folds, -1)
    new = rounded(by_output, scatter.regularized()).reshape(matrix.shape)
    lost = mean_output(consumer, scatter, matrix - new)
    return consumer.kernel(new), consumer.bias() + lost


def rounded(weights: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Returns weights as multiples of a step per output, at the least squared error.

    With C the covariance of what is read, the error of an output with the weights w is
    `(w - s q)' C (w - s q)`, q being the integers and s the step. For a few steps the
    integers are found one after the other; then s is the best one for these, and of the
    few the best is taken. The nearest integers are among them.

    Args:
        weights: `(F, folds, outputs)`.
        covariance: `(F, F)` C, positive definite.

    Returns:
        `(F, folds, outputs)`.
    """
    largest = np.abs(weights).max(axis=(0, 1))
    # Of an output without weights any step will do.
    widest_step = np.where(largest > 0, largest, 1.0) / LEVELS
    explained = np.tensordot(covariance, weights, axes=1)
    nearest = _integers(weights, widest_step)
    handing_on = HandingOn(covariance)
    candidates = [nearest]
    for share in SHARES:
        candidates.append(handing_on.integers(weights, share * widest_step))
    best = nearest * widest_step
    least = np.full(len(largest), np.inf)
    for integers in candidates:
        found, error = _at_best_step(integers, covariance, explained)
        is_better = error < least
        best = np.where(is_better, found, best)
        least = np.where(is_better, error, least)
    return best


class HandingOn:
    """Rounds row by row, each error handed on to the rows behind.

    With rows 0 to i rounded, the best weights of the others are a least-squares problem
    in C. Its solution moves them by the error of row i times row i of U, over U_ii,
    where U is the upper triangle with `U' U = C^-1`: one decomposition for all rows.

    Args:
        covariance: `(F, F)` C.
    """

    def __init__(self, covariance: np.ndarray):
        # What varies most is rounded first, while there are others to make up for it.
        self._order = np.argsort(-np.diag(covariance), kind="stable")
        ordered = covariance[np.ix_(self._order, self._order)]
        self._upper = linalg.cholesky(np.linalg.inv(ordered), check_finite=False)

    def integers(self, weights: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Returns the `(F, folds, outputs)` integers of a step per output."""
        upper = self._upper
        left = weights[self._order]
        found = np.empty_like(left)
        for start in range(0, len(left), ROWS_AT_ONCE):
            end = min(start + ROWS_AT_ONCE, len(left))
            errors = np.empty_like(left[start:end])
            for row in range(start, end):
                found[row] = _integers(left[row], step)
                error = (left[row] - found[row] * step) / upper[row, row]
                errors[row - start] = error
                behind = upper[row, row + 1 : end]
                left[row + 1 : end] -= behind[:, None, None] * error
            left[end:] -= np.tensordot(upper[start:end, end:].T, errors, axes=1)
        integers = np.empty_like(found)
        integers[self._order] = found
        return integers


def _integers(weights: np.ndarray, step: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(weights / step), -LEVELS, LEVELS)


def _at_best_step(
    integers: np.ndarray,
    covariance: np.ndarray,
    explained: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns integers times the best step, and how much more error they leave.

    Args:
        integers: `(F, folds, outputs)` q.
        covariance: `(F, F)` C.
        explained: `(F, folds, outputs)` C w.

    Returns:
        `(F, folds, outputs)`, and `(outputs,)` the error without `w' C w`, which is the
        same for all; infinite where no weight is of 7 steps.
    """
    # The minimum of (w - s q)' C (w - s q) is at s = q' C w / q' C q.
    across = (integers * explained).sum(axis=(0, 1))
    own = (integers * np.tensordot(covariance, integers, axes=1)).sum(axis=(0, 1))
    step = across / np.maximum(own, np.finfo(float).tiny)
    is_whole = np.abs(integers).max(axis=(0, 1)) == LEVELS
    error = np.where(is_whole & (step > 0), -step * across, np.inf)
    return integers * step, error
