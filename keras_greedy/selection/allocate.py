"""How many channels each group keeps: divergence curves and a budget -> widths."""

import dataclasses
import math
import numbers
from collections.abc import Iterator

import numpy as np

from keras_greedy.graph.costs import Costs
from keras_greedy.latency_table import LatencyTable


@dataclasses.dataclass(frozen=True)
class Budget:
    """What the compact model may cost.

    Attributes:
        macs: Multiply-accumulates: a fraction of the full model's when at most 1,
            else an absolute number. `None` for no limit.
        params: Parameters, likewise.
        round_to: Widths are multiples of this (or the group's full size).
        latency: Measured time of an inference, as a fraction of the full model's.
        latency_ms: Likewise in milliseconds.
        table: Where the latencies are from: `measure_latencies` or a file. By default
            they are measured here, once for each `search`, in one thread.

    Raises:
        ValueError: When a limit is not positive, none is given, `round_to < 1`, or
            `table` is none, or is one without a limit on latency.

    Example:

    ```python
    keras_greedy.prune(model, data, budget=Budget(macs=0.5, params=0.6))
    keras_greedy.prune(model, data, budget=Budget(latency=0.5))
    ```
    """

    macs: float | None = None
    params: float | None = None
    round_to: int = 8
    latency: float | None = None
    latency_ms: float | None = None
    table: LatencyTable | None = None

    def __post_init__(self):
        names = ("macs", "params", "latency", "latency_ms")
        limits = {name: getattr(self, name) for name in names}
        if all(limit is None for limit in limits.values()):
            raise ValueError(
                "Expected `budget` to limit macs or params, latency or latency_ms. "
                "Received none."
            )
        for name, limit in limits.items():
            if limit is not None and not (_is_number(limit) and limit > 0):
                raise ValueError(
                    f"Expected the budget's `{name}` to be positive: {_UNITS[name]}. "
                    f"Received: {limit!r}"
                )
        if self.latency is not None and self.latency > 1:
            raise ValueError(
                f"Expected the budget's `latency` to be {_UNITS['latency']}; the time "
                f"in milliseconds is `latency_ms`. Received: {self.latency!r}"
            )
        self._check_table()
        if not _is_number(n := self.round_to) or n < 1 or n % 1:
            raise ValueError(
                "Expected `round_to` to be a positive integer. "
                f"Received: {self.round_to!r}"
            )

    def _check_table(self):
        if self.table is None:
            return
        if not isinstance(self.table, LatencyTable):
            raise ValueError(
                "Expected the budget's `table` to be a keras_greedy.LatencyTable. "
                f"Received: {self.table!r}"
            )
        if not self.limits_latency:
            raise ValueError(
                "Expected the budget's `table` with a limit on the latency: `latency` "
                "or `latency_ms`. Received neither"
            )

    @property
    def limits_latency(self) -> bool:
        return self.latency is not None or self.latency_ms is not None

    @classmethod
    def of(cls, budget) -> "Budget":
        """A `Budget` as it is; a number as a limit on MACs."""
        if isinstance(budget, Budget):
            return budget
        if not _is_number(budget):
            raise ValueError(
                "Expected `budget` to be a number or a keras_greedy.Budget. "
                f"Received: budget={budget!r} of type {type(budget).__name__}"
            )
        return cls(macs=budget)

    def limits(self, costs: Costs) -> list[tuple]:
        """`(cost function of widths, absolute limit)` for each limit given."""
        pairs = ((costs.macs, self.macs), (costs.params, self.params))
        limits = [
            (cost, limit * cost() if limit <= 1 else limit)
            for cost, limit in pairs
            if limit is not None
        ]
        return limits + self._latency_limits()

    def _latency_limits(self) -> list[tuple]:
        if not self.limits_latency:
            return []
        if self.table is None:
            raise ValueError(
                "Expected a budget of latency to have a `table`: a search that was "
                "loaded from a file does not tell the device. Measure one here by "
                "`table = keras_greedy.measure_latencies(model)`, or load the one of "
                "the device, and give it: `Budget(latency=0.5, table=table)`. "
                f"Received: {self}"
            )
        ms = self.table.ms
        limits = (self.latency and self.latency * ms(), self.latency_ms)
        return [(ms, limit) for limit in limits if limit is not None]

    def widths_of(self, size: int) -> list[int]:
        """The widths a group of this size may be cut to, increasing."""
        step = int(self.round_to)
        return [*range(step, size, step), size]


_SHARE = "a fraction up to 1 of the full model"
_UNITS = {
    "macs": f"{_SHARE}, or an absolute number",
    "params": f"{_SHARE}, or an absolute number",
    "latency": f"{_SHARE}'s",
    "latency_ms": "milliseconds",
}


def _is_number(value) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


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
