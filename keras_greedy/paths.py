"""The result of a search: every group's path, good for any budget."""

import dataclasses
import functools

import keras
import numpy as np

from keras_greedy.batches import Batches
from keras_greedy.budget.allocate import descent
from keras_greedy.budget.budget import Budget
from keras_greedy.budget.latency_fit import Allocation, allocate_and_measure
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace
from keras_greedy.latency.measure import measure_latencies
from keras_greedy.latency.table import LatencyTable
from keras_greedy.policies import of_groups
from keras_greedy.report import Report, picture, planned, plot_curve
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.measured import Divergence
from keras_greedy.selection.moments import Moments, Scatter
from keras_greedy.selection.path import MixturePath, SelectionPath
from keras_greedy.selection.reconstruction import cut
from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.finetune import compile_alike
from tflite_export.files import replacing


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionPaths:
    """In which order each group's channels are worth keeping, and at what loss.

    Attributes:
        graph: The traced model.
        moments: What every consumer reads.
        paths: Group name -> the order its channels are added in.
        divergence: Group name -> measured output divergence at a few widths.
        step: Name of the step rule, which says what weights the consumers get.
        data: The data of the search, held by reference; `None` after loading.
    """

    graph: ChannelGraph
    moments: Moments
    paths: dict[str, SelectionPath]
    divergence: dict[str, Divergence]
    step: str
    data: Batches | None = None

    def widths(self, budget) -> dict[str, int]:
        """Group name -> how many channels it keeps under `budget`."""
        return dict(self._allocation(budget).widths)

    @functools.cached_property
    def latencies(self) -> LatencyTable:
        """What latency budgets without a table go by: measured here, at first use."""
        return measure_latencies(self.graph.model, verbose=0)

    def compact(self, budget, data=None) -> keras.Model:
        """Builds the compact model of a budget.

        Args:
            budget: As for `prune`.
            data: Where to measure BatchNorm statistics; by default the data of
                the search.

        Returns:
            A smaller ordinary Keras model.

        Raises:
            ValueError: When the budget cannot be met; says what can.

        Example:

        ```python
        paths = keras_greedy.search(model, images)
        compact = paths.compact(keras_greedy.Budget(params=0.6, round_to=16))
        ```
        """
        widths = self.widths(budget)
        compact = cut(self.graph, self.moments, self.paths, widths, self.step)
        data = self.data if data is None else data
        if data is not None:
            reestimate_batch_norm(compact, data)
        compile_alike(compact, self.graph.model)
        return compact

    def curve(self, points: int = 20) -> list[dict]:
        """The trade-off: predicted output divergence against MACs.

        The prediction is the sum of the groups' own divergences; it is exact for
        mild cuts and low for deep ones, where errors add up.

        Args:
            points: How many budgets, evenly spaced over what can be met.

        Returns:
            One dict per budget: `macs`, `params` (fractions) and `divergence`.
        """
        curves, costs = self._curves(), Costs(self.graph)
        least = {
            n: Budget(macs=1.0).widths_of(len(c) - 1)[0] for n, c in curves.items()
        }
        reachable = costs.macs(least)
        steps = [
            {
                "macs": costs.macs(widths) / costs.macs(),
                "params": costs.params(widths) / costs.params(),
                "divergence": float(sum(curves[n][w] for n, w in widths.items())),
            }
            for widths in descent(curves, Budget(macs=reachable), costs)
        ]
        return [
            next(step for step in steps if step["macs"] <= share + 1e-9)
            for share in np.linspace(1.0, reachable / costs.macs(), points)
        ]

    def report(self, budget) -> Report:
        """What a budget would leave of the model, without building it.

        Args:
            budget: As for `prune`.

        Returns:
            The `Report` that `compare` would give for `compact(budget)`; for a budget
            of latency with the predicted and the measured ones.

        Example:

        ```python
        print(keras_greedy.search(model, images).report(0.5))
        ```
        """
        found = self._allocation(budget)
        return dataclasses.replace(
            planned(Costs(self.graph), self.graph.widths, found.widths),
            predicted_ms=found.predicted_ms,
            measured_ms=found.measured_ms,
        )

    def plot(self, path, measured: dict | None = None) -> None:
        """Draws the trade-off curve into a picture; needs matplotlib.

        Args:
            path: A file name ending in `.png`, `.svg` or `.pdf`; the folder must
                exist.
            measured: What compact models were found to reach, drawn above the
                curve: name of a series -> list of `(share of MACs, top-1)`, both
                from 0 to 1.

        Raises:
            ImportError: When matplotlib is not installed; says how to install it.
            ValueError: When `path` is not as described, before any work.

        Example:

        ```python
        paths = keras_greedy.search(model, images)
        paths.plot("tradeoff.png", {"as pruned": [(1.0, 0.98), (0.5, 0.95)]})
        ```
        """
        picture(path)
        plot_curve(self.curve(), path, measured)

    def save(self, path) -> None:
        """Writes everything but the model and the data to an `.npz` file.

        Args:
            path: Where to; the folder must exist.
        """
        arrays = {"examples": self.moments.examples, "step": self.step}
        for name, selected in self.paths.items():
            arrays |= _flat(f"path/{name}", selected)
            arrays |= _flat(f"divergence/{name}", self.divergence[name])
        for name, scatter in self.moments.scatters.items():
            arrays |= _flat(f"scatter/{name}", scatter)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    def _allocation(self, budget) -> Allocation:
        """Of a budget that was asked for before, the same: latencies vary."""
        budget = Budget.of(budget)
        if budget.limits_latency and budget.table is None and self.data is not None:
            budget = dataclasses.replace(budget, table=self.latencies)
        if budget not in self._allocations:
            self._allocations[budget] = allocate_and_measure(
                self._curves(), budget, self.graph
            )
        return self._allocations[budget]

    @functools.cached_property
    def _allocations(self) -> dict[Budget, Allocation]:
        return {}

    def _curves(self) -> dict[str, np.ndarray]:
        return {
            name: self.divergence[name].curve(path.errors)
            for name, path in self.paths.items()
        }


