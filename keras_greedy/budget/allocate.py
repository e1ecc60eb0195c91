"""The allocation of channels to groups: divergence curves and a budget -> widths.

The best widths solve a knapsack problem, with a weight for each limit. The greedy rule
for it goes by price: channels are given up where that costs the least divergence for
each share of a limit that it saves.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from keras_greedy.budget.budget import Budget, Limit, Unit
from keras_greedy.graph.costs import Costs

# Savings are shares of a limit. Below this one, none has been made.
LEAST_SAVING = 1e-12
# In messages, milliseconds are rounded up to 1 / 10,000, shares to 1 / 1,000.
MS_STEPS = 1e4
SHARE_STEPS = 1000


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


def check_reachable(
    budget: Budget,
    costs: Costs,
    sizes: dict[str, int],
) -> None:
    """Raises a ValueError that tells the least possible cost, if `budget` is below it.

    Args:
        budget: The limits to meet.
        costs: The costs of the graph.
        sizes: Group name -> its number of channels, of the groups that may be cut.
    """
    if budget.table is not None:
        budget.table.check(sizes)
    narrowest = {}
    for name, size in sizes.items():
        choices = budget.widths_of(size)
        narrowest[name] = choices[0]
    for limit in budget.limits(costs):
        full = limit.cost()
        least = limit.cost(narrowest)
        if least > limit.most:
            # Rounded up: the share that the message names can be met.
            share = math.ceil(SHARE_STEPS * least / full) / SHARE_STEPS
            raise ValueError(
                "Expected a `budget` that can be met. Received: "
                f"{_amount(limit.most, limit.unit)}, {limit.most / full:.1%} of the "
                "model. With every group at its least width "
                f"(round_to={budget.round_to}) {_amount(least, limit.unit)} are left, "
                f"{share:.1%}: that or more can be met."
            )


def _amount(value: float, unit: Unit) -> str:
    if unit is Unit.MILLISECONDS:
        # Rounded up, as the share.
        return f"{math.ceil(MS_STEPS * value) / MS_STEPS} {unit.value}"
    return f"{value:,.0f} {unit.value}"


def allocate(
    curves: dict[str, np.ndarray],
    budget: Budget,
    costs: Costs,
) -> dict[str, int]:
    """Narrows the group that pays least divergence per cost saved, until it fits.

    The last step may have saved more than it had to. The rest is given back to the
    groups that it helps most.

    Args:
        curves: Group name -> `(N + 1,)` divergence at every width.
        budget: The limits to meet.
        costs: The costs of the graph.

    Returns:
        Group name -> width.

    Raises:
        ValueError: When the budget cannot be met.
    """
    steps = list(descent(curves, budget, costs))
    widths = steps[-1]
    limits = budget.limits(costs)
    # One widening may use up the room that another needs, so that they are taken one
    # by one, and all are looked at again after each. It ends, as widths only grow.
    while True:
        found = _widenings(curves, widths, budget, limits)
        widenings = list(found)
        if not widenings:
            return widths
        best = min(widenings)
        widths[best.name] = best.width


def descent(
    curves: dict[str, np.ndarray],
    budget: Budget,
    costs: Costs,
) -> Iterator[dict[str, int]]:
    """Yields the full widths, then those after each narrowing, the last fitting.

    Args:
        curves: Group name -> `(N + 1,)` divergence at every width.
        budget: The limits to meet.
        costs: The costs of the graph.

    Raises:
        ValueError: When the budget cannot be met.
    """
    widths = {}
    for name, curve in curves.items():
        widths[name] = len(curve) - 1
    check_reachable(budget, costs, widths)
    limits = budget.limits(costs)
    while True:
        yield dict(widths)
        # A limit that is kept is no reason to cut: only the others set the prices.
        exceeded = []
        for limit in limits:
            if not limit.holds(widths):
                exceeded.append(limit)
        if not exceeded:
            return
        narrowings = _narrowings(curves, widths, budget, exceeded)
        best = min(narrowings)
        widths[best.name] = best.width


def _narrowings(
    curves: dict[str, np.ndarray],
    widths: dict[str, int],
    budget: Budget,
    exceeded: list[Limit],
) -> Iterator[WidthChange]:
    """Yields each group's narrowing of the least divergence per useful saving.

    All narrower widths are compared, not the next one alone: a curve may be steep at
    first and flat behind, where a wider cut is the cheaper one.
    """
    costs_now = [limit.cost(widths) for limit in exceeded]
    for name, curve in curves.items():
        narrower = _choices(budget, curve)[:-1]
        narrower = narrower[narrower < widths[name]]
        if not len(narrower):
            continue
        # (K,) for K narrower widths. Savings are in shares of their limits, so that
        # those of MACs, parameters and milliseconds add up.
        saved = np.zeros(len(narrower))
        for limit, cost_now in zip(exceeded, costs_now, strict=True):
            # A cost below its limit is worth no more than one that just meets it: a
            # cut that saves far too much must not look cheap for that.
            cost = limit.cost(widths | {name: narrower})
            useful_cost = np.maximum(cost, limit.most)
            saved += (cost_now - useful_cost) / limit.most
        divergence = curve[narrower] - curve[widths[name]]
        prices = divergence / np.maximum(saved, LEAST_SAVING)
        # Of equal prices, as of all cuts that cost nothing, the one that saves the
        # most; and of those that save as much, the widest: no cut beyond the need.
        order = np.lexsort((-narrower, -saved, prices))
        best = order[0]
        width = int(narrower[best])
        yield WidthChange(prices[best], name, width)


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
        wider = _choices(budget, curve)
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


def _choices(budget: Budget, curve: np.ndarray) -> np.ndarray:
    """Returns the widths that the group of a curve may have, increasing."""
    size = len(curve) - 1
    return np.array(budget.widths_of(size), int)
