"""The hallway: `prune` and `search`, their arguments checked before any long work."""

import dataclasses
from pathlib import Path
from typing import Any

import keras

from keras_greedy.batch_arrays import unpacked
from keras_greedy.batches import Batches, Data
from keras_greedy.budget import Budget, check_reachable
from keras_greedy.checkpoints import checked_folder, kept_in
from keras_greedy.data_forms import first_of, repeatable
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs, warn_of_uncounted
from keras_greedy.graph.model_kinds import is_subclassed
from keras_greedy.graph.outputs import check_answers, check_has_real_output
from keras_greedy.graph.subclassed import are_inputs_of, functional_calling
from keras_greedy.graph.trace import check_channels_last, trace
from keras_greedy.latency import measure_latencies
from keras_greedy.paths import SelectionPaths
from keras_greedy.policies import PruningPolicy, allowed, check_has_groups
from keras_greedy.processes import check_one_process
from keras_greedy.progress import Progress, Verbose
from keras_greedy.scopes import on_devices_of_model
from keras_greedy.selection.cut import costs_of_cuts
from keras_greedy.selection.methods import Imitation, LossSearch, Method, method_of
from keras_greedy.selection.output.layer_by_layer import check_tolerable
from keras_greedy.stages import prune_to_budget, prune_to_tolerance, search_graph
from keras_greedy.strategies import Strategy, on_devices_of_strategy
from keras_greedy.training.compiling import compile_alike, warn_of_own_training
from keras_greedy.training.finetune import FineTune, trainings_of
from keras_greedy.training.fit_data import validation_batches
from keras_greedy.training.interruptions import tune_or_keep
from keras_greedy.training.rounding import round_to_bits
from keras_greedy.training.tasks import (
    has_preprocessor,
    network_of,
    preprocessed,
    tell_of_preprocessor,
)
from tflite_export.checks import check_count
from tflite_export.user_warnings import warn_user

DEFAULT_BUDGET = 0.5


