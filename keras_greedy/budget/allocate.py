"""The allocation of channels to groups: divergence curves and a budget -> widths.

The best widths solve a knapsack problem, with a weight for each limit. The greedy rule
for it goes by price: channels are given up where that costs the least divergence for
each share of a limit that it saves.
"""

import math
from collections.abc import Collection, Iterator

import numpy as np

from keras_greedy.budget.budget import SHORT, Budget, Limit, Unit, shortest
from keras_greedy.budget.exchange import (
    WidthChange,
    choices_of,
    exchange_groups,
    widen,
)
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.file_size import FOUR_BITS

# Savings are shares of a limit. Below this one, none has been made.
LEAST_SAVING = 1e-12
# So many combinations of widths are compared in a fraction of a second.
MOST_COMBINATIONS = 50_000
# Measured divergences are of a few images: a smaller difference says nothing.
NOISE = 0.09
# In messages, milliseconds are rounded up to 1 / 10,000, shares to 1 / 1,000.
MS_STEPS = 1e4
SHARE_STEPS = 1000


def check_reachable(
    budget: Budget,
    costs: Costs,
    sizes: dict[str, int],
    may_go: Collection[str] = (),
) -> None:
    """Raises a ValueError that tells the least possible cost, if `budget` is below it.

    Args:
        budget: The limits to meet.
        costs: The costs of the graph.
        sizes: Group name -> its number of channels, of the groups that may be cut.
        may_go: Names of those of them that may have no channels.
    """
    if budget.table is not None:
        budget.table.check(sizes)
    narrowest = {}
    if budget.may_have_four_bits:
        narrowest = dict.fromkeys(costs.bits, FOUR_BITS)
    for name, size in sizes.items():
        choices = budget.widths_of(size, name in may_go, costs.entries[name])
        narrowest[name] = choices[0]
    for limit in budget.limits(costs):
        full = limit.cost()
        # Shares of bytes are of the file of float32, whatever the precision.
        whole = costs.file_bytes() if limit.unit is Unit.BYTES else full
        # A cut may make a bias, and of a tiny group it may be the greater part.
        least = min(limit.cost(narrowest), full)
        if least > limit.most:
            # Rounded up: the share that the message names can be met.
            share = math.ceil(SHARE_STEPS * least / whole) / SHARE_STEPS
            raise ValueError(
                "Expected a `budget` that can be met. Received: "
                f"{_amount(limit.most, limit.unit)}, {limit.most / whole:.1%} of the "
                "model. With every group at its least width "
                f"(round_to={budget.round_to}) {_amount(least, limit.unit)} are left, "
                f"{share:.1%}: that or more can be met.{_advice(budget, limit)}"
            )


def _advice(budget: Budget, limit: Limit) -> str:
    if limit.unit is not Unit.BYTES or budget.may_have_four_bits:
        return ""
    return ' Fewer bytes can be met with `precision=("int8", "int4")`.'


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
    """Returns the widths of the least divergence that fit, or nearly so.

    Of few widths all combinations are compared. Otherwise the group that pays least
    divergence per cost saved is narrowed until it fits. The last step may have saved
    more than it had to: the rest is given back to the groups that it helps most. Then
    groups exchange, one being narrowed so that another one can be wider, as long as
    the divergence falls.

    Args:
        curves: Group name -> `(N + 1,)` divergence at every width, infinite at 0 where
            that is no choice.
        budget: The limits to meet.
        costs: The costs of the graph.

    Returns:
        Group name -> width.

    Raises:
        ValueError: When the budget cannot be met.
    """
    *cuts, widths = descent(curves, budget, costs)
    if not cuts:
        return widths
    limits = budget.limits(costs)
    combinations = 1
    for name in curves:
        combinations *= len(choices_of(budget, curves, name))
    if combinations <= MOST_COMBINATIONS:
        return _best_of_all(curves, budget, limits)
    widen(curves, widths, budget, limits)
    exchange_groups(curves, widths, budget, limits)
    return widths


def _best_of_all(
    curves: dict[str, np.ndarray],
    budget: Budget,
    limits: list[Limit],
) -> dict[str, int]:
    """Returns the widths of least divergence of all that fit.

    Of as good ones those that use the most of the limits, so that nothing is cut in
    vain. And where the best ones leave much of what was asked for, others that do not
    are as good, as far as measured divergences can tell.
    """
    # By name, so that the order that groups are given in makes no difference.
    names = sorted(curves)
    choices = [choices_of(budget, curves, name) for name in names]
    grid = np.meshgrid(*choices, indexing="ij")
    # Name -> (K,): its width in each of the K combinations.
    widths = {name: axis.ravel() for name, axis in zip(names, grid, strict=True)}
    divergence = np.zeros(1)
    for name in names:
        divergence = divergence + curves[name][widths[name]]
    unused = np.zeros(1)
    for limit in limits:
        divergence = np.where(limit.holds(widths), divergence, np.inf)
        unused = unused + limit.unused(widths)
    is_good = divergence <= (1 + NOISE) * divergence.min()
    is_preferred = is_good & (shortest(limits, widths) <= SHORT)
    best = np.lexsort((unused, divergence, ~is_preferred))[0]
    return {name: int(widths[name][best]) for name in curves}


def descent(
    curves: dict[str, np.ndarray],
    budget: Budget,
    costs: Costs,
) -> Iterator[dict[str, int]]:
    """Yields the full widths, then those after each narrowing, the last fitting.

    Args:
        curves: Group name -> `(N + 1,)` divergence at every width, infinite at 0 where
            that is no choice.
        budget: The limits to meet.
        costs: The costs of the graph.

    Raises:
        ValueError: When the budget cannot be met.
    """
    widths = {}
    for name, curve in curves.items():
        widths[name] = len(curve) - 1
    may_go = [name for name, curve in curves.items() if np.isfinite(curve[0])]
    sizes = {name: size for name, size in widths.items() if name not in costs.bits}
    check_reachable(budget, costs, sizes, may_go)
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
        narrower = choices_of(budget, curves, name)[:-1]
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
