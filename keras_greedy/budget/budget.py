"""The limits on the cost of a compact model."""

import dataclasses
import enum
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from keras_greedy.graph.branches import Branches
from keras_greedy.graph.costs import Cost, Costs, Widths
from keras_greedy.graph.file_size import Precision
from keras_greedy.latency.table import LatencyTable
from tflite_export.checks import check_number, is_number

# Maps `Widths` to a `Cost`; without an argument it gives the full model's.
CostFunction: TypeAlias = Callable[..., Cost]

_SHARE = "a fraction up to 1 of the full model"
_MEANINGS = {
    "macs": f"{_SHARE}, or an absolute number",
    "params": f"{_SHARE}, or an absolute number",
    "latency": f"{_SHARE}'s",
    "latency_ms": "milliseconds",
    "file_bytes": "a fraction up to 1 of the float32 file, or an absolute number",
}

KINDS = ("int8", "int4")
"""The integers that weights can be stored in."""


SHORT = 0.02
"""So much of the full cost may be left of a budget without a word."""


class Unit(enum.Enum):
    """The units that costs are counted in."""

    MACS = "MACs"
    PARAMETERS = "parameters"
    MILLISECONDS = "ms"
    BYTES = "bytes"


@dataclasses.dataclass(frozen=True)
class Limit:
    """An upper bound on one cost of the compact model.

    Attributes:
        cost: The cost as a function of the widths.
        most: The bound, an absolute number.
        unit: The unit of both.
    """

    cost: CostFunction
    most: float
    unit: Unit

    def holds(self, widths: Widths) -> Any:
        """Returns whether these widths keep within the bound.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            A bool, or an array of them when a width is an array.
        """
        return self.cost(widths) <= self.most

    def unused(self, widths: Widths) -> Any:
        """Returns how much of the bound is not used, as a share of the full cost.

        Args:
            widths: As for `holds`.

        Returns:
            A float, or an array of them.
        """
        full = self.cost()
        return (min(self.most, full) - self.cost(widths)) / full


