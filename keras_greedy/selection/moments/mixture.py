"""Forward selection of mixtures: uniform steps and line search, in closed form.

Channel i adds phi_i to the output of a consumer, so the consumer of all N channels
computes F = sum_i phi_i. The mixture a computes f(a) = N sum_i a_i phi_i, in the
mean-field scale in which equal weights a_i = 1 / N give back F. Its imitation error
is a quadratic form of the weights,

    E ||f(a) - F||^2 = (N a - 1)' K (N a - 1),    K_ij = E <phi_i, phi_j>,

with K the `(N, N)` Gram matrix of the contributions. For a consumer `x W` with one
feature per channel that is `C o (W W')`, C the covariance of x and `o` the product
entry by entry: the moments give it without another look at the data. So a step is
exact, and costs O(N) for all candidates together.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from keras_greedy.selection.path import ROUNDING, MixturePath, mixture_path, move

SMALLEST_CURVATURE = np.finfo(float).tiny

STEPS_PER_CHANNEL = 3
"""With so many steps for each channel picked, only others are candidates."""


def gram(
    covariance: np.ndarray,
    weights: np.ndarray,
    channels: int,
) -> np.ndarray:
    """Returns the `(N, N)` Gram matrix of the channels' contributions to a consumer.

    Args:
        covariance: `(F, F)` of the consumer's rows, features sorted by channel.
        weights: `(F, columns)` its kernel as a matrix.
        channels: Number of channels N; each owns F / N features.
    """
    # (F, F): E <x_j W_j, x_k W_k>, the Gram matrix of the features.
    products = covariance * (weights @ weights.T)
    # A channel contributes the sum of its features: each (F / N, F / N) block of the
    # Gram matrix of the features adds up to one entry of that of the channels.
    width = len(products) // channels
    blocks = products.reshape(channels, width, channels, width)
    return blocks.sum(axis=(1, 3))


class MixtureError:
    """The imitation error of a mixture, and of all that are one step away.

    With s = N a the scales and d_i = N e_i - s the direction towards channel i, a
    step of size g leads to s + g d_i, where the error is

        (s + g d_i - 1)' K (s + g d_i - 1)
            = error - 2 g d_i' K (1 - s) + g^2 d_i' K d_i.

    Args:
        gram: `(N, N)` K.

    Attributes:
        weights: `(N,)` a.
        error: `(N a - 1)' K (N a - 1)`.
        steps: Number of steps taken.
    """

    def __init__(self, gram: np.ndarray):
        size = len(gram)
        self.weights = np.zeros(size)
        self.steps = 0
        self._gram = gram
        # K 1 and K s, `(N,)` each. A step changes K s by one row of K: the O(N^2)
        # product is never computed again.
        self._full = gram.sum(axis=1)
        self._product = np.zeros(size)
        self._settle()

    def trials(self, sizes: np.ndarray) -> np.ndarray:
        """Returns the `(N,)` error after a step towards each channel.

        Args:
            sizes: `(N,)` the g of each of these steps.
        """
        return self.error - 2 * sizes * self._slopes + sizes**2 * self._curvatures

    def best_sizes(self) -> np.ndarray:
        """Returns the `(N,)` step sizes at which the parabolas are lowest."""
        # A direction that changes nothing has no curvature, and no slope either.
        curvatures = np.maximum(self._curvatures, SMALLEST_CURVATURE)
        return self._slopes / curvatures

    def move(self, channel: int, size: float) -> None:
        """Takes a step of this size towards a channel."""
        move(self.weights, channel, size)
        # K s for s <- (1 - g) s + g N e_i.
        channels = len(self._gram)
        self._product *= 1 - size
        self._product += size * channels * self._gram[channel]
        self.steps += 1
        self._settle()

    def _settle(self) -> None:
        """Computes the error, and the slope and curvature towards each channel."""
        size = len(self._gram)
        scale = size * self.weights
        # K (1 - s), `(N,)`: how the missing output F - f correlates with each phi_i.
        residual = self._full - self._product
        # Rounding can leave a tiny negative number of a sum of squares.
        error = float((1 - scale) @ residual)
        self.error = max(0.0, error)
        # d_i' K (1 - s) = N residual_i - s' residual.
        self._slopes = size * residual - scale @ residual
        # d_i' K d_i = N^2 K_ii - 2 N (K s)_i + s' K s.
        self._curvatures = (
            size**2 * np.diag(self._gram)
            - 2 * size * self._product
            + scale @ self._product
        )


StepSizes: TypeAlias = Callable[[MixtureError], np.ndarray]
"""A function of a mixture: the `(N,)` g of a step towards each channel."""


def uniform(imitation: MixtureError) -> np.ndarray:
    """Returns `(N,)` g = 1 / (n + 1): n picks have the weight 1 / n each [ICML]."""
    share = 1 / (imitation.steps + 1)
    return np.full(len(imitation.weights), share)


def line_search(imitation: MixtureError) -> np.ndarray:
    """Returns the `(N,)` g of least error, from `-a_i / (1 - a_i)` to 1 [NeurIPS]."""
    # From a = 0 only a step of size 1 makes weights that sum to 1.
    if not imitation.steps:
        return np.ones(len(imitation.weights))
    # The error is a parabola in g: the best g within bounds is the best one, clipped.
    best = imitation.best_sizes()
    least = least_sizes(imitation.weights)
    return np.clip(best, least, 1.0)


def least_sizes(weights: np.ndarray) -> np.ndarray:
    """Returns the `(N,)` step that takes each weight back, `-a_i / (1 - a_i)`."""
    return -weights / np.maximum(1 - weights, ROUNDING)


def imitation_path(
    gram: np.ndarray,
    step_sizes: StepSizes,
) -> MixturePath:
    """Takes the step that leaves the least imitation error, until all are in.

    A step towards a channel that contributes nothing would scale the others down, and
    cost a width for that: such channels come last.

    Args:
        gram: `(N, N)` K, summed over the consumers.
        step_sizes: `uniform` or `line_search`.

    Returns:
        The `MixturePath`. Costs O(N) per step, O(N^2) in all.

    Reference: Ye et al., Good Subnetworks Provably Exist, ICML 2020 (`uniform`); Ye,
    Wu and Liu, Greedy Optimization Provably Wins the Lottery, NeurIPS 2020
    (`line_search`).
    """
    imitation = MixtureError(gram)
    picks: list[int] = []
    sizes: list[float] = []
    errors = [imitation.error]
    is_fresh = np.ones(len(gram), bool)
    contributes = np.diag(gram) > 0
    while is_fresh.any():
        # Repeats may go on lowering the error for ever, and the path has to end.
        picked = np.count_nonzero(~is_fresh)
        may_repeat = len(picks) < STEPS_PER_CHANNEL * picked
        steps = step_sizes(imitation)
        is_candidate = is_fresh | may_repeat
        if np.any(is_fresh & contributes):
            is_candidate &= contributes
        trials = imitation.trials(steps)
        trials = np.where(is_candidate, trials, np.inf)
        best = int(trials.argmin())
        imitation.move(best, steps[best])
        picks.append(best)
        sizes.append(steps[best])
        errors.append(imitation.error)
        is_fresh[best] = False
    return mixture_path(picks, sizes, errors, len(gram))
