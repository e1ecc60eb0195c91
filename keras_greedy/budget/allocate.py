"""How many channels each group keeps: divergence curves and a budget -> widths."""

import math
from collections.abc import Iterator

import numpy as np

from keras_greedy.budget.budget import Budget
from keras_greedy.graph.costs import Costs


def check_reachable(budget: Budget, costs: Costs, sizes: dict[str, int]) -> None:
    """Raises a ValueError that says what could be met, if `budget` cannot."""
    if budget.table is not None:
        budget.table.check(sizes)
    least = {name: budget.widths_of(size)[0] for name, size in sizes.items()}
    for cost, limit in budget.limits(costs):
        if cost(least) > limit:
            share = math.ceil(1000 * cost(least) / cost()) / 1000
            left = _amount(cost(least), cost, costs)
            raise ValueError(
                "Expected a `budget` that can be met. Received: "
                f"{_amount(limit, cost, costs)}, {limit / cost():.1%} of the model. "
                f"With every group at its least width (round_to={budget.round_to}) "
                f"{left} are left, {share:.1%}: that or more can be met."
            )


def _amount(value, cost, costs: Costs) -> str:
    if cost in (costs.macs, costs.params):
        return f"{value:,.0f} {'MACs' if cost == costs.macs else 'parameters'}"
    return f"{math.ceil(1e4 * value) / 1e4} ms"


def allocate(
    curves: dict[str, np.ndarray], budget: Budget, costs: Costs
) -> dict[str, int]:
    """Narrows the group that pays least divergence per cost saved, until it fits.

    What the last step saved too much is given back to where it helps most.

    Args:
        curves: Group name -> `(N + 1,)` divergence at every width.
        budget: The limits to meet.
        costs: Of the graph.

    Returns:
        Group name -> width.

    Raises:
        ValueError: When the budget cannot be met.
    """
    *_, widths = descent(curves, budget, costs)
    limits = budget.limits(costs)
    while steps := list(_widenings(curves, widths, budget, limits)):
        _, name, width = min(steps)
        widths[name] = width
    return widths


def descent(curves, budget: Budget, costs: Costs) -> Iterator[dict[str, int]]:
    """Yields the full widths, then those after each narrowing, the last fitting.

    Arguments and errors are those of `allocate`.
    """
    widths = {name: len(curve) - 1 for name, curve in curves.items()}
    check_reachable(budget, costs, widths)
    limits = budget.limits(costs)
    while True:
        yield dict(widths)
        excess = [(cost, limit) for cost, limit in limits if cost(widths) > limit]
        if not excess:
            return
        _, name, width = min(_narrowings(curves, widths, budget, excess))
        widths[name] = width


def _narrowings(curves, widths, budget, excess):
    """Each group's best narrowing: (divergence per useful saving, name, width)."""
    now = [cost(widths) for cost, _ in excess]
    for name, curve in curves.items():
        narrower = np.array(budget.widths_of(len(curve) - 1)[:-1], int)
        narrower = narrower[narrower < widths[name]]
        if len(narrower):
            saved = sum(
                (before - np.maximum(cost(widths | {name: narrower}), limit)) / limit
                for before, (cost, limit) in zip(now, excess, strict=True)
            )
            loss = curve[narrower] - curve[widths[name]]
            prices = loss / np.maximum(saved, 1e-12)
            # What costs nothing saves as much as is useful, and no more than that.
            best = np.lexsort((-narrower, -saved, prices))[0]
            yield prices[best], name, int(narrower[best])


def _widenings(curves, widths, budget, limits):
    """Each group's best widening that fits: (change of divergence, name, width)."""
    for name, curve in curves.items():
        wider = np.array(budget.widths_of(len(curve) - 1), int)
        wider = wider[wider > widths[name]]
        for cost, limit in limits:
            wider = wider[cost(widths | {name: wider}) <= limit]
        gains = curve[wider] - curve[widths[name]]
        if len(wider) and gains.min() < 0:
            yield gains.min(), name, int(wider[gains.argmin()])
