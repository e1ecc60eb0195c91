"""The order in which a group's channels are added, and the weights they get."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

Numbers: TypeAlias = Sequence[float] | np.ndarray
"""Numbers in a row: a list or an array of one axis."""

ROUNDING = 1e-12
"""Weights, and their distances from 1, below this are 0 but for rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionPath:
    """Nested sets of channels, one for each width.

    Attributes:
        order: `(N,)` indices of the group's channels, the most helpful first.
        errors: `(N + 1,)` error left at each width.
    """

    order: np.ndarray
    errors: np.ndarray

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.order):,} channels>"

    def kept(self, width: int) -> np.ndarray:
        """Returns the `(width,)` indices of the channels kept, increasing."""
        return np.sort(self.order[:width])

    def scale(self, width: int) -> np.ndarray:
        """Returns the `(N,)` factor of each channel: 0 for those not kept."""
        scale = np.zeros(len(self.order))
        scale[self.kept(width)] = 1.0
        return scale


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MixturePath(SelectionPath):
    """The path of `a <- (1 - g) a + g e_i`, with the steps that made it.

    A channel may be picked again, and taken back by a negative `g`, so the kept sets
    need not be nested.

    Attributes:
        order: `(N,)` channels in the order of their first pick.
        errors: `(N + 1,)` error of the last mixture of at most that many channels, or
            that of a narrower width where it was lower.
        picks: `(T,)` the channel of each step.
        sizes: `(T,)` the g of each step.
        steps: `(N + 1,)` number of steps after which that mixture was reached.
    """

    picks: np.ndarray
    sizes: np.ndarray
    steps: np.ndarray

    def kept(self, width: int) -> np.ndarray:
        """Returns the `(width,)` indices of the channels kept, increasing."""
        # Those in use come first. The sort is stable: a width that the mixture does
        # not use up is filled in the order of the picks.
        weights = self.mixture(width)
        is_unused = weights[self.order] == 0
        used_first = np.argsort(is_unused, kind="stable")
        kept = self.order[used_first][:width]
        return np.sort(kept)

    def scale(self, width: int) -> np.ndarray:
        """Returns the `(N,)` mean-field scale `N a` [ICML].

        With all channels in equal parts, `a = 1 / N`, each has the scale 1.
        """
        size = len(self.order)
        # The full layer is kept as it is, wherever the last step has ended.
        if width == size:
            return np.ones(size)
        return size * self.mixture(width)

    def mixture(self, width: int) -> np.ndarray:
        """Returns the `(N,)` weights a, which sum to 1."""
        channels = len(self.order)
        return mixture(self.picks, self.sizes, channels, self.steps[width])


def mixture(
    picks: Numbers,
    sizes: Numbers,
    channels: int,
    steps: int,
) -> np.ndarray:
    """Returns the weights a after some steps of `a <- (1 - g) a + g e_i` from a = 0.

    Args:
        picks: `(T,)` the channel i of each step.
        sizes: `(T,)` the g of each step.
        channels: Number of channels N.
        steps: Number of steps to take, at most T.

    Returns:
        `(N,)`.
    """
    weights = np.zeros(channels)
    for pick, size in zip(picks[:steps], sizes[:steps], strict=True):
        move(weights, int(pick), size)
    return weights


def move(
    weights: np.ndarray,
    pick: int,
    size: float,
) -> None:
    """Takes one step `a <- (1 - g) a + g e_i` in place.

    Args:
        weights: `(N,)` a.
        pick: The channel i.
        size: The step size g.
    """
    weights *= 1 - size
    weights[pick] += size
    # g = -a_i / (1 - a_i) takes the weight back. It has to be exactly 0, because the
    # width of a mixture is the number of weights that are not.
    if abs(weights[pick]) < ROUNDING:
        weights[pick] = 0.0


def mixture_path(
    picks: ArrayLike,
    sizes: ArrayLike,
    errors: ArrayLike,
    channels: int,
) -> MixturePath:
    """Returns the `MixturePath` of some steps.

    Args:
        picks: `(T,)` channels, in the order of the steps.
        sizes: `(T,)` the g of each step.
        errors: `(T + 1,)` error before the first step and after each.
        channels: Number of channels; those never picked come last in the order.
    """
    picks = np.array(picks, int)
    sizes = np.array(sizes)
    errors = np.array(errors)

    _, first_picks = np.unique(picks, return_index=True)
    picked = picks[np.sort(first_picks)]
    never_picked = np.setdiff1d(np.arange(channels), picks)
    order = np.concatenate([picked, never_picked])

    used = _channels_used(picks, sizes, channels)
    steps = np.zeros(channels + 1, int)
    for width in range(channels + 1):
        narrow_enough = np.flatnonzero(used <= width)
        steps[width] = narrow_enough[-1]

    # More channels may have been reached by a step that raised the error; the budget
    # needs a curve that never rises. At the full width the layer is as it was.
    lowest = np.minimum.accumulate(errors[steps])
    lowest[-1] = 0.0
    return MixturePath(order, lowest, picks, sizes, steps)


def _channels_used(
    picks: np.ndarray,
    sizes: np.ndarray,
    channels: int,
) -> np.ndarray:
    """Returns the `(T + 1,)` number of channels with a weight after each step."""
    weights = np.zeros(channels)
    used = [0]
    for pick, size in zip(picks, sizes, strict=True):
        move(weights, pick, size)
        used.append(int(np.count_nonzero(weights)))
    return np.array(used)
