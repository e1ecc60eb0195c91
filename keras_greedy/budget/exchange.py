"""Gives the rest of a budget to the groups that it helps most, by exchanges."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from keras_greedy.budget.budget import Budget, Limit

# Of the choices behind the present width, those that an exchange tries.
DISTANCES = np.array([0, 1, 2, 3, 5, 7, 11, 15, 23, 31, 47, 63])
# Of the present divergence. To follow smaller differences of what was measured on a few
# images would be to follow their noise.
LEAST_GAIN = 0.01
# In nats. A smaller one is rounding, which exchanges could follow in a circle.
LEAST_DIFFERENCE = 1e-6


class Curves(dict[str, np.ndarray]):
    """The divergences of groups at every width, by name.

    Args:
        curves: Group name -> `(N + 1,)`.
        entries: Group name -> how wide each of its channels is.
        bits: Likewise for the bits of kernels, which are chosen as widths are: by what
            stands for them in `Costs.bits`, infinite where there is no such choice.

    Attributes:
        entries: As given.
        bits: As given.
    """

    def __init__(
        self,
        curves: Mapping[str, np.ndarray],
        entries: Mapping[str, int],
        bits: Mapping[str, np.ndarray] | None = None,
    ):
        self.bits = bits or {}
        super().__init__({**curves, **self.bits})
        self.entries = entries


class WidthChange(NamedTuple):
    """A group's best next width. The one with the least price is to be taken.

    Where prices are equal the first name is, so that the result does not depend on
    the order that groups are given in.

    Attributes:
        price: The divergence to pay for it, negative for a gain.
        name: The group's name.
        width: The width after it.
    """

    price: float
    name: str
    width: int


class Exchange(NamedTuple):
    """A narrower width of one group for a wider one of another.

    Attributes:
        change: Of the divergence, negative for a gain.
        other: The name of the group that is widened.
        narrower: The width of the one.
        wider: The width of the other.
    """

    change: float
    other: str
    narrower: int
    wider: int


def widen(
    curves: dict[str, np.ndarray],
    widths: dict[str, int],
    budget: Budget,
    limits: list[Limit],
) -> None:
    """Gives groups what the limits leave, in place.

    Args:
        curves: Group name -> `(N + 1,)` divergence at every width.
        widths: Group name -> width, within the limits.
        budget: The limits.
        limits: Those of the budget.
    """
    # One widening may use up the room that another needs, so that they are taken one
    # by one, and all are looked at again after each. It ends, as widths only grow.
    while True:
        widenings = list(_widenings(curves, widths, budget, limits))
        if not widenings:
            return
        best = min(widenings)
        widths[best.name] = best.width


def exchange_groups(
    curves: dict[str, np.ndarray],
    widths: dict[str, int],
    budget: Budget,
    limits: list[Limit],
) -> None:
    """Narrows a group and widens another, in place, while the divergence falls.

    Args:
        curves: As for `widen`.
        widths: As for `widen`.
        budget: As for `widen`.
        limits: As for `widen`.
    """
    names = sorted(curves)
    changed = True
    while changed:
        changed = False
        for name in names:
            exchanges = list(_exchanges(name, curves, widths, budget, limits))
            if not exchanges:
                continue
            best = min(exchanges)
            present = sum(float(curves[own][widths[own]]) for own in names)
            if best.change < -max(LEAST_GAIN * present, LEAST_DIFFERENCE):
                widths[name] = best.narrower
                widths[best.other] = best.wider
                widen(curves, widths, budget, limits)
                changed = True


def _exchanges(
    name: str,
    curves: dict[str, np.ndarray],
    widths: dict[str, int],
    budget: Budget,
    limits: list[Limit],
) -> Iterator[Exchange]:
    """Yields the best exchange of a group's channels for those of each other one."""
    narrower = _near(choices_of(budget, curves, name)[::-1], widths[name])
    if not len(narrower):
        return
    lost = curves[name][narrower] - curves[name][widths[name]]
    for other in sorted(curves):
        wider = _near(choices_of(budget, curves, other), widths[other])
        if other == name or not len(wider):
            continue
        won = curves[other][wider] - curves[other][widths[other]]
        # (narrower, wider): all pairs of their widths.
        change = lost[:, None] + won
        tried = widths | {name: narrower[:, None], other: wider}
        for limit in limits:
            change = np.where(limit.holds(tried), change, np.inf)
        i, j = np.unravel_index(change.argmin(), change.shape)
        yield Exchange(float(change[i, j]), other, int(narrower[i]), int(wider[j]))


def _near(
    choices: np.ndarray,
    width: int,
) -> np.ndarray:
    """Returns the choices behind a width: the next ones, and some further on."""
    here = np.flatnonzero(choices == width)[0]
    behind = choices[here + 1 :]
    within = DISTANCES[len(behind) > DISTANCES]
    return behind[within]


def _widenings(
    curves: dict[str, np.ndarray],
    widths: dict[str, int],
    budget: Budget,
    limits: list[Limit],
) -> Iterator[WidthChange]:
    """Yields each group's widening of the greatest gain, if one fits and gains at all.

    The gain alone decides, not that per cost: no saving is asked for any more.
    """
    for name, curve in curves.items():
        wider = choices_of(budget, curves, name)
        wider = wider[wider > widths[name]]
        for limit in limits:
            fits = limit.holds(widths | {name: wider})
            wider = wider[fits]
        if not len(wider):
            continue
        changes = curve[wider] - curve[widths[name]]
        best = changes.argmin()
        if changes[best] < 0:
            width = int(wider[best])
            yield WidthChange(changes[best], name, width)


def choices_of(
    budget: Budget,
    curves: Mapping[str, np.ndarray],
    name: str,
) -> np.ndarray:
    """Returns the widths that a group may have, or the bits of a kernel, increasing.

    Args:
        budget: The limits.
        curves: Group name -> `(N + 1,)` divergence at every width, infinite at 0 for a
            group that must have some channels.
        name: The group's.
    """
    curve = curves[name]
    if isinstance(curves, Curves) and name in curves.bits:
        return np.flatnonzero(np.isfinite(curve))
    size = len(curve) - 1
    may_go = bool(np.isfinite(curve[0]))
    entries = curves.entries[name] if isinstance(curves, Curves) else 1
    return np.array(budget.widths_of(size, may_go, entries), int)
