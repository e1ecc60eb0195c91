"""The widths of a budget; those of a latency budget are tried out."""

import dataclasses
import logging
import tempfile
import warnings
from pathlib import Path

import numpy as np

from keras_greedy.budget.allocate import allocate
from keras_greedy.budget.budget import Budget
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.latency.measure import export
from keras_greedy.report import Change

TOLERANCE = 0.03
CORRECTIONS = 2


@dataclasses.dataclass(frozen=True)
class Allocation:
    """What a budget makes of a model.

    Attributes:
        widths: Group name -> how many channels it keeps.
        predicted_ms: The latency by the budget's table, if it has one.
        measured_ms: The same as measured, if the table has a timer.
    """

    widths: dict[str, int]
    predicted_ms: Change | None = None
    measured_ms: Change | None = None


def allocate_and_measure(
    curves: dict[str, np.ndarray], budget: Budget, graph: ChannelGraph
) -> Allocation:
    """Allocates; with a timer at hand, measures what comes of it and corrects.

    The full and the compact model are timed in turns. Where the latency is not within
    3 % of the predicted one, the saving that the table promises is multiplied by
    measured / promised saving, and the widths are allocated anew, twice at most. The
    try that was predicted best is the result.

    Args:
        curves: As for `allocate`.
        budget: With a table, if it limits the latency.
        graph: Of the full model.

    Raises:
        ValueError: When the budget cannot be met.
    """
    costs = Costs(graph)
    widths = allocate(curves, budget, costs)
    if budget.table is None:
        return Allocation(widths)
    found = Allocation(widths, _predicted(budget, widths))
    if budget.table.timer is None or widths == graph.widths:
        return found
    tries = [_measured(found, budget, graph)]
    while len(tries) <= CORRECTIONS and _off(tries[-1], budget) > TOLERANCE:
        budget = _corrected(budget, tries[-1])
        try:
            widths = allocate(curves, budget, costs)
        except ValueError:  # By what was measured there is nothing left to cut.
            break
        found = Allocation(widths, _predicted(budget, widths))
        tries.append(_measured(found, budget, graph))
    best = min(tries, key=lambda each: _off(each, budget))
    _warn_of_a_miss(best, budget)
    return best


def _predicted(budget: Budget, widths) -> Change:
    return Change(budget.table.full_ms, budget.table.ms(widths))


def _measured(found: Allocation, budget: Budget, graph: ChannelGraph) -> Allocation:
    selection = {name: np.arange(width) for name, width in found.widths.items()}
    models = (graph.model, rebuild(graph, selection))
    with tempfile.TemporaryDirectory() as folder:
        paths = [export(m, Path(folder) / f"{i}.tflite") for i, m in enumerate(models)]
        measured = Change(*budget.table.timer(paths))
    logging.getLogger("keras_greedy").info(
        "latency %.3f ms (%.1f %% of the full model's), predicted %.3f ms (%.1f %%)",
        *(measured.after, 100 * measured.kept),
        *(found.predicted_ms.after, 100 * found.predicted_ms.kept),
    )
    return dataclasses.replace(found, measured_ms=measured)


def _off(found: Allocation, budget: Budget) -> float:
    """How far from the predicted latency the measured one is, as a share of it."""
    predicted, measured = found.predicted_ms, found.measured_ms
    if budget.latency_ms is None:
        return abs(measured.kept / predicted.kept - 1)
    return abs(measured.after / predicted.after - 1)


def _corrected(budget: Budget, found: Allocation) -> Budget:
    predicted, measured = found.predicted_ms, found.measured_ms
    promised = max(1 - predicted.kept, 0.01)
    # Noise may hide a saving altogether; a table without any could not be met.
    factor = max((1 - measured.kept) / promised, 0.1)
    table = dataclasses.replace(
        budget.table, full_ms=measured.before, saving=factor * budget.table.saving
    )
    return dataclasses.replace(budget, table=table)


def _warn_of_a_miss(found: Allocation, budget: Budget) -> None:
    measured = found.measured_ms
    limits = {"latency": (measured.kept, budget.latency)}
    limits["latency_ms"] = (measured.after, budget.latency_ms)
    for name, (value, limit) in limits.items():
        if limit is not None and value > (1 + TOLERANCE) * limit:
            warnings.warn(
                f"The compact model misses the budget's {name}={limit:g}, measured: "
                f"{value:.3g}. Ask for less, or try again on a machine that does "
                "nothing else.",
                stacklevel=4,
            )