@dataclasses.dataclass(frozen=True)
class Budget:
    """The cost that the compact model may have.

    Attributes:
        macs: Multiply-accumulates: a fraction of the full model's when at most 1,
            else an absolute number. `None` for no limit.
        params: Parameters, likewise.
        round_to: Widths are multiples of this (or the group's full size).
        latency: Measured time of an inference, as a fraction of the full model's.
        latency_ms: Likewise in milliseconds.
        table: Where the latencies are from: `measure_latencies` or a file. By default
            they are measured here, once for each `search`, in one thread.
        remove_branches: Whether a residual branch may go as a whole, where that costs
            the least; a constant is added in its place.
        file_bytes: Size of the `.tflite` file: a fraction of the float32 file's when at
            most 1, else a number of bytes. It is predicted.
        precision: The integers that kernels may be stored in, `("int8",)` or `("int8",
            "int4")`: the bits of each layer are chosen with the widths, and kernels of
            4 bits are rounded so that their layer's output changes least. Layers that
            have no operation of int4, as depthwise ones, are of int8. By default
            weights are of float32. Latencies remain those of float32.

    Raises:
        ValueError: When a limit is not positive, none is given, `round_to < 1`,
            `remove_branches` is no bool, `table` is none, or is one without a limit
            on latency, or `precision` is not as described, or without `file_bytes`.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    images = np.random.default_rng(0).random((32, 8, 8, 3))
    budget = keras_greedy.Budget(macs=0.5, params=0.6)
    compact = keras_greedy.prune(model, images, budget)
    print(keras_greedy.macs(compact) / keras_greedy.macs(model))
    ```
    """

    macs: float | None = None
    params: float | None = None
    round_to: int = 8
    latency: float | None = None
    latency_ms: float | None = None
    table: LatencyTable | None = None
    remove_branches: bool = False
    file_bytes: float | None = None
    precision: Precision | None = None

    def __post_init__(self) -> None:
        self._check_limits()
        self._check_table()
        self._check_precision()
        # A whole number written as a float is fine.
        rounds = is_number(self.round_to) and self.round_to >= 1
        rounds = rounds and self.round_to % 1 == 0
        check_number("round_to", self.round_to, "a positive integer", rounds)
        if not isinstance(self.remove_branches, bool):
            raise ValueError(
                "Expected the budget's `remove_branches` to be True or False. "
                f"Received: {self.remove_branches!r}"
            )

    def _check_limits(self) -> None:
        limits = {name: getattr(self, name) for name in _MEANINGS}
        if all(limit is None for limit in limits.values()):
            raise ValueError(
                "Expected `budget` to limit macs or params, latency or latency_ms, or "
                "file_bytes. Received none."
            )
        for name, limit in limits.items():
            if limit is not None and not (is_number(limit) and 0 < limit < math.inf):
                raise ValueError(
                    f"Expected the budget's `{name}` to be positive: "
                    f"{_MEANINGS[name]}, and finite. Received: {limit!r}"
                )
        if self.latency is not None and self.latency > 1:
            raise ValueError(
                f"Expected the budget's `latency` to be {_MEANINGS['latency']}; the "
                "time in milliseconds is `latency_ms`. "
                f"Received: {self.latency!r}"
            )

    def _check_table(self) -> None:
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

    def _check_precision(self) -> None:
        if self.precision is None:
            return
        is_row = isinstance(self.precision, (tuple, list))
        kinds = set(self.precision) if is_row else set()
        if "int8" not in kinds or not kinds <= {*KINDS}:
            raise ValueError(
                'Expected the budget\'s `precision` to be ("int8",) or ("int8", '
                f'"int4"), or None for float32. Received: {self.precision!r}'
            )
        if self.file_bytes is None:
            raise ValueError(
                "Expected the budget's `precision` with `file_bytes`, which it is "
                f"chosen for. Received: precision={self.precision!r} without"
            )
        # Budgets are keys of dicts.
        object.__setattr__(self, "precision", tuple(self.precision))

    @property
    def may_have_four_bits(self) -> bool:
        """Whether kernels may be stored in 4 bits."""
        return self.precision is not None and "int4" in self.precision

    @property
    def limits_latency(self) -> bool:
        """Whether `latency` or `latency_ms` is given."""
        return self.latency is not None or self.latency_ms is not None

    @classmethod
    def of(cls, budget: "Budget | float") -> "Budget":
        """Returns a `Budget` as it is, and a number as a limit on MACs.

        Args:
            budget: The value that the caller of `prune` gave.

        Raises:
            ValueError: When it is neither.
        """
        if isinstance(budget, Budget):
            return budget
        if not is_number(budget):
            raise ValueError(
                "Expected `budget` to be a number or a keras_greedy.Budget. "
                f"Received: budget={budget!r} of type {type(budget).__name__}"
            )
        return cls(macs=budget)

    def limits(self, costs: Costs) -> list[Limit]:
        """Returns the limits that are given, as absolute numbers.

        Args:
            costs: The costs of the model's graph.

        Raises:
            ValueError: When the latency is limited and there is no `table`.
        """
        limits = []
        if self.macs is not None:
            most = _absolute(self.macs, costs.macs)
            limits.append(Limit(costs.macs, most, Unit.MACS))
        if self.params is not None:
            most = _absolute(self.params, costs.params)
            limits.append(Limit(costs.params, most, Unit.PARAMETERS))
        if self.file_bytes is not None:
            most = _absolute(self.file_bytes, costs.file_bytes)
            cost = functools.partial(costs.file_bytes, precision=self.precision)
            limits.append(Limit(cost, most, Unit.BYTES))
        if self.limits_latency:
            limits.extend(self._latency_limits(costs.branches))
        return limits

    def _latency_limits(self, branches: Branches) -> list[Limit]:
        table = self.table
        if table is None:
            raise ValueError(
                "Expected a budget of latency to have a `table`: a search that was "
                "loaded from a file does not tell the device. Measure one here by "
                "`table = keras_greedy.measure_latencies(model)`, or load the one of "
                "the device, and give it: `Budget(latency=0.5, table=table)`. "
                f"Received: {self}"
            )

        def cost(widths: Widths | None = None) -> Cost:
            return table.ms(branches.settled(widths or {}))

        limits = []
        if self.latency is not None:
            limits.append(Limit(cost, self.latency * cost(), Unit.MILLISECONDS))
        if self.latency_ms is not None:
            limits.append(Limit(cost, self.latency_ms, Unit.MILLISECONDS))
        return limits

    def widths_of(
        self,
        size: int,
        may_go: bool = False,
        entries: int = 1,
    ) -> list[int]:
        """Returns the widths a group of this size may be cut to, increasing.

        Args:
            size: The group's number of channels; the last of the widths.
            may_go: Whether it may have no channels, as the branch that it ends may go.
            entries: How wide each channel is, as the features of a head: a multiple of
                `round_to` of them is to be left.
        """
        round_to = int(self.round_to)
        step = round_to // math.gcd(round_to, entries)
        least = 0 if may_go and self.remove_branches else step
        return [*range(least, size, step), size]


def shortest(limits: Sequence[Limit], widths: Widths) -> Any:
    """Returns how much the limit that is used most leaves, as `Limit.unused`.

    Args:
        limits: Of a budget.
        widths: As for `Limit.holds`.
    """
    unused = limits[0].unused(widths)
    for limit in limits[1:]:
        unused = np.minimum(unused, limit.unused(widths))
    return unused


def _absolute(limit: float, cost: CostFunction) -> float:
    """Returns a limit as a number; up to 1 it is a fraction of the full cost."""
    return limit * cost() if limit <= 1 else limit
