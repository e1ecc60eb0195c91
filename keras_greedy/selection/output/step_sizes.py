"""The rules for the size g of a step `a <- (1 - g) a + g e_i`."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from keras_greedy.selection.moments.mixture import least_sizes


class Expansion(NamedTuple):
    """The loss to second order on the way from the mixture to each channel.

    Attributes:
        slopes: `(N,)` first derivatives.
        curvatures: `(N,)` second derivatives.
    """

    slopes: np.ndarray
    curvatures: np.ndarray

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """Returns the `(N,)` change of the loss after steps of these sizes."""
        return sizes * self.slopes + sizes**2 / 2 * self.curvatures


class StepSizes(Protocol):
    """A rule for the sizes of the steps.

    Attributes:
        shrinks: Whether they get smaller with the number of steps taken.
    """

    shrinks: bool

    def sizes(
        self,
        weights: np.ndarray,
        picks: int,
        expansion: Callable[[], Expansion],
    ) -> np.ndarray:
        """Returns the `(N,)` size of a step towards each channel.

        Args:
            weights: `(N,)` the mixture a.
            picks: How many steps were taken.
            expansion: Gives the loss to second order around the mixture.
        """
        ...

    def trials(
        self,
        picks: int,
        channels: np.ndarray,
        sizes: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the `(K,)` channels and step sizes to evaluate.

        Args:
            picks: How many steps were taken.
            channels: `(k,)` the candidates.
            sizes: `(N,)` from `sizes`.
        """
        ...

    def shares(self, picks: int, sizes: np.ndarray) -> np.ndarray:
        """Returns the `(K,)` weights that the channels of K steps get together."""
        ...


class Uniform:
    """g = 1 / (n + 1): after n picks each has the weight 1 / n [ICML]."""

    shrinks = True

    def sizes(
        self,
        weights: np.ndarray,
        picks: int,
        expansion: Callable[[], Expansion],
    ) -> np.ndarray:
        return np.full(len(weights), 1 / (picks + 1))

    def trials(
        self,
        picks: int,
        channels: np.ndarray,
        sizes: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        return channels, sizes[channels]

    def shares(self, picks: int, sizes: np.ndarray) -> np.ndarray:
        return np.full(len(sizes), 1 / (picks + len(sizes)))


class LineSearch:
    """g and i together, g from -a_i / (1 - a_i) to 1 [NeurIPS].

    To second order the best g is known; it is tried whole and halved, and against a
    step of size 0, so that no step raises the loss on the examples it looks at.
    """

    shrinks = False

    def sizes(
        self,
        weights: np.ndarray,
        picks: int,
        expansion: Callable[[], Expansion],
    ) -> np.ndarray:
        if not picks:
            # From a = 0 only a whole step gives a mixture, whose weights sum to 1.
            return np.ones(len(weights))
        slopes, curvatures = expansion()
        best = -slopes / np.maximum(curvatures, np.finfo(float).tiny)
        return np.clip(best, least_sizes(weights), 1.0)

    def trials(
        self,
        picks: int,
        channels: np.ndarray,
        sizes: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        own = sizes[channels]
        if not picks:
            return channels, own
        # The last trial stays where it is: a step of size 0 towards any channel.
        tried = np.concatenate([channels, channels, channels[:1]])
        return tried, np.concatenate([own, own / 2, [0.0]])

    def shares(self, picks: int, sizes: np.ndarray) -> np.ndarray:
        return sizes / len(sizes)


STEP_SIZES: dict[str, StepSizes] = {
    "uniform": Uniform(),
    "line_search": LineSearch(),
}
