"""One selection on a wrapped model: search what is left of it, then close gates."""

from collections.abc import Collection, Iterator

import keras

from keras_greedy.batches import Batches
from keras_greedy.budget.allocate import check_reachable
from keras_greedy.budget.budget import Budget
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.paths import SelectionPaths
from keras_greedy.pipeline import search
from keras_greedy.policies import PruningPolicy
from keras_greedy.selection.methods import OutputSearch, method_of
from keras_greedy.selection.output.layer_by_layer import ToWidths, path_of_group
from keras_greedy.selection.reconstruction import reconstructed
from keras_greedy.training.finetune import compile_alike
from keras_greedy.while_training.gated_model import GatedModel


class Selector:
    """Narrows a wrapped model, as trained so far.

    What is searched is the compact model of the gates that are open.

    Args:
        wrapped: The model, changed in place.
        data: As for `prune`.
        objective: As for `prune`.
        step: As for `prune`.
        seed: Of everything random in the search.

    Raises:
        ValueError: When the model or the data do not allow any selection.
    """

    def __init__(self, wrapped: keras.Model, data, objective, step, seed: int = 0):
        self._wrapped = wrapped
        self._data = list(data) if isinstance(data, Iterator) else data
        self._method = method_of(objective, step, None, 1, seed)
        view = GatedModel(wrapped)
        self._names = [*view.graph.widths]
        if not self._names:
            raise ValueError(
                "Expected a model with groups of channels that are gated wherever "
                "they are read: wrap all layers that read them, or the whole model "
                f"with `prune_greedy`. Received: model={wrapped!r}, with none"
            )
        view.check_biases()
        Batches(self._data, view.graph.functional)  # Raises when the data do not fit.
        self._method.check(self._compact(view), self._data)

    def check(self, share: float, round_to: int) -> None:
        """Raises a ValueError when this share of the MACs is out of reach."""
        graph = GatedModel(self._wrapped).graph
        budget = Budget(share, round_to=round_to)
        check_reachable(budget, Costs(graph), graph.widths)

    def to_macs(self, share: float, round_to: int) -> None:
        """Narrows all groups until a share of the full model's MACs is left."""
        view = GatedModel(self._wrapped)
        budget = _budget(view, share, round_to)
        if not _is_met(view, budget):
            paths = self._search(self._compact(view), view.graph.widths)
            _take(view, paths, paths.widths(budget))

    def one_group(self, index: int, share: float, round_to: int) -> None:
        """Narrows one group, as far as the groups behind it cannot spare it.

        Args:
            index: Of the group, in the order the data flow; none behind the last.
            share: Of the full model's MACs, to be left in the end.
            round_to: Widths are multiples of this.
        """
        names = self._names[index:]
        if not names:
            return
        view = GatedModel(self._wrapped)
        budget = _budget(view, share, round_to)
        if not _is_met(view, budget):
            by_output = isinstance(self._method, OutputSearch)
            find = self._by_output if by_output else self._by_imitation
            paths, width = find(self._compact(view), names, budget)
            _take(view, paths, {names[0]: width})

    def _by_imitation(self, compact, names, budget):
        paths = self._search(compact, names)
        return paths, paths.widths(budget)[names[0]]

    def _by_output(self, compact, names, budget):
        """As `prune` does it: the width is that of a quick local imitation."""
        name, graph, method = names[0], trace_quietly(compact), self._method
        quick = self._search(compact, names, objective="local")
        stop = ToWidths(quick.widths(budget))
        against = method.held_against(compact, self._data)
        moments, path, width = path_of_group(
            graph, name, self._data, method, against, stop
        )
        return SelectionPaths(graph, moments, {name: path}, {}, method.step), width

    def _search(self, compact, names: Collection[str], **other) -> SelectionPaths:
        own = {"objective": self._method.objective, "step": self._method.step}
        settings = {"seed": self._method.seed, "verbose": 0, "policy": _Only(names)}
        return search(compact, self._data, **own | settings | other)

    def _compact(self, view: GatedModel) -> keras.Model:
        compact = view.compact()
        compile_alike(compact, self._wrapped)
        return compact


class _Only(PruningPolicy):
    def __init__(self, names: Collection[str]):
        self._names = names

    def allow_pruning(self, group):
        return group.name in self._names


def _budget(view: GatedModel, share: float, round_to: int) -> Budget:
    return Budget(share * Costs(view.graph).macs(), round_to=round_to)


def _is_met(view: GatedModel, budget: Budget) -> bool:
    widths = {name: len(kept) for name, kept in view.kept().items()}
    return Costs(view.graph).macs(widths) <= budget.macs


def _take(view: GatedModel, paths: SelectionPaths, widths: dict[str, int]) -> None:
    """Closes gates and gives the consumers the weights that make up for it."""
    own = {name: paths.paths[name] for name in widths}
    new = reconstructed(paths.graph, paths.moments, own, widths, paths.step)
    errors = {
        name: path.errors[widths[name]] / max(path.errors[0], 1e-30)
        for name, path in own.items()
    }
    view.keep(*new, errors)
