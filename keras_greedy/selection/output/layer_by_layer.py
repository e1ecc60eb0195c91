"""Prunes layer by layer, each search on top of the layers already pruned [ICML]."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from keras_greedy.batches import Batches
from keras_greedy.devices import gathered
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.fold import folded
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.processes import total_of_processes
from keras_greedy.records import NO_RECORD, NO_RECORDS, Record, Records
from keras_greedy.selection.cut import reconstructed
from keras_greedy.selection.moments import Moments, observe
from keras_greedy.selection.output.look import cached
from keras_greedy.selection.output.methods import OutputSearch
from keras_greedy.selection.output.objectives import HOLD_EVERY, Objective, Subset
from keras_greedy.selection.output.search import OutputSelection
from keras_greedy.selection.output.suffix import Suffix
from keras_greedy.selection.path import SelectionPath
from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.compiling import compile_alike
from keras_greedy.training.interruptions import tune_or_keep

ROUND_TO = 8
"""Widths that a selection or a tolerance ends at are multiples of this."""

PRUNED = "pruned"
"""The key of the cuts of the groups so far, and of the weights after them."""


class Stop(Protocol):
    """Says when the selection of a group is done."""

    def begin(self, name: str, suffix: Suffix) -> None:
        """Turns to the group of this name."""
        ...

    def width(self, selection: OutputSelection) -> int | None:
        """Returns how many channels to keep, or `None` while it is not time to stop."""
        ...

    def state(self) -> Any:
        """Returns all that it goes by besides the selection, for `restore`."""
        ...

    def restore(self, state: Any) -> None:
        """Takes up the group that was begun, where another one was."""
        ...


class ToWidths:
    """Stops each group at the width allotted to it.

    Args:
        widths: Group name -> width.
    """

    def __init__(self, widths: dict[str, int]):
        self._widths = widths

    def begin(self, name: str, suffix: Suffix) -> None:
        self._target = self._widths[name]

    def width(self, selection: OutputSelection) -> int | None:
        if selection.width >= self._target:
            return self._target
        if selection.finished:
            return min(_rounded_up(selection.width), self._target)
        return None

    def state(self) -> None:
        return None

    def restore(self, state: None) -> None:
        """The selection says all."""


class ToTolerance:
    """Stops each group when top-1 on held examples is nearly as good as before.

    Args:
        tolerance: The share of the top-1 before this group was pruned that may be lost.
        held: The objective with the held examples, labels its targets.
    """

    def __init__(self, tolerance: float, held: Subset):
        self._tolerance = tolerance
        self._held = held

    def begin(self, name: str, suffix: Suffix) -> None:
        self._suffix = suffix
        self._batches = cached(suffix, self._held)
        everything = np.full(suffix.channels, 1 / suffix.channels)
        self._least = (1 - self._tolerance) * self._top1(everything)
        self._next = min(ROUND_TO, suffix.channels)

    def width(self, selection: OutputSelection) -> int | None:
        if selection.width < self._next and not selection.finished:
            return None
        channels = self._suffix.channels
        reached = _rounded_up(selection.width)
        self._next = min(reached + ROUND_TO, channels)
        if self._top1(selection.weights) >= self._least:
            return min(reached, channels)
        # No more channels help: the group stays whole.
        return channels if selection.finished else None

    def state(self) -> int:
        return self._next

    def restore(self, state: int) -> None:
        self._next = state

    def _top1(self, weights: np.ndarray) -> float:
        (kind,) = self._suffix.kinds
        weights = weights.astype("float32")
        right, count = 0.0, 0.0
        for live, targets in self._batches:
            (output,) = gathered(self._suffix.outputs(live, weights))
            targets = gathered(targets)
            is_right = kind.right(output, targets[0])
            counted = _weights_of(targets, is_right.size)
            right += float(is_right @ counted)
            count += float(counted.sum())
        return total_of_processes(right) / total_of_processes(count)


def _weights_of(targets: list, answers: int) -> np.ndarray:
    """Returns the weight of each answer: of its example, if examples have weights."""
    weights = ops.convert_to_numpy(targets[1]) if len(targets) > 1 else np.ones(answers)
    # One for each example, whose answers may be at several positions.
    return np.repeat(weights.ravel(), answers // weights.size)


def check_tolerable(graph: ChannelGraph, batches: Batches) -> None:
    """Raises a ValueError when a `tolerance` has no top-1 to go by."""
    kinds = [output.kind for output in outputs_of(graph)]
    if len(kinds) > 1 or kinds == ["real"]:
        raise ValueError(
            "Expected `tolerance` with a classifier, of one output that is a softmax, "
            "a sigmoid, or logits by its compiled loss. Received: a model with "
            f"outputs of the kind {kinds}"
        )
    if len(batches.first[0]) < HOLD_EVERY:
        raise ValueError(
            f"Expected `data` to hold at least {HOLD_EVERY} examples for `tolerance`, "
            "which holds a part of them apart. Received: "
            f"{len(batches.first[0])}"
        )


def prune_layer_by_layer(
    model: keras.Model,
    batches: Batches,
    method: OutputSearch,
    objective: Objective,
    stop: Stop,
    names: Iterable[str],
    seed: int,
    records: Records = NO_RECORDS,
) -> keras.Model:
    """Prunes one group after the other, in the order the data flow.

    Args:
        model: The full model, which is left as it is.
        batches: The calibration data.
        method: How channels are selected, and how to train after each group.
        objective: The objective of the full model.
        stop: Says when a group has enough channels.
        names: The groups to prune.
        seed: Of everything random.
        records: Keep the model after each group, and the selection of the next one.

    Returns:
        The compact model, compiled as `model` is.
    """
    with records.open("layers") as record, records.open("selection") as under_way:
        cuts, weights = record.get(PRUNED) or ({}, [])
        compact = _with_cuts(model, cuts, weights)
        for name in names:
            if name in cuts:
                continue
            graph = trace_quietly(compact)
            moments, path, width = path_of_group(
                graph,
                name,
                batches,
                method,
                objective,
                stop,
                seed,
                under_way,
            )
            own = None
            if width < graph.widths[name]:
                step = method.step
                own = reconstructed(graph, moments, {name: path}, {name: width}, step)
                compact = rebuild(graph, *own)
                compile_alike(compact, model, quiet=True)
                _settle(compact, model, batches, method)
            cuts = {**cuts, name: own}
            record.put(PRUNED, (cuts, compact.get_weights()))
            # Before the selection of the next group, which goes by these weights.
            record.write()
    return compact


def _with_cuts(
    model: keras.Model,
    cuts: Mapping[str, Sequence[Any] | None],
    weights: list[np.ndarray],
) -> keras.Model:
    """Returns the model as it is after some groups.

    Args:
        model: The full model.
        cuts: Group name -> the kept channels and the new weights of its consumers;
            `None` for a group that stays whole.
        weights: Of the model after them, BatchNorm statistics and a training included;
            none where there are no groups yet.
    """
    compact = rebuild(trace_quietly(model), {})
    compile_alike(compact, model)
    # That says what of the settings stays behind, if anything does.
    for cut in cuts.values():
        if cut is not None:
            compact = rebuild(trace_quietly(compact), *cut)
            compile_alike(compact, model, quiet=True)
    if weights:
        compact.set_weights(weights)
    return compact


def _settle(
    compact: keras.Model,
    model: keras.Model,
    batches: Batches,
    method: OutputSearch,
) -> None:
    """Measures BatchNorm statistics anew, and trains, if that is to be done."""
    reestimate_batch_norm(compact, batches)
    if method.finetune_per_layer is not None:
        tune_or_keep(
            method.finetune_per_layer,
            compact,
            model,
            batches,
            may_stop=False,
            verbose=0,
        )


def path_of_group(
    graph: ChannelGraph,
    name: str,
    batches: Batches,
    method: OutputSearch,
    objective: Objective,
    stop: Stop,
    seed: int,
    record: Record = NO_RECORD,
) -> tuple[Moments, SelectionPath, int]:
    """Searches one group, all others as they are, until it is time to stop.

    Args:
        graph: The traced model.
        name: The group.
        batches: The calibration data.
        method: How channels are selected.
        objective: The objective of the full model.
        stop: Says when the group has enough channels.
        seed: Of everything random.
        record: Keeps the selection after each step.

    Returns:
        The `Moments` of the consumers' inputs, the path, and the width to keep.
    """
    inference = folded(graph)
    (group,) = [group for group in inference.groups if group.name == name]
    _, moments = observe(inference, batches, seed)
    moments = moments.over_processes()
    selection = method.begin(inference, group, moments, objective, seed)
    stop.begin(name, selection.suffix)
    under_way = record.get(name)
    if under_way is not None:
        selection.restore(under_way[0])
        stop.restore(under_way[1])
    width = stop.width(selection)
    while width is None:
        selection.advance()
        record.put(name, (selection.state(), stop.state()))
        width = stop.width(selection)
    return moments, selection.path(), width


def _rounded_up(width: int) -> int:
    return -(-width // ROUND_TO) * ROUND_TO
