"""Makes one selection on a wrapped model: searches what is left, then closes gates."""

from collections.abc import Collection

import keras

from keras_greedy.batches import Batches, Data
from keras_greedy.budget import Budget, check_reachable
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.paths import SelectionPaths
from keras_greedy.policies import of_groups
from keras_greedy.progress import Progress
from keras_greedy.selection.cut import reconstructed
from keras_greedy.selection.methods import Imitation, Method, OutputSearch, method_of
from keras_greedy.selection.output.layer_by_layer import ToWidths, path_of_group
from keras_greedy.stages import search_graph
from keras_greedy.training import compile_alike
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import wrappers_of

SILENT = Progress(0)

LEAST_ERROR = 1e-30
"""The error of no channel at all, where that is nothing: its share is 0 then."""


def unwrapped_readers_of(gated: GatedModel) -> str:
    """Returns words for the layers that keep gated groups whole; none for none."""
    words = []
    for group, readers in gated.unwrapped_readers().items():
        words.append(f"the channels of '{group}' are also read by {', '.join(readers)}")
    return "; ".join(words)


class Selector:
    """Narrows a wrapped model, as trained so far.

    Each search is of the compact model of the gates that are open.

    Args:
        wrapped: The model, changed in place.
        gated: The same, seen group by group.
        data: As for `prune`.
        objective: As for `prune`.
        step: As for `prune`.
        seed: Of everything random in the search.

    Raises:
        ValueError: When the model or the data do not allow any selection.
    """

    def __init__(
        self,
        wrapped: keras.Model,
        gated: GatedModel,
        data: Data,
        objective: str,
        step: str,
        seed: int = 0,
    ):
        self._wrapped = wrapped
        self._gated = gated
        self._method = method_of(None, objective, step)
        self._seed = seed
        self._names = list(gated.graph.widths)
        if not self._names:
            names = [wrapper.name for wrapper in wrappers_of(wrapped)]
            raise ValueError(
                "Expected a model with groups of channels that are gated wherever "
                "they are read: a wrapped layer narrows the layers before it, which "
                "make the channels that it reads, and so must be all others that read "
                "them. Wrap these, or the whole model with `prune_greedy`. Received: "
                f"model={wrapped!r}, with none. Wrapped are {', '.join(names)}. "
                + unwrapped_readers_of(gated)
            )
        gated.check_biases()
        self._batches = Batches(data, gated.graph.functional)
        self._method.check(self._compact(), self._batches)

    def check(self, share: float, round_to: int) -> None:
        """Raises a ValueError when this share of the MACs is out of reach."""
        graph = self._gated.graph
        budget = Budget(share, round_to=round_to)
        check_reachable(budget, Costs(graph), graph.widths)

    def to_macs(self, share: float, round_to: int) -> None:
        """Narrows all groups until a share of the full model's MACs is left."""
        budget = self._budget(share, round_to)
        if not self._is_met(budget):
            paths = self._search(self._compact(), self._names, self._method)
            self._close(paths, paths.widths(budget))

    def one_group(self, index: int, share: float, round_to: int) -> None:
        """Narrows one group, as far as the groups behind it cannot spare it.

        Args:
            index: Of the group, in the order the data flow; none behind the last.
            share: Of the full model's MACs, to be left in the end.
            round_to: Widths are multiples of this.
        """
        names = self._names[index:]
        budget = self._budget(share, round_to)
        if not names or self._is_met(budget):
            return
        compact = self._compact()
        if isinstance(self._method, OutputSearch):
            paths, width = self._by_output(compact, names, budget, self._method)
        else:
            paths = self._search(compact, names, self._method)
            width = paths.widths(budget)[names[0]]
        self._close(paths, {names[0]: width})

    def _by_output(
        self,
        compact: keras.Model,
        names: list[str],
        budget: Budget,
        method: OutputSearch,
    ) -> tuple[SelectionPaths, int]:
        """Searches as `prune` does: the width is that of a quick local imitation."""
        quick = self._search(compact, names, Imitation("local", method.step))
        stop = ToWidths(quick.widths(budget))
        graph = trace_quietly(compact, look_inside=False)
        objective = method.objective_on(compact, self._batches)
        moments, path, width = path_of_group(
            graph,
            names[0],
            self._batches,
            method,
            objective,
            stop,
            self._seed,
        )
        paths = SelectionPaths(graph, moments, {names[0]: path}, {}, method.step)
        return paths, width

    def _search(
        self,
        compact: keras.Model,
        names: Collection[str],
        method: Method,
    ) -> SelectionPaths:
        graph = of_groups(trace_quietly(compact, look_inside=False), names)
        return search_graph(graph, self._batches, method, self._seed, SILENT)

    def _compact(self) -> keras.Model:
        compact = self._gated.compact()
        # Of the settings, a search needs the loss alone.
        compile_alike(compact, self._wrapped, quiet=True)
        return compact

    def _budget(self, share: float, round_to: int) -> Budget:
        """Returns the share of the full model's MACs as an absolute number of them."""
        full = Costs(self._gated.graph).macs()
        return Budget(share * full, round_to=round_to)

    def _is_met(self, budget: Budget) -> bool:
        left = Costs(self._gated.graph).macs(self._gated.widths())
        return left <= budget.macs

    def _close(self, paths: SelectionPaths, widths: dict[str, int]) -> None:
        """Closes gates and gives the consumers the weights that make up for it."""
        own = {name: paths.paths[name] for name in widths}
        selection, weights = reconstructed(
            paths.graph,
            paths.moments,
            own,
            widths,
            paths.step,
        )
        errors = {}
        for name, path in own.items():
            of_no_channel = max(path.errors[0], LEAST_ERROR)
            errors[name] = path.errors[widths[name]] / of_no_channel
        self._gated.keep(selection, weights, errors)
