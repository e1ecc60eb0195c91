"""What a compact model may cost."""

import dataclasses

from keras_greedy.graph.costs import Costs
from keras_greedy.latency.table import LatencyTable
from tflite_export.checks import is_number


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
            if limit is not None and not (is_number(limit) and limit > 0):
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
        if not is_number(n := self.round_to) or n < 1 or n % 1:
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
        if not is_number(budget):
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
