"""The hallway: from a model and data to the paths of a search, and a compact model."""

import dataclasses
import itertools
import numbers
from collections.abc import Iterator

import keras
import numpy as np

from keras_greedy.batches import Batches
from keras_greedy.budget.allocate import check_reachable
from keras_greedy.budget.budget import Budget
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.fold import folded
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import trace
from keras_greedy.latency.measure import measure_latencies
from keras_greedy.paths import SelectionPaths
from keras_greedy.policies import PruningPolicy, allowed
from keras_greedy.progress import Progress
from keras_greedy.selection.measured import measure, widths_to_measure
from keras_greedy.selection.methods import Imitation, OutputSearch, method_of
from keras_greedy.selection.moments import observe
from keras_greedy.selection.output.layer_by_layer import (
    ToTolerance,
    ToWidths,
    prune_layer_by_layer,
)
from keras_greedy.selection.output.objectives import HELD, held_apart
from keras_greedy.selection.steps import STEP_RULES
from keras_greedy.training.finetune import FineTune

IMAGES_MEASURED = {"local": 16}
WIDTHS_MEASURED = {"local": 2}


def prune(
    model: keras.Model,
    data,
    budget=None,
    *,
    objective: str = "global",
    step: str = "corrective",
    tolerance: float | None = None,
    policy: PruningPolicy | None = None,
    candidates: int | str | None = None,
    channels_per_step: int = 1,
    finetune: FineTune | None = None,
    finetune_per_layer: FineTune | None = None,
    validation_data=None,
    seed: int = 0,
    verbose="auto",
) -> keras.Model:
    """Returns a smaller ordinary Keras model that computes nearly the same.

    Channels are chosen by greedy forward selection, the layers that read them make
    up for what is gone, and BatchNorm statistics are measured anew. `model` itself
    is not changed.

    With `objective="local"` or `"global"` (Ye et al., NeurIPS 2020) one search gives
    every group's path; it takes a few forward passes over the data. With `"loss"`
    (Ye et al., ICML 2020) and `"divergence"` groups are pruned one after the other,
    each search on top of the groups already pruned, and the whole network behind
    the group is evaluated at each step: minutes to hours.

    Args:
        model: A built Functional or Sequential model, channels last.
        data: Calibration data, a few hundred examples; labels are not needed.
            Arrays, an `(x, y)` pair of arrays, `tf.data.Dataset`, `PyDataset`, or
            any iterable of `x` or `(x, y)` batches.
        budget: Share of the multiply-accumulates to keep (up to 1), an absolute
            number of them, or a `Budget`, which may be of measured latency; by
            default half.
        objective: What a channel is to help with. `"local"`: the output of the
            layers that read it stays as it is. `"global"`: likewise, each error
            weighed by what the network's output makes of it. `"best"`: for each
            group the one of these two that changes the output less. `"loss"`: the
            training loss of the whole network is low; needs labels.
            `"divergence"`: the network answers as the full one does.
        step: What weights the channels get. `"corrective"`: after each addition the
            least-squares optimum (not for `"loss"` and `"divergence"`).
            `"uniform"`: the same for each pick. `"line_search"`: each step's size is
            chosen with the channel.
        tolerance: Instead of a budget, with `objective="loss"`: each group gets
            channels, in eights, until no more than this share of the top-1 is lost
            on a fifth of `data` that is held apart.
        policy: Which groups may be pruned, as `PruneForLatencyOnXNNPack()`; by default
            all.
        candidates: For `"loss"` and `"divergence"`, the channels evaluated at each
            step: a number drawn at random (50 in the paper), `"all"`, or
            `"screened"` (the default): the best of all by their gradient, and some
            at random.
        channels_per_step: For `"loss"` and `"divergence"`, how many of them to add.
        finetune: How to train the compact model afterwards; not at all if `None`.
        finetune_per_layer: For `"loss"` and `"divergence"`, how to train after each
            group.
        validation_data: Passed to `fit` while fine-tuning.
        seed: Of everything random in the search, which is a function of it; the
            training of `finetune` follows Keras' own seeds.
        verbose: `"auto"` or 1 for progress bars, 2 for a line per stage, 0 for
            silence.

    Returns:
        A Sequential for a Sequential, else a functional `keras.Model`, compiled
        as `model` is.

    Raises:
        ValueError: When an argument is not as described, before any long work.

    Example:

    ```python
    compact = keras_greedy.prune(model, images, budget=0.5)
    compact.save("compact.keras")
    as_published = keras_greedy.prune(
        model, (images, labels), objective="loss", step="uniform", candidates=50
    )
    ```
    """
    method = method_of(objective, step, candidates, channels_per_step, seed)
    budget = _checked_budget(budget, tolerance, method)
    progress, graph = Progress(verbose), allowed(trace(model), policy)
    _check_prunable(graph)
    data = list(data) if isinstance(data, Iterator) else data
    Batches(data, graph.functional)  # Raises when the data do not fit.
    _check_finetune("finetune", finetune, data, model)
    _check_finetune("finetune_per_layer", finetune_per_layer, data, model)
    _check_per_layer(finetune_per_layer, method)
    if budget is not None:
        budget = _with_table(budget, model, verbose)
        check_reachable(budget, Costs(graph), graph.widths)
    if isinstance(method, OutputSearch):
        compact = _prune_by_output(
            graph, data, method, budget, tolerance, finetune_per_layer, progress
        )
    else:
        compact = _search(graph, data, method, progress).compact(budget)
    if finetune is not None:
        finetune.apply(
            compact, model, data, validation_data=validation_data, verbose=verbose
        )
    return compact


