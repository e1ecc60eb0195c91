"""The stages of the hallway: observe, select, measure, allocate and rebuild.

They take checked arguments; `pipeline` is the door.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from keras_greedy.batches import BATCH_SIZE, Arrays, Batches
from keras_greedy.budget import Budget, asked_and_kept
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.file_size import BITS
from keras_greedy.graph.fold import folded
from keras_greedy.paths import SelectionPaths
from keras_greedy.processes import share_of
from keras_greedy.progress import Progress
from keras_greedy.records import NO_RECORDS, Records
from keras_greedy.selection.cut import costs_of_cuts
from keras_greedy.selection.divergence import Divergence, widths_to_measure
from keras_greedy.selection.expanded import ExpandedMeasurement
from keras_greedy.selection.measured import Measurement
from keras_greedy.selection.methods import Imitation, LossSearch, Method
from keras_greedy.selection.moments import Observed, half_unseen, observe
from keras_greedy.selection.output.layer_by_layer import (
    ToTolerance,
    ToWidths,
    prune_layer_by_layer,
)
from keras_greedy.selection.output.objectives import held_apart
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.steps import STEP_RULES

# A local search is to cost about two forward passes: it measures less.
IMAGES_MEASURED = 64
IMAGES_MEASURED_LOCAL = 16
WIDTHS_MEASURED = 5
WIDTHS_MEASURED_LOCAL = 2

ROUND_TO = 8
"""Widths are measured at multiples of this, as budgets round to by default."""

LAYER_BY_LAYER = "Pruning layer by layer"

LEAST_DIVERGENCE = 1e-12
"""Added before a logarithm: a cut may cost nothing."""


def search_graph(
    graph: ChannelGraph,
    batches: Batches,
    method: Method,
    seed: int,
    progress: Progress,
    records: Records = NO_RECORDS,
) -> SelectionPaths:
    """Searches the groups of a traced model, all arguments being checked.

    Args:
        graph: The traced model.
        batches: The calibration data.
        method: How channels are selected.
        seed: Of everything random.
        progress: Shows the stages.
        records: Keep what each stage finds, and have what it found before.
    """
    is_local = method.objective == "local"
    images = share_of(IMAGES_MEASURED_LOCAL if is_local else IMAGES_MEASURED)
    batches, images = half_unseen(batches, images)
    count = WIDTHS_MEASURED_LOCAL if is_local else WIDTHS_MEASURED
    inference = folded(graph)
    all_batches = progress.over(batches, "Observing what each layer reads")
    with records.open_own("moments") as record:
        found_here = observe(inference, all_batches, seed, images, record)
    observed = Observed(*[moments.over_processes() for moments in found_here])
    del found_here
    widths = {}
    for group in graph.groups:
        widths[group.name] = widths_to_measure(group.size, count, ROUND_TO)
        if group.name in graph.branches.ends:
            widths[group.name] = np.append(0, widths[group.name])
    reconstruct = STEP_RULES[method.step].reconstruct
    alternatives = method.alternatives(
        inference, batches, observed.all, seed, progress, records
    )
    given = (inference, observed.unseen, reconstruct)
    measurement: Measurement
    if isinstance(method, Imitation) and method.divergence == "expanded":
        measurement = ExpandedMeasurement(*given, seed)
    else:
        measurement = Measurement(*given)
    few = list(batches.take(images))
    shown = functools.partial(
        progress.over, title="Measuring each group's cut", target=len(widths)
    )
    found = []
    for number, paths in enumerate(alternatives):
        with records.open_own(f"divergences-{number}") as record:
            divergences = measurement.at(widths, paths, few, shown, record)
        found.append((paths, divergences))
    best_paths = {}
    best_divergences = {}
    for name in graph.widths:
        # [NeurIPS] compares local and global imitation of a layer; here as measured.
        prices = [_mean_log(divergences[name]) for _, divergences in found]
        paths, divergences = found[int(np.argmin(prices))]
        best_paths[name] = paths[name]
        best_divergences[name] = divergences[name]
    if _doubts(measurement, best_paths, best_divergences, count):
        rounds = _settled(
            measurement, best_paths, best_divergences, few, count, records
        )
        for _ in progress.over(rounds, "Measuring where cuts begin to cost"):
            pass
    del measurement  # It holds a part of the moments.
    return SelectionPaths(
        graph,
        observed.whole(),
        best_paths,
        best_divergences,
        method.step,
        batches.of_size(BATCH_SIZE),
    )


def _doubts(
    measurement: Measurement,
    paths: Mapping[str, SelectionPath],
    divergences: Mapping[str, Divergence],
    count: int,
) -> dict[str, np.ndarray]:
    """Returns the widths to measure next of each group that is in doubt."""
    doubts = {}
    for name, path in paths.items():
        at_once = measurement.looks_at_once
        known = divergences[name]
        widths = known.widths_in_doubt(path.errors, count, ROUND_TO, at_once)
        if len(widths):
            doubts[name] = widths
    return doubts


def _settled(
    measurement: Measurement,
    paths: Mapping[str, SelectionPath],
    divergences: dict[str, Divergence],
    batches: list[Arrays],
    count: int,
    records: Records,
) -> Iterator[None]:
    """Measures more widths, in place, until no group is in doubt; yields each time."""
    for number in itertools.count():
        doubts = _doubts(measurement, paths, divergences, count)
        if not doubts:
            return
        with records.open_own(f"doubts-{number}") as record:
            measured = measurement.at(doubts, paths, batches, iter, record)
        for name, more in measured.items():
            divergences[name] = divergences[name].with_more(more)
        yield


def _mean_log(divergence: Divergence) -> float:
    """Returns the mean of the logarithms: widths of very unlike divergence count alike.

    That of a group too small to be measured is 0.
    """
    if not len(divergence.values):
        return 0.0
    values = np.maximum(divergence.values, 0) + LEAST_DIVERGENCE
    return float(np.log(values).mean())


def prune_to_budget(
    graph: ChannelGraph,
    batches: Batches,
    method: Method,
    budget: Budget,
    seed: int,
    progress: Progress,
    records: Records,
) -> tuple[keras.Model, dict[str, int]]:
    """Returns the compact model of a budget, and the bits that its kernels may have.

    Kernels are not rounded yet.

    Args:
        graph: As for `search_graph`.
        batches: As for `search_graph`.
        method: As for `search_graph`.
        budget: A budget that can be met, with a table if it limits the latency.
        seed: As for `search_graph`.
        progress: As for `search_graph`.
        records: As for `search_graph`.
    """
    if isinstance(method, Imitation):
        paths = search_graph(graph, batches, method, seed, progress, records)
        compact = paths.unrounded(budget, batches)
        widths = paths.widths(budget)
        bits = paths.bits(budget)
    else:
        # The output objectives prune layer by layer and say nothing of the widths:
        # those are the widths of a quick local imitation.
        local = Imitation("local", method.step)
        paths = search_graph(graph, batches, local, seed, progress, records)
        with records.open("widths") as record:
            # A budget of latency, measured again, would give others.
            widths = record.of("widths", paths.widths, budget)
        with records.open("bits") as record:
            bits = record.of("bits", paths.bits, budget)
        names = [own.name for own in graph.groups if widths[own.name] < own.size]
        compact = prune_layer_by_layer(
            graph.model,
            batches,
            method,
            method.objective_on(graph.model, batches),
            ToWidths(widths),
            progress.over(names, LAYER_BY_LAYER, len(names)),
            seed,
            records,
        )
    costs = costs_of_cuts(graph)
    for name, layer in costs.bits.items():
        widths[name] = bits.get(layer, BITS)
    line = asked_and_kept(budget, costs, widths)
    if line is not None:
        progress.say(line)
    return compact, bits


def prune_to_tolerance(
    graph: ChannelGraph,
    batches: Batches,
    method: Method,
    seed: int,
    progress: Progress,
    records: Records,
) -> keras.Model:
    """Returns the compact model of a `LossSearch` with a tolerance.

    Arguments are those of `search_graph`; the model is a classifier.
    """
    assert isinstance(method, LossSearch)  # No other method has a tolerance.
    assert method.tolerance is not None
    searched, held = held_apart(method.objective_on(graph.model, batches))
    return prune_layer_by_layer(
        graph.model,
        batches,
        method,
        searched,
        ToTolerance(method.tolerance, held),
        progress.over(graph.widths, LAYER_BY_LAYER, len(graph.widths)),
        seed,
        records,
    )