@on_devices_of_strategy
@on_devices_of_model
def prune(
    model: keras.Model,
    data: Data,
    budget: float | Budget | None = None,
    *,
    method: Method | str | None = None,
    objective: str = "global",
    step: str = "corrective",
    tolerance: float | None = None,
    policy: PruningPolicy | None = None,
    finetune: FineTune | bool | None = None,
    validation_data: Data | None = None,
    strategy: Strategy | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    verbose: Verbose = "auto",
    **deprecated: Any,
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
        model: A built model, channels last: a Functional, a Sequential, or one with a
            `call` of its own that can be called on symbolic tensors.
        data: Calibration data, a few hundred examples; labels are not needed.
            Arrays, an `(x, y)` pair of arrays, `tf.data.Dataset`, `PyDataset`, or
            any iterable of `x` or `(x, y)` batches.
        budget: Share of the multiply-accumulates to keep (up to 1), an absolute
            number of them, or a `Budget`, which may be of measured latency; by
            default half.
        method: How channels are selected: an `Imitation`, a `LossSearch` or a
            `DivergenceSearch` with its settings, or an objective by its name.
        objective: The method by its name. `"local"`: the output of the layers that
            read a channel stays as it is. `"global"`: likewise, each error weighed by
            its effect on the network's output. `"best"`: for each group the one of
            these two that changes the output less. `"loss"`: the training loss of the
            whole network is low; needs labels. `"divergence"`: the network answers as
            the full one does.
        step: The rule for the weights of the channels. `"corrective"`: after each
            addition the least-squares optimum (not for `"loss"` and `"divergence"`).
            `"uniform"`: the same for each pick. `"line_search"`: each step's size is
            chosen with the channel.
        tolerance: Instead of a budget, with `objective="loss"`: as of `LossSearch`.
        policy: Which groups may be pruned, as `PruneForLatencyOnXNNPack()`; by default
            all.
        finetune: How to train the compact model afterwards; not at all if `None`.
            `True` trains it as the full model computes, and then on the labels, if
            there are any. About an eighth of the examples, at most some thousand, are
            kept from the search and the training; the weights that are best on them
            are kept, those before the training among them.
        validation_data: The examples that `finetune` is judged on after each epoch,
            instead of a part of `data`; as `data`.
        strategy: The devices to work on, if `model` was not made on them: a
            `tf.distribute.Strategy`, or a `keras.distribution.DataParallel` on JAX.
            `model`, a Functional or Sequential, is copied there.
        checkpoint: A folder to keep the search in as it goes. Stopped at any moment,
            and called again with the same arguments, it goes on from there, to the
            same result bit by bit. With `objective="local"`, `"global"` and `"best"`
            the folder of one search is good for any budget. The training of
            `finetune` begins anew.
        seed: Of everything random in the search, which is a function of it; the
            training of `finetune` follows Keras' own seeds.
        verbose: `"auto"` or 1 for progress bars, 2 for a line per stage, 0 for
            silence.
        **deprecated: `candidates`, `channels_per_step` and `finetune_per_layer`, which
            have become settings of `LossSearch` and `DivergenceSearch`.

    Returns:
        A Sequential for a Sequential, else a functional `keras.Model`, compiled
        as `model` is.

    Raises:
        KeyboardInterrupt: When it is interrupted; with a `checkpoint` all that was
            found is kept, and the error says how to go on.
        OSError: When the `checkpoint` cannot be written; what was kept before stays.
        ValueError: When an argument is not as described, before any long work. So is
            a `checkpoint` that is damaged, or that keeps another search.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(0)
    images, labels = rng.random((64, 16, 16, 3)), rng.integers(0, 4, 64)

    compact = keras_greedy.prune(model, images, budget=0.5)
    compact.save("compact.keras")

    as_published = keras_greedy.LossSearch(step="uniform", candidates=50)
    by_loss = keras_greedy.prune(model, (images, labels), method=as_published)
    ```
    """
    options = _deprecated_options("prune", deprecated)
    method = method_of(method, objective, step, tolerance=tolerance, **options)
    limits = _checked_budget(budget, method)
    # A budget of latency is timed anew each time: as it is asked for, it stays.
    searched_for = None if isinstance(method, Imitation) else (limits or "tolerance")
    folder = checked_folder(checkpoint)
    seed = check_count("seed", seed, minimum=0)
    progress = Progress(verbose)
    validation_data = preprocessed(model, validation_data, "validation_data")
    model, data = _with_graph(model, data)
    graph = _prunable(model, policy)
    batches = Batches(data, graph.functional)
    held = validation_batches(validation_data, graph.functional)
    trainings = trainings_of(finetune, batches)
    check_answers(graph, batches.first)
    # Without reading the data to their end, and without timing: first.
    if limits is None:
        check_tolerable(graph, batches)
    elif not _lacks_table(limits):
        _check_reachable(limits, graph)
    else:
        check_one_process("a budget of latency without a `table`, timed in each")
    for training in trainings:
        training.check(batches, model, held)
    if held is not None and not trainings:
        warn_user(
            "`validation_data` is of use while fine-tuning: give `finetune`, too."
        )
    method.check(model, batches)
    batches.check_ends()
    warn_of_own_training(model)
    if trainings and held is None:
        # Before the search: on examples that it has seen, any training looks worse.
        batches, held = batches.held_apart() or (batches, batches)
    if limits is not None and _lacks_table(limits):
        table = measure_latencies(model, verbose=verbose)
        limits = dataclasses.replace(limits, table=table)
        _check_reachable(limits, graph)
    with kept_in(
        folder, graph, batches, method, seed, searched_for, progress
    ) as records:
        given = (seed, progress, records)
        bits: dict[str, int] = {}
        if limits is None:
            compact = prune_to_tolerance(graph, batches, method, *given)
        else:
            compact, bits = prune_to_budget(graph, batches, method, limits, *given)
    for training in trainings:
        is_to_go_on = tune_or_keep(
            training,
            compact,
            model,
            batches,
            validation_data=held,
            verbose=progress.of_fit,
        )
        if not is_to_go_on:
            break
    # Training moves kernels away from their steps: they are rounded behind it.
    round_to_bits(compact, batches, bits)
    return compact


@on_devices_of_strategy
@on_devices_of_model
def search(
    model: keras.Model,
    data: Data,
    *,
    method: Method | str | None = None,
    objective: str = "global",
    step: str = "corrective",
    policy: PruningPolicy | None = None,
    strategy: Strategy | None = None,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    verbose: Verbose = "auto",
    **deprecated: Any,
) -> SelectionPaths:
    """Searches once; the result gives the compact model of any budget.

    Args:
        model: As for `prune`.
        data: As for `prune`.
        method: As for `prune`. With `LossSearch` and `DivergenceSearch` each group is
            searched with all others whole, so that the paths are good for every
            budget.
        objective: As for `prune`.
        step: As for `prune`.
        policy: As for `prune`.
        strategy: As for `prune`.
        checkpoint: As for `prune`.
        seed: As for `prune`.
        verbose: As for `prune`.
        **deprecated: As for `prune`.

    Returns:
        The `SelectionPaths`.

    Raises:
        KeyboardInterrupt: As for `prune`.
        OSError: As for `prune`.
        ValueError: As for `prune`.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    data = np.random.default_rng(0).normal(size=(64, 10))
    paths = keras_greedy.search(model, data)
    half = paths.compact(0.5)
    third = paths.compact(0.33)
    ```
    """
    options = _deprecated_options("search", deprecated)
    method = method_of(method, objective, step, **options)
    folder = checked_folder(checkpoint)
    seed = check_count("seed", seed, minimum=0)
    progress = Progress(verbose)
    task = model if has_preprocessor(model) else None
    model, data = _with_graph(model, data)
    graph = _prunable(model, policy)
    batches = Batches(data, graph.functional)
    check_answers(graph, batches.first)
    method.check(model, batches)
    batches.check_ends()
    warn_of_own_training(model)
    with kept_in(folder, graph, batches, method, seed, None, progress) as records:
        paths = search_graph(graph, batches, method, seed, progress, records)
    return dataclasses.replace(paths, task=task)


def _deprecated_options(function: str, options: dict[str, Any]) -> dict[str, Any]:
    known = {"candidates", "channels_per_step", "finetune_per_layer"}
    if function == "search":
        known.remove("finetune_per_layer")
    for name in options:
        if name not in known:
            raise TypeError(f"{function}() got an unexpected keyword argument '{name}'")
        message = (
            f"The argument `{name}` of keras_greedy.{function} will go: it is a "
            f"setting of the method, as in method=keras_greedy.LossSearch({name}=...)"
        )
        warn_user(DeprecationWarning(message))
    return options


def _checked_budget(budget: float | Budget | None, method: Method) -> Budget | None:
    """Returns the budget, or `None` where the method's tolerance takes its place."""
    tolerance = method.tolerance if isinstance(method, LossSearch) else None
    if tolerance is None:
        limits = Budget.of(DEFAULT_BUDGET if budget is None else budget)
        if isinstance(method, Imitation):
            return limits
        # Of a group without channels there is nothing to select, layer by layer.
        return dataclasses.replace(limits, remove_branches=False)
    if budget is not None:
        raise ValueError(
            "Expected either `budget` or `tolerance`: each says when to stop. "
            f"Received: budget={budget!r}, tolerance={tolerance!r}"
        )
    return None


def _check_reachable(budget: Budget, graph: ChannelGraph) -> None:
    """Raises a ValueError when the graph's groups cannot meet the budget."""
    costs = costs_of_cuts(graph)
    check_reachable(budget, costs, graph.widths, graph.branches.ends)


def _lacks_table(budget: Budget) -> bool:
    return budget.limits_latency and budget.table is None


def _with_graph(model: keras.Model, data: Data) -> tuple[keras.Model, Data]:
    """Returns a model that computes its graph and nothing else, and data for that.

    The inputs of one with a `call` of its own are as the data; those that can be read
    only once are returned as a list.
    """
    tell_of_preprocessor(model)
    data = preprocessed(model, data)
    model = network_of(model)
    if not is_subclassed(model):
        return model, data
    data = repeatable(data)
    x = data if are_inputs_of(model, data) else unpacked(first_of(data))[0]
    functional = functional_calling(model, x)
    compile_alike(functional, model)
    return functional, data


def _prunable(model: keras.Model, policy: PruningPolicy | None) -> ChannelGraph:
    """Returns the graph with the groups that may be pruned, of which there are some."""
    graph = allowed(trace(model), policy)
    check_channels_last(graph)
    check_has_real_output(graph)
    # Raises when they cannot be counted.
    warn_of_uncounted(Costs(graph))
    check_has_groups(graph)
    return graph
