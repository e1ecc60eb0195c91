"""Weights of a consumer that make the kept channels stand for all of them."""

import numpy as np

from keras_greedy.selection.moments import Scatter
from keras_greedy.selection.reads import Read

RIDGE = 0.03


def regularized(scatter: Scatter) -> np.ndarray:
    """The covariance with a ridge, so that every set of features can be solved.

    The ridge is `0.03 F / n` of the mean variance: the fewer the rows for the
    features, the less their covariance can be believed. A globally pooled layer
    has one row per image, and without a ridge its fit on few images is all noise.
    """
    covariance = scatter.covariance()
    share = RIDGE * len(covariance) / max(scatter.count, 1) + 1e-6
    ridge = share * np.diag(covariance).mean() + np.finfo(np.float32).tiny
    return covariance + ridge * np.eye(len(covariance))


def least_squares(read: Read, scatter: Scatter, scale: np.ndarray):
    """The consumer's optimal kernel and bias when it reads only kept features.

    Minimises `E ||x W + b - (x_S W'_S + b')||^2`: with C the covariance of x,
    `W'_S = W_S + C_SS^-1 C_SD W_D` for the dropped features D, and the mean of
    what is lost goes to the bias.

    Args:
        read: The consumer's `Read`.
        scatter: Moments of its rows.
        scale: `(F,)`, 0 for the features that are dropped.

    Returns:
        `(kernel, bias)`, the kernel in its full shape with zeros for what was
        dropped.
    """
    matrix, kept = read.matrix(), scale != 0
    new = np.where(kept[:, None], matrix, 0.0)
    if kept.any() and not kept.all():
        covariance = regularized(scatter)
        lost = covariance[np.ix_(kept, ~kept)] @ matrix[~kept]
        new[kept] += np.linalg.solve(covariance[np.ix_(kept, kept)], lost)
    return read.kernel(new), read.bias() + _shift(read, scatter, matrix - new)


def rescaled(read: Read, scatter: Scatter, scale: np.ndarray):
    """The consumer's own kernel and bias with each feature scaled.

    Args:
        read: The consumer's `Read`.
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