def search(
    model: keras.Model,
    data,
    *,
    objective: str = "global",
    step: str = "corrective",
    policy: PruningPolicy | None = None,
    candidates: int | str | None = None,
    channels_per_step: int = 1,
    seed: int = 0,
    verbose="auto",
) -> SelectionPaths:
    """Searches once; the result gives the compact model of any budget.

    Args:
        model: As for `prune`.
        data: As for `prune`.
        objective: As for `prune`. With `"loss"` and `"divergence"` each group is
            searched with all others whole, so that the paths are good for every
            budget.
        step: As for `prune`.
        policy: As for `prune`.
        candidates: As for `prune`.
        channels_per_step: As for `prune`.
        seed: As for `prune`.
        verbose: As for `prune`.

    Returns:
        The `SelectionPaths`.

    Example:

    ```python
    paths = keras_greedy.search(model, images)
    half, third = paths.compact(0.5), paths.compact(0.33)
    ```
    """
    method = method_of(objective, step, candidates, channels_per_step, seed)
    progress, graph = Progress(verbose), allowed(trace(model), policy)
    _check_prunable(graph)
    data = list(data) if isinstance(data, Iterator) else data
    return _search(graph, data, method, progress)


def _search(graph: ChannelGraph, data, method, progress) -> SelectionPaths:
    batches = Batches(data, graph.functional)
    method.check(graph.model, data)
    images = IMAGES_MEASURED.get(method.objective, 64)
    count = WIDTHS_MEASURED.get(method.objective, 5)
    inference = folded(graph)
    everything = progress.over(batches, "Observing what each layer reads")
    apart, others = observe(inference, everything, method.seed, images)
    moments = apart.merge(others)
    widths = {g.name: widths_to_measure(g.size, count, 8) for g in graph.groups}
    # An overfitted reconstruction shows only on examples it has not seen.
    unseen = others if others.examples >= apart.examples else moments
    reconstruct, found = STEP_RULES[method.step].reconstruct, []
    for paths in method.alternatives(inference, data, moments, progress):
        few = batches.take(images)
        few = progress.over(few, "Measuring each group's cut", -(-images // 32))
        divergence = measure(inference, unseen, paths, few, widths, reconstruct)
        found.append({name: (paths[name], divergence[name]) for name in paths})
    best = {name: min((f[name] for f in found), key=_mean_log) for name in found[0]}
    paths, divergence = ({n: pair[i] for n, pair in best.items()} for i in (0, 1))
    return SelectionPaths(graph, moments, paths, divergence, method.step, batches)


def _mean_log(path_and_divergence) -> float:
    """What [NeurIPS] compares local and global imitation of a layer by, measured."""
    values = path_and_divergence[1].values
    return float(np.log(np.maximum(values, 0) + 1e-12).mean()) if len(values) else 0.0


def _prune_by_output(graph, data, method, budget, tolerance, finetune, progress):
    """Layer by layer; the widths of a budget are those of a local imitation."""
    against, names = method.held_against(graph.model, data), list(graph.widths)
    if tolerance is None:
        quick = Imitation("local", method.step, method.seed)
        widths = _search(graph, data, quick, progress).widths(budget)
        names = [name for name in names if widths[name] < graph.widths[name]]
        stop = ToWidths(widths)
    else:
        _check_classifier(graph)
        _check_can_hold_apart(Batches(data, graph.functional))
        against, held = held_apart(against)
        stop = ToTolerance(tolerance, held)
    names = progress.over(names, "Pruning layer by layer", len(names))
    return prune_layer_by_layer(
        graph.model, data, method, against, stop, finetune, names
    )


def _checked_budget(budget, tolerance, method) -> Budget | None:
    if tolerance is None:
        return Budget.of(0.5 if budget is None else budget)
    if budget is not None:
        raise ValueError(
            "Expected either `budget` or `tolerance`: each says when to stop. "
            f"Received: budget={budget!r}, tolerance={tolerance!r}"
        )
    if not isinstance(method, OutputSearch) or method.objective != "loss":
        raise ValueError(
            "Expected `tolerance` with objective='loss', which has the labels that "
            f"top-1 is of. Received: objective={method.objective!r}"
        )
    is_number = isinstance(tolerance, numbers.Real) and not isinstance(tolerance, bool)
    if not is_number or not 0 <= tolerance < 1:
        raise ValueError(
            "Expected `tolerance` to be the share of top-1 that a layer may lose, "
            f"from 0 to 1. Received: tolerance={tolerance!r}"
        )
    return None


def _with_table(budget: Budget, model, verbose) -> Budget:
    if not budget.limits_latency or budget.table is not None:
        return budget
    return dataclasses.replace(budget, table=measure_latencies(model, verbose=verbose))


def _check_finetune(name, finetune, data, model):
    if finetune is None:
        return
    if not isinstance(finetune, FineTune):
        raise ValueError(
            f"Expected `{name}` to be a keras_greedy.FineTune or None. "
            f"Received: {name}={finetune!r}"
        )
    finetune.check(data, model)


def _check_per_layer(finetune, method):
    if finetune is not None and not isinstance(method, OutputSearch):
        raise ValueError(
            "Expected `finetune_per_layer` with an objective that prunes layer by "
            "layer, 'loss' or 'divergence'. Received: finetune_per_layer="
            f"{finetune!r} with objective={method.objective!r}"
        )


def _check_classifier(graph: ChannelGraph):
    kinds = [output.kind for output in outputs_of(graph)]
    if len(kinds) > 1 or kinds == ["real"]:
        raise ValueError(
            "Expected `tolerance` with a classifier, of one output that is a softmax, "
            "a sigmoid, or logits by its compiled loss. Received: a model with "
            f"outputs of the kind {kinds}"
        )


def _check_can_hold_apart(batches: Batches):
    if len(batches.first[0]) < HELD:
        raise ValueError(
            f"Expected `data` to hold at least {HELD} examples for `tolerance`, which "
            f"holds a part of them apart. Received: {len(batches.first[0])}"
        )


def _check_prunable(graph: ChannelGraph):
    Costs(graph)  # Raises when they cannot be counted.
    check_has_groups(graph)


def check_has_groups(graph: ChannelGraph) -> None:
    """Raises a ValueError when there is nothing to prune."""
    if not graph.groups:
        reasons = "; ".join(itertools.starmap("{}: {}".format, graph.unprunable))
        raise ValueError(
            "Expected `model` to have channels that can be pruned: a layer whose "
            "channels only other layers read. Received: a model with none. "
            + (f"Kept whole: {reasons}" if reasons else "")
        )
