"""The hallway: from a model and data to the paths of a search, and a compact model."""

import itertools
from collections.abc import Iterator

import keras
import numpy as np

from keras_greedy.batches import Batches
from keras_greedy.finetune import FineTune
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import ChannelGraph, ChannelGroup, trace
from keras_greedy.paths import SelectionPaths
from keras_greedy.progress import Progress
from keras_greedy.selection.allocate import Budget, check_reachable
from keras_greedy.selection.divergence import measure, widths_to_measure
from keras_greedy.selection.greedy import Path, Problem, forward_path
from keras_greedy.selection.moments import Moments, observe
from keras_greedy.selection.reads import reads_of
from keras_greedy.selection.sensitivity import sensitivities
from keras_greedy.selection.weights import regularized

OBJECTIVES = ("global", "local")
STEPS = ("corrective",)
IMAGES_MEASURED = {"global": 64, "local": 16}
WIDTHS_MEASURED = {"global": 5, "local": 2}


def prune(
    model: keras.Model,
    data,
    budget=0.5,
    *,
    objective: str = "global",
    step: str = "corrective",
    finetune: FineTune | None = None,
    validation_data=None,
    seed: int = 0,
    verbose="auto",
) -> keras.Model:
    """Returns a smaller ordinary Keras model that computes nearly the same.

    Channels are chosen by greedy forward selection, the layers that read them get
    the least-squares weights for what is left, and BatchNorm statistics are
    measured anew. `model` itself is not changed.

    Args:
        model: A built Functional or Sequential model, channels last.
        data: Calibration data, a few hundred examples; labels are not needed.
            Arrays, an `(x, y)` pair of arrays, `tf.data.Dataset`, `PyDataset`, or
            any iterable of `x` or `(x, y)` batches.
        budget: Share of the multiply-accumulates to keep (up to 1), an absolute
            number of them, or a `Budget`.
        objective: `"global"` weighs errors by what the network's output makes of
            them, `"local"` (faster) takes each layer's output for itself.
        step: `"corrective"`: after each addition all weights are the optimum.
        finetune: How to train the compact model afterwards; not at all if `None`.
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
    ```
    """
    budget, graph = Budget.of(budget), trace(model)
    _check_prunable(graph)
    check_reachable(budget, Costs(graph), graph.widths)
    data = list(data) if isinstance(data, Iterator) else data
    batches = Batches(data, graph.functional)
    if finetune is not None:
        _check_finetune(finetune)
        finetune.check(data, model)
    paths = _search(graph, batches, objective, step, seed, verbose)
    compact = paths.compact(budget)
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
    seed: int = 0,
    verbose="auto",
) -> SelectionPaths:
    """Searches once; the result gives the compact model of any budget.

    Args:
        model: As for `prune`.
        data: As for `prune`.
        objective: As for `prune`.
        step: As for `prune`.
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
    graph = trace(model)
    _check_prunable(graph)
    batches = Batches(data, graph.functional)
    return _search(graph, batches, objective, step, seed, verbose)


def _search(graph, batches, objective, step, seed, verbose) -> SelectionPaths:
    _check_choice("objective", objective, OBJECTIVES)
    _check_choice("step", step, STEPS)
    progress = Progress(verbose)
    images, count = IMAGES_MEASURED[objective], WIDTHS_MEASURED[objective]
    inference = folded(graph)
    everything = progress.over(batches, "Observing what each layer reads")
    apart, others = observe(inference, everything, seed, images)
    moments, weights = apart.merge(others), {}
    if objective == "global":
        few = Batches(batches, graph.functional, batch_size=16).take(images)
        few = progress.over(few, "Weighing what the output cares for", images // 16)
        weights = sensitivities(inference, few, seed)
    groups = progress.over(inference.groups, "Selecting channels", len(graph.groups))
    reads = reads_of(inference)
    paths = {g.name: _path(g, reads, moments, weights) for g in groups}
    few = batches.take(images)
    few = progress.over(few, "Measuring each group's cut", -(-images // 32))
    widths = {g.name: widths_to_measure(g.size, count, 8) for g in graph.groups}
    # An overfitted reconstruction shows only on examples it has not seen.
    unseen = others if others.examples >= apart.examples else moments
    divergence = measure(inference, unseen, paths, few, widths)
    return SelectionPaths(graph, moments, paths, divergence, batches)


def _path(group: ChannelGroup, reads, moments: Moments, weights: dict) -> Path:
    """The group's selection path over all its consumers."""
    problems = []
    for name in (call.name for call in group.consumers):
        own = reads[name].features_of(group.channels)
        matrix = reads[name].matrix()[own]
        if name in weights:
            matrix = matrix * np.sqrt(np.tile(weights[name], reads[name].folds))
        covariance = regularized(moments.scatters[name])[np.ix_(own, own)]
        problems.append(Problem(covariance, matrix, group.size))
    return forward_path(problems)


def _check_choice(name, value, accepted):
    if value not in accepted:
        raise ValueError(
            f"Expected `{name}` to be one of {accepted}. Received: {name}={value!r}"
        )


def _check_finetune(finetune):
    if not isinstance(finetune, FineTune):
        raise ValueError(
            "Expected `finetune` to be a keras_greedy.FineTune or None. "
            f"Received: finetune={finetune!r}"
        )


def _check_prunable(graph: ChannelGraph):
    Costs(graph)  # Raises when they cannot be counted.
    if not graph.groups:
        reasons = "; ".join(itertools.starmap("{}: {}".format, graph.unprunable))
        raise ValueError(
            "Expected `model` to have channels that can be pruned: a layer whose "
            "channels only other layers read. Received: a model with none. "
            + (f"Kept whole: {reasons}" if reasons else "")
        )
