"""Layer by layer, each search on top of the layers already pruned [ICML]."""

import keras
import numpy as np

from keras_greedy.batches import Batches
from keras_greedy.graph.fold import folded
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.moments import observe
from keras_greedy.selection.output.objectives import Part
from keras_greedy.selection.output.search import LossSearch, cached
from keras_greedy.selection.reconstruction import cut
from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.finetune import compile_alike

ROUND_TO = 8


def prune_layer_by_layer(
    model: keras.Model, data, search: LossSearch, objective, stop, finetune, names
) -> keras.Model:
    """Prunes one group after the other, in the order the data flow.

    Args:
        model: The full model, which is left as it is.
        data: As for `prune`.
        search: How channels are selected.
        objective: What they are selected by.
        stop: `ToWidths` or `ToTolerance`.
        finetune: A `FineTune` to follow each group, or `None`.
        names: The groups to prune, as an iterable.

    Returns:
        The compact model, compiled as `model` is.
    """
    compact = rebuild(trace_quietly(model), {})
    compile_alike(compact, model)
    for name in names:
        smaller = _pruned(compact, name, data, search, objective, stop)
        if smaller is None:
            continue
        compact = smaller
        compile_alike(compact, model)
        reestimate_batch_norm(compact, data)
        if finetune is not None:
            finetune.apply(compact, model, data, verbose=0)
    return compact


class ToWidths:
    """Stops each group at the width allotted to it.

    Args:
        widths: Group name -> width.
    """

    def __init__(self, widths: dict[str, int]):
        self._widths = widths

    def begin(self, name, suffix) -> None:
        self._target = self._widths[name]

    def width(self, selection) -> int | None:
        """How many channels to keep, when it is time to stop."""
        if selection.width >= self._target:
            return self._target
        if selection.finished:
            return min(_rounded_up(selection.width), self._target)
        return None


class ToTolerance:
    """Stops each group when top-1 on held examples is nearly what it was before.

    Args:
        tolerance: How much of the top-1 before this group was pruned may be lost.
        held: The objective with the held examples, labels its targets.
    """

    def __init__(self, tolerance: float, held: Part):
        self._tolerance, self._held = tolerance, held

    def begin(self, name, suffix) -> None:
        self._suffix, self._batches = suffix, cached(suffix, self._held)
        everything = np.full(suffix.channels, 1 / suffix.channels)
        self._least = (1 - self._tolerance) * self._top1(everything)
        self._next = min(ROUND_TO, suffix.channels)

    def width(self, selection) -> int | None:
        """As of `ToWidths`; all of them when nothing less is enough."""
        if selection.width < self._next and not selection.finished:
            return None
        channels, reached = self._suffix.channels, _rounded_up(selection.width)
        self._next = min(reached + ROUND_TO, channels)
        if self._top1(selection.weights) >= self._least:
            return min(reached, channels)
        return channels if selection.finished else None

    def _top1(self, weights) -> float:
        (kind,), weights = self._suffix.kinds, weights.astype("float32")
        right = [
            kind.right(self._suffix.outputs(live, weights)[0], targets[0])
            for live, targets in self._batches
        ]
        return float(np.mean(np.concatenate(right)))


def _rounded_up(width: int) -> int:
    return -(-width // ROUND_TO) * ROUND_TO


def _pruned(model, name, data, search: LossSearch, objective, stop):
    """The model with this group pruned, or `None` if that stays whole."""
    graph = trace_quietly(model)
    moments, path, width = path_of_group(graph, name, data, search, objective, stop)
    if width == graph.widths[name]:
        return None
    return cut(graph, moments, {name: path}, {name: width}, search.step)


def path_of_group(graph, name, data, search: LossSearch, objective, stop):
    """Searches one group, all others as they are, until it is time to stop.

    Args:
        graph: The traced model.
        name: The group.
        data: As for `prune`.
        search: How channels are selected.
        objective: What they are selected by.
        stop: `ToWidths` or `ToTolerance`.

    Returns:
        The `Moments` of what is read, the `Path`, and the width to keep.
    """
    inference = folded(graph)
    group = next(group for group in inference.groups if group.name == name)
    _, moments = observe(inference, Batches(data, graph.functional), search.seed)
    selection = search.begin(inference, group, moments, objective)
    stop.begin(name, selection.suffix)
    while (width := stop.width(selection)) is None:
        selection.advance()
    return moments, selection.path(), width
