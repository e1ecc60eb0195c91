"""The widths of a budget; those of a latency budget are tried out."""

import dataclasses
import logging
import tempfile
from pathlib import Path

import numpy as np

from keras_greedy.budget.allocate import allocate
from keras_greedy.budget.budget import Budget
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.latency.measure import export
from keras_greedy.latency.table import LatencyTable
from keras_greedy.latency.timer import Timer, time_files
from keras_greedy.report import Change
from keras_greedy.selection.cut import costs_of_cuts
from tflite_export.user_warnings import warn_user

# A latency that is off by no more than this share counts as the one asked for.
TOLERANCE = 0.03
# Each takes the building, export and timing of a model.
CORRECTIONS = 2
# Bounds of the corrected saving. A table that promises nearly nothing is no measure of
# the error, and noise may hide a saving altogether: a table without any could not
# meet a budget.
LEAST_PROMISE = 0.01
LEAST_FACTOR = 0.1


@dataclasses.dataclass(frozen=True)
class Allocation:
    """The widths of a model under a budget.

    Attributes:
        widths: Group name -> how many channels it keeps.
        bits: Layer name -> the bits of its kernel, of those that could have 4; empty
            for a budget without `precision`.
        predicted_ms: The latency by the budget's table, if it has one.
        measured_ms: The same as measured, if the table has a timer.
    """

    widths: dict[str, int]
    bits: dict[str, int] = dataclasses.field(default_factory=dict)
    predicted_ms: Change | None = None
    measured_ms: Change | None = None


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Widths of which the compact model was built and timed.

    Attributes:
        widths: Group name -> width.
        bits: Layer name -> bits of its kernel.
        predicted: Latency by the table, of the full and the compact model.
        measured: The same as measured.
    """

    widths: dict[str, int]
    bits: dict[str, int]
    predicted: Change
    measured: Change

    def error(self, budget: Budget) -> float:
        """Returns how far the measured latency is from the predicted, as a share."""
        if budget.latency_ms is not None:
            return abs(self.measured.after / self.predicted.after - 1)
        # A share of the full model's latency is asked for. In the ratio, a machine
        # that is slower than when the table was measured makes no difference.
        return abs(self.measured.kept / self.predicted.kept - 1)


def allocate_and_measure(
    curves: dict[str, np.ndarray],
    budget: Budget,
    graph: ChannelGraph,
) -> Allocation:
    """Allocates widths; with a timer at hand, measures their latency and corrects.

    The full and the compact model are timed in turns. Where the latency is not within
    3 % of the predicted one, the saving that the table promises is multiplied by
    measured / promised saving, and the widths are allocated anew, twice at most. The
    trial that was predicted best is the result.

    Args:
        curves: As for `allocate`.
        budget: With a table, if it limits the latency.
        graph: The graph of the full model.

    Returns:
        The `Allocation`.

    Raises:
        ValueError: When the budget cannot be met.
    """
    costs = costs_of_cuts(graph)
    widths, bits = _allocated(curves, budget, graph, costs)
    table = budget.table
    if table is None:
        return Allocation(widths, bits)
    timer = table.timer
    if timer is None or widths == graph.widths:
        return Allocation(widths, bits, _predicted(table, widths))

    trials = [_tried(widths, bits, table, timer, graph)]
    while len(trials) <= CORRECTIONS and trials[-1].error(budget) > TOLERANCE:
        table = _corrected(table, trials[-1])
        budget = dataclasses.replace(budget, table=table)
        try:
            widths, bits = _allocated(curves, budget, graph, costs)
        except ValueError:
            # By the corrected table the budget is out of reach: the trials so far are
            # the closest.
            break
        trials.append(_tried(widths, bits, table, timer, graph))
    best = min(trials, key=lambda trial: trial.error(budget))
    _warn_of_a_miss(best.measured, budget)
    return Allocation(best.widths, best.bits, best.predicted, best.measured)


def _allocated(
    curves: dict[str, np.ndarray],
    budget: Budget,
    graph: ChannelGraph,
    costs: Costs,
) -> tuple[dict[str, int], dict[str, int]]:
    """Returns the widths of the groups, and the bits of the kernels, by their names."""
    chosen = allocate(curves, budget, costs)
    bits = {}
    for name, layer in costs.bits.items():
        if name in chosen:
            bits[layer] = chosen.pop(name)
    return graph.branches.settled(chosen), bits


def _predicted(table: LatencyTable, widths: dict[str, int]) -> Change:
    return Change(table.full_ms, table.ms(widths))


def _tried(
    widths: dict[str, int],
    bits: dict[str, int],
    table: LatencyTable,
    timer: Timer,
    graph: ChannelGraph,
) -> _Trial:
    """Builds, exports and times the model of these widths."""
    # Times depend on the number of channels only, so the first ones will do.
    selection = {}
    for name, width in widths.items():
        selection[name] = np.arange(width)
    compact = rebuild(graph, selection)
    with tempfile.TemporaryDirectory() as folder:
        full_file = Path(folder) / "full.tflite"
        compact_file = Path(folder) / "compact.tflite"
        files = [
            export(graph.model, full_file),
            export(compact, compact_file),
        ]
        before, after = time_files(timer, files).tolist()
    trial = _Trial(
        widths=widths,
        bits=bits,
        predicted=_predicted(table, widths),
        measured=Change(before, after),
    )
    logging.getLogger("keras_greedy").info(
        "latency %.3f ms (%.1f %% of the full model's), predicted %.3f ms (%.1f %%)",
        trial.measured.after,
        100 * trial.measured.kept,
        trial.predicted.after,
        100 * trial.predicted.kept,
    )
    return trial


def _corrected(table: LatencyTable, trial: _Trial) -> LatencyTable:
    """Returns the table with the full latency and the saving that were measured."""
    promised = max(1 - trial.predicted.kept, LEAST_PROMISE)
    saved = 1 - trial.measured.kept
    factor = max(saved / promised, LEAST_FACTOR)
    return dataclasses.replace(
        table,
        full_ms=trial.measured.before,
        # The table's saving may be a corrected one: factors multiply.
        saving=factor * table.saving,
    )


def _warn_of_a_miss(measured: Change, budget: Budget) -> None:
    limits = (
        ("latency", measured.kept, budget.latency),
        ("latency_ms", measured.after, budget.latency_ms),
    )
    for name, value, limit in limits:
        if limit is not None and value > (1 + TOLERANCE) * limit:
            warn_user(
                f"The compact model misses the budget's {name}={limit:g}, measured: "
                f"{value:.3g}. Ask for less, or try again on a machine that does "
                "nothing else."
            )