def load_paths(path, model: keras.Model) -> SelectionPaths:
    """Reads what `SelectionPaths.save` wrote.

    Args:
        path: The `.npz` file.
        model: The model the search was made on.

    Returns:
        The `SelectionPaths`, without data: give it to `compact` for BatchNorm
        statistics.

    Raises:
        ValueError: When the file is of a search on another model.

    Example:

    ```python
    keras_greedy.search(model, images).save("paths.npz")
    compact = keras_greedy.load_paths("paths.npz", model).compact(0.5, data=images)
    ```
    """
    graph = trace(model)
    nested: dict = {"path": {}, "divergence": {}, "scatter": {}}
    with np.load(path, allow_pickle=False) as file:
        examples, step = int(file["examples"]), str(file["step"])
        for key in file.files:
            if key not in ("examples", "step"):
                kind, key_of_kind = key.split("/", 1)
                name, field = key_of_kind.rsplit("/", 1)
                nested[kind].setdefault(name, {})[field] = file[key]
    graph = of_groups(graph, nested["path"])
    found = {n: (len(path["order"]),) for n, path in nested["path"].items()}
    found |= {n: scatter["mean"].shape for n, scatter in nested["scatter"].items()}
    expected = {n: (size,) for n, size in graph.widths.items()}
    expected |= {n: (r.folds, len(r.features)) for n, r in consumers_of(graph).items()}
    if found != expected:
        raise ValueError(
            "Expected `model` to be the one the search was made on, with layers of "
            f"the sizes {found}. Received: a model with {expected}"
        )
    return SelectionPaths(
        graph,
        Moments({n: Scatter(**s) for n, s in nested["scatter"].items()}, examples),
        {n: _path(p) for n, p in nested["path"].items()},
        {n: Divergence(**d) for n, d in nested["divergence"].items()},
        step,
    )


def _path(fields: dict) -> SelectionPath:
    return MixturePath(**fields) if "picks" in fields else SelectionPath(**fields)


def _flat(prefix: str, instance) -> dict:
    names = (field.name for field in dataclasses.fields(instance))
    return {f"{prefix}/{name}": getattr(instance, name) for name in names}
