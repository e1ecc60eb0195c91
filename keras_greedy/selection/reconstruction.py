"""Weights of a consumer that make the kept channels stand for all of them."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from scipy import linalg

from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.moments import Scatter

KernelAndBias: TypeAlias = tuple[np.ndarray, np.ndarray]
"""A consumer's new kernel, of its full shape, and its new bias, `(outputs,)`."""

Reconstruct: TypeAlias = Callable[[Consumer, Scatter, np.ndarray], KernelAndBias]
"""`least_squares` or `rescaled`."""

PRECISION_PAYS = 8
"""The precision is the faster way to drop up to one feature of so many."""

PRECISION_PAYS_SHARED = 2
"""Likewise for a layer that reads many groups, whose cuts share the precision."""

MANY_GROUPS = 4


def least_squares(
    consumer: Consumer,
    scatter: Scatter,
    scale: np.ndarray,
) -> KernelAndBias:
    """Returns the optimal kernel and bias of a consumer that reads only kept features.

    Minimises `E ||x W + b - (x_S W'_S + b')||^2` over W'_S and b'. With C the
    covariance of x, S the kept and D the dropped features, the optimum is
    `W'_S = W_S + C_SS^-1 C_SD W_D`: the kept features take over the part of the
    dropped ones that they predict. The mean of the rest goes to the bias.

    Args:
        consumer: The consumer.
        scatter: Moments of its rows.
        scale: `(F,)`, 0 for the features that are dropped.

    Returns:
        `(kernel, bias)`, the kernel in its full shape with zeros for the features
        that are dropped.
    """
    matrix = consumer.matrix()
    kept = scale != 0
    new = np.where(kept[:, None], matrix, 0.0)
    if kept.any() and not kept.all():
        pays = by_precision_pays(consumer, kept)
        taken_over = _by_precision if pays else _by_covariance
        new[kept] += taken_over(scatter, kept, matrix[~kept])
    lost = mean_output(consumer, scatter, matrix - new)
    return consumer.kernel(new), consumer.bias() + lost


def by_precision_pays(consumer: Consumer, kept: np.ndarray) -> bool:
    """Returns whether few enough features go that the precision is the faster way.

    Args:
        consumer: The consumer.
        kept: `(F,)` mask of the features that stay.
    """
    reads_many = consumer.groups_read >= MANY_GROUPS
    of_features = PRECISION_PAYS_SHARED if reads_many else PRECISION_PAYS
    return bool(np.count_nonzero(~kept) <= len(kept) / of_features)


def rescaled(
    consumer: Consumer,
    scatter: Scatter,
    scale: np.ndarray,
) -> KernelAndBias:
    """Returns the consumer's own kernel with each feature scaled, and the bias to it.

    Args:
        consumer: The consumer.
        scatter: Moments of its rows.
        scale: `(F,)`, 0 for the features that are dropped.

    Returns:
        `(kernel, bias)`, the kernel in its full shape; the mean of the difference
        goes to the bias.
    """
    matrix = consumer.matrix()
    new = matrix * scale[:, None]
    lost = mean_output(consumer, scatter, matrix - new)
    return consumer.kernel(new), consumer.bias() + lost


def _by_covariance(
    scatter: Scatter,
    kept: np.ndarray,
    dropped: np.ndarray,
) -> np.ndarray:
    """Returns `C_SS^-1 C_SD W_D`, the weights that kept features get in addition.

    Args:
        scatter: Moments of the consumer's rows.
        kept: `(F,)` mask of S.
        dropped: `(D, columns)` W_D.

    Returns:
        `(S, columns)`.
    """
    # (S, columns): C_SD W_D, the covariance of the kept features with the lost output.
    covariance = scatter.regularized()
    of_kept = covariance[np.ix_(kept, kept)]
    across = covariance[np.ix_(kept, ~kept)]
    # Of a symmetric matrix the transpose is the same, and has the order of LAPACK: it
    # is decomposed in place.
    triangle = linalg.cho_factor(
        of_kept.T, lower=True, overwrite_a=True, check_finite=False
    )
    return linalg.cho_solve(triangle, across @ dropped, check_finite=False)


def _by_precision(
    scatter: Scatter,
    kept: np.ndarray,
    dropped: np.ndarray,
) -> np.ndarray:
    """Returns the same as `_by_covariance`, from the inverse of the covariance.

    With the precision P = C^-1, the rows S and columns D of C P = I say that
    C_SS P_SD + C_SD P_DD = 0, and so C_SS^-1 C_SD = -P_SD P_DD^-1: a (D, D) system in
    place of an (S, S) one. P takes as long as that, but only once: a layer that reads
    the channels of many groups is asked about each in turn.

    Args:
        scatter: As for `_by_covariance`, like the others.
        kept: See there.
        dropped: See there.
    """
    precision = scatter.precision
    of_dropped = precision[np.ix_(~kept, ~kept)]
    across = precision[np.ix_(kept, ~kept)]
    return -across @ np.linalg.solve(of_dropped, dropped)


def mean_output(
    consumer: Consumer,
    scatter: Scatter,
    matrix: np.ndarray,
) -> np.ndarray:
    """Returns the `(outputs,)` mean output of a kernel given as `matrix`."""
    # Each fold (position before a Flatten) has its own mean, and its own columns.
    by_fold = matrix.reshape(len(matrix), consumer.folds, -1)
    return np.einsum("pf,fpo->o", scatter.mean, by_fold)
