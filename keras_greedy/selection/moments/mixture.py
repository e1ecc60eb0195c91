"""Forward selection of mixtures: uniform steps and line search, in closed form.

With phi_i what channel i adds to a consumer's output, the consumer of all channels
computes F = sum_i phi_i, and the mixture a, in its mean-field scale, f(a) = N sum_i
a_i phi_i. The imitation error `E ||f(a) - F||^2` is a quadratic form of a:
`(N a - 1)' K (N a - 1)`, K the Gram matrix of the phi_i, which the moments give as
`C o (W W')`. So a step is exact, and costs O(N) for all candidates together.
"""

import numpy as np

from keras_greedy.selection.path import ROUNDING, MixturePath, mixture_path, move

STEPS_PER_CHANNEL = 3
"""With so many steps for each channel picked, only others are candidates."""


def gram(covariance: np.ndarray, weights: np.ndarray, channels: int) -> np.ndarray:
    """`(N, N)` Gram matrix of the channels' contributions to one consumer.

    Args:
        covariance: `(F, F)` of what the consumer reads, features sorted by channel.
        weights: `(F, columns)` its kernel.
        channels: N; each channel owns F / N features.
    """
    products = covariance * (weights @ weights.T)
    width = len(products) // channels
    return products.reshape(channels, width, channels, width).sum(axis=(1, 3))


def imitation_path(gram: np.ndarray, step_sizes) -> MixturePath:
    """Takes the step that leaves the least imitation error, until all are in.

    Args:
        gram: `(N, N)` K, summed over the consumers.
        step_sizes: `uniform` or `line_search`.

    Returns:
        The `MixturePath`. Costs O(N) per step, O(N^2) in all.
    """
    imitation, picks, sizes = MixtureError(gram), [], []
    errors, fresh = [imitation.error], np.ones(len(gram), bool)
    while fresh.any():
        may_repeat = len(picks) < STEPS_PER_CHANNEL * np.count_nonzero(~fresh)
        steps = step_sizes(imitation)
        trials = np.where(fresh | may_repeat, imitation.trials(steps), np.inf)
        best = int(trials.argmin())
        imitation.move(best, steps[best])
        picks.append(best)
        sizes.append(steps[best])
        errors.append(imitation.error)
        fresh[best] = False
    return mixture_path(picks, sizes, errors, len(gram))


def uniform(imitation: "MixtureError") -> np.ndarray:
    """`(N,)` g = 1 / (n + 1): after n picks each has the weight 1 / n [ICML]."""
    return np.full(len(imitation.weights), 1 / (imitation.steps + 1))


def line_search(imitation: "MixtureError") -> np.ndarray:
    """`(N,)` for each channel the g of least error, from -a_i / (1 - a_i) to 1."""
    if not imitation.steps:
        return np.ones(len(imitation.weights))
    return np.clip(imitation.best_sizes(), least_sizes(imitation.weights), 1.0)


def least_sizes(weights: np.ndarray) -> np.ndarray:
    """`(N,)` the step that takes each channel's weight back, `-a_i / (1 - a_i)`."""
    return -weights / np.maximum(1 - weights, ROUNDING)


class MixtureError:
    """The imitation error of a mixture, and of all that are one step away.

    Attributes:
        weights: `(N,)` a.
        error: `(N a - 1)' K (N a - 1)`.
        steps: How many were taken.
    """

    def __init__(self, gram: np.ndarray):
        self._gram, self._full = gram, gram.sum(axis=1)
        self._product = np.zeros(len(gram))  # K N a
        self.weights, self.steps = np.zeros(len(gram)), 0
        self._settle()

    def trials(self, sizes: np.ndarray) -> np.ndarray:
        """`(N,)` the error after a step of this size towards each channel."""
        return self.error - 2 * sizes * self._slopes + sizes**2 * self._curvatures

    def best_sizes(self) -> np.ndarray:
        """`(N,)` where the error on the way to each channel is least."""
        return self._slopes / np.maximum(self._curvatures, np.finfo(float).tiny)

    def move(self, channel: int, size: float) -> None:
        """Takes a step."""
        move(self.weights, channel, size)
        self._product *= 1 - size
        self._product += size * len(self._gram) * self._gram[channel]
        self.steps += 1
        self._settle()

    def _settle(self):
        scale = len(self._gram) * self.weights
        residual = self._full - self._product
        self.error = max(0.0, float((1 - scale) @ residual))
        self._slopes = len(self._gram) * residual - scale @ residual
        self._curvatures = (
            len(self._gram) ** 2 * np.diag(self._gram)
            - 2 * len(self._gram) * self._product
            + scale @ self._product
        )
