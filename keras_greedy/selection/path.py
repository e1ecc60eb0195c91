"""The order in which a group's channels are added, and the weights they get."""

import dataclasses

import numpy as np

ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionPath:
    """Nested sets of channels, one for each width.

    Attributes:
        order: `(N,)` indices of the group's channels, the most helpful first.
        errors: `(N + 1,)` error left at each width.
    """

    order: np.ndarray
    errors: np.ndarray

    def kept(self, width: int) -> np.ndarray:
        """`(width,)` indices of the channels kept, increasing."""
        return np.sort(self.order[:width])

    def scale(self, width: int) -> np.ndarray:
        """`(N,)` what each channel is multiplied by; 0 for what is not kept."""
        scale = np.zeros(len(self.order))
        scale[self.kept(width)] = 1.0
        return scale


@dataclasses.dataclass(frozen=True, eq=False)
class MixturePath(SelectionPath):
    """The path of `a <- (1 - g) a + g e_i`, with the steps that made it.

    A channel may be picked again, and taken back by a negative `g`, so that the
    kept sets need not be nested.

    Attributes:
        order: Channels in the order of their first pick.
        errors: That of the last mixture of at most so many channels, as far as
            none of fewer had less.
        picks: `(T,)` the channel of each step.
        sizes: `(T,)` the g of each step.
        steps: `(N + 1,)` after how many steps that mixture was reached.
    """

    picks: np.ndarray
    sizes: np.ndarray
    steps: np.ndarray

    def kept(self, width):
        # A width that the mixture does not use up is filled in the order of picks.
        unused = self.mixture(width)[self.order] == 0
        return np.sort(self.order[np.argsort(unused, kind="stable")][:width])

    def scale(self, width):
        """`N a`: the mean-field scale, so that all channels together have 1 each."""
        size = len(self.order)
        return np.ones(size) if width == size else size * self.mixture(width)

    def mixture(self, width: int) -> np.ndarray:
        """`(N,)` the weights a, which sum to 1."""
        return mixture(self.picks, self.sizes, len(self.order), self.steps[width])


def mixture(picks, sizes, channels: int, steps: int) -> np.ndarray:
    """The weights a after some steps of `a <- (1 - g) a + g e_i` from a = 0."""
    weights = np.zeros(channels)
    for pick, size in zip(picks[:steps], sizes[:steps], strict=True):
        move(weights, pick, size)
    return weights


def move(weights: np.ndarray, pick: int, size: float) -> None:
    """One step, in place; a weight that is taken back is exactly 0."""
    weights *= 1 - size
    weights[pick] += size
    if abs(weights[pick]) < ROUNDING:
        weights[pick] = 0.0


def mixture_path(picks, sizes, errors, channels: int) -> MixturePath:
    """The `MixturePath` of some steps.

    Args:
        picks: `(T,)` channels, in the order of the steps.
        sizes: `(T,)` the g of each step.
        errors: `(T + 1,)` error before the first step and after each.
        channels: How many there are; those never picked come last in the order.
    """
    picks, sizes, errors = np.array(picks, int), np.array(sizes), np.array(errors)
    first = np.unique(picks, return_index=True)[1]
    never = np.setdiff1d(np.arange(channels), picks)
    used = _supports(picks, sizes, channels)
    steps = [np.flatnonzero(used <= width)[-1] for width in range(channels + 1)]
    left = np.minimum.accumulate(errors[steps])
    left[-1] = 0.0
    order = np.concatenate([picks[np.sort(first)], never])
    return MixturePath(order, left, picks, sizes, np.array(steps))


def _supports(picks, sizes, channels) -> np.ndarray:
    """`(T + 1,)` how many channels have a weight after each step."""
    weights, used = np.zeros(channels), [0]
    for pick, size in zip(picks, sizes, strict=True):
        move(weights, pick, size)
        used.append(np.count_nonzero(weights))
    return np.array(used)
