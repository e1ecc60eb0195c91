"""Weights of a consumer that make the kept channels stand for all of them."""

import numpy as np

from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.moments import Scatter


def least_squares(read: Consumer, scatter: Scatter, scale: np.ndarray):
    """The consumer's optimal kernel and bias when it reads only kept features.

    Minimises `E ||x W + b - (x_S W'_S + b')||^2`: with C the covariance of x,
    `W'_S = W_S + C_SS^-1 C_SD W_D` for the dropped features D, and the mean of
    what is lost goes to the bias.

    Args:
        read: The consumer's `Consumer`.
        scatter: Moments of its rows.
        scale: `(F,)`, 0 for the features that are dropped.

    Returns:
        `(kernel, bias)`, the kernel in its full shape with zeros for what was
        dropped.
    """
    matrix, kept = read.matrix(), scale != 0
    new = np.where(kept[:, None], matrix, 0.0)
    if kept.any() and not kept.all():
        new[kept] += _made_up(scatter, kept, matrix[~kept])
    return read.kernel(new), read.bias() + _shift(read, scatter, matrix - new)


def _made_up(scatter: Scatter, kept: np.ndarray, dropped: np.ndarray) -> np.ndarray:
    """`C_SS^-1 C_SD W_D`.

    Where few features are dropped of many, as of a layer that reads what many others
    made, by the precision P = C^-1 instead: `-P_SD P_DD^-1 W_D`, O(F) for each group
    of channels once P is there.
    """
    if len(dropped) <= len(kept) / 8:
        precision = scatter.precision
        own = np.linalg.solve(precision[np.ix_(~kept, ~kept)], dropped)
        return -precision[np.ix_(kept, ~kept)] @ own
    covariance = scatter.regularized()
    lost = covariance[np.ix_(kept, ~kept)] @ dropped
    return np.linalg.solve(covariance[np.ix_(kept, kept)], lost)


def rescaled(read: Consumer, scatter: Scatter, scale: np.ndarray):
    """The consumer's own kernel and bias with each feature scaled.

    Args:
        read: The consumer's `Consumer`.
        scatter: Moments of its rows.
        scale: `(F,)`, 0 for the features that are dropped.

    Returns:
        `(kernel, bias)` as of `least_squares`; the mean of what changes goes to
        the bias.
    """
    matrix = read.matrix()
    new = matrix * scale[:, None]
    return read.kernel(new), read.bias() + _shift(read, scatter, matrix - new)


def _shift(read, scatter, lost):
    """The mean of what the lost part of the kernel gave to each output."""
    lost = lost.reshape(len(lost), read.folds, -1)
    return np.einsum("pf,fpo->o", scatter.mean, lost)
