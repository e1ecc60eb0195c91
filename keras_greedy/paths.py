"""The result of a search, good for any budget."""

import dataclasses
import functools
import html
from pathlib import Path

import keras
import numpy as np

from keras_greedy.batches import Batches, Data
from keras_greedy.budget import Allocation, Budget, allocate_and_measure, descent
from keras_greedy.budget.exchange import Curves, choices_of
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.fold import folded
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace
from keras_greedy.latency import LatencyTable, measure_latencies
from keras_greedy.plots import checked_series, picture, plot_curve
from keras_greedy.policies import of_groups
from keras_greedy.processes import check_agreed, share_of
from keras_greedy.report import Report, planned
from keras_greedy.saved_search import SavedSearch
from keras_greedy.scopes import scope_of
from keras_greedy.selection.cut import costs_of_cuts, reconstructed
from keras_greedy.selection.divergence import FREE, Divergence
from keras_greedy.selection.four_bits import curves_of, measure_four_bits
from keras_greedy.selection.moments import Moments, Observed, half_unseen, observe
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.reconstruction import least_squares
from keras_greedy.selection.steps import STEP_RULES
from keras_greedy.training import compile_alike, reestimate_batch_norm
from keras_greedy.training.batch_norm import BATCH_SIZE
from keras_greedy.training.refit import refit
from keras_greedy.training.rounding import round_to_bits
from keras_greedy.training.tasks import has_preprocessor, network_of, preprocessed
from tflite_export.checks import check_count
from tflite_export.html_tables import html_table

IMAGES_IN_FOUR_BITS = 64
"""So many examples tell what kernels in 4 bits cost, as many as for cuts."""

ROUNDING = 1e-9
"""Of a share of MACs that is computed and one that is asked for."""


@dataclasses.dataclass(frozen=True, eq=False)
class SelectionPaths:
    """The order in which each group's channels are worth keeping, and at what loss.

    `search` makes one.

    Attributes:
        graph: The traced model.
        moments: Of the inputs of every consumer.
        paths: Group name -> the order its channels are added in.
        divergence: Group name -> measured output divergence at a few widths.
        step: Name of the step rule, which says what weights the consumers get.
        data: The data of the search, held by reference; `None` after loading.
        task: The model that the search was made on, if that preprocesses its data.

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
    paths = keras_greedy.search(model, data, verbose=0)
    for share in (0.75, 0.5, 0.25):
        print(paths.report(share).macs.after, paths.widths(share))
    ```
    """

    graph: ChannelGraph
    moments: Moments
    paths: dict[str, SelectionPath]
    divergence: dict[str, Divergence]
    step: str
    data: Batches | None = None
    task: keras.Model | None = None

    def __repr__(self) -> str:
        channels = sum(len(path.order) for path in self.paths.values())
        return (
            f"<SelectionPaths of {len(self.paths)} groups with {channels:,} channels, "
            f"step={self.step!r}>"
        )

    def _repr_html_(self) -> str:
        rows = []
        for name, path in self.paths.items():
            rows.append((name, f"{len(path.order):,}"))
        table = html_table(("channels of", "before"), rows)
        summary = html.escape(repr(self))
        return f"<details><summary>{summary}</summary>{table}</details>"

    def widths(self, budget: float | Budget) -> dict[str, int]:
        """Returns how many channels each group keeps under `budget`, by its name."""
        return dict(self._allocation(budget).widths)

    def bits(self, budget: float | Budget) -> dict[str, int]:
        """Returns the bits of each kernel under `budget`, by the layer's name.

        Layers that are not named have no choice: of a budget with `precision` they are
        of int8.
        """
        return dict(self._allocation(budget).bits)

    @functools.cached_property
    def latencies(self) -> LatencyTable:
        """The table of latency budgets without one: measured here, at first use."""
        return measure_latencies(self.graph.model, verbose=0)

    def compact(self, budget: float | Budget, data: Data | None = None) -> keras.Model:
        """Builds the compact model of a budget.

        With `step="corrective"` the layers behind each cut are then fitted once more,
        to what they read in the compact model, where that brings its outputs closer
        to the full model's on examples held apart. It takes 128 examples or more.
        Kernels that a budget with `precision` stores in 4 bits are rounded, as by
        `round_kernels`: `tflite_export.quantize(..., "rounded")` stores them.

        Args:
            budget: As for `prune`.
            data: What to fit to, and to measure BatchNorm statistics on; by default
                the data of the search.

        Returns:
            A smaller ordinary Keras model.

        Raises:
            ValueError: When the budget cannot be met; says what can. When it may have
                kernels of 4 bits, and there are no data to measure them on.

        Example:

        ```python
        import keras
        import numpy as np

        import keras_greedy

        model = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(3),
            ]
        )
        data = np.random.default_rng(0).normal(size=(64, 10))
        paths = keras_greedy.search(model, data, verbose=0)
        compact = paths.compact(keras_greedy.Budget(params=0.6, round_to=16))
        ```
        """
        data = self.data if data is None else preprocessed(self.task, data)
        compact = self.unrounded(budget, data)
        if data is not None:
            round_to_bits(compact, data, self.bits(budget))
        return compact

    def unrounded(self, budget: float | Budget, data: Data | None) -> keras.Model:
        """Builds the compact model of a budget, all kernels as they are fitted.

        Args:
            budget: As for `compact`.
            data: As for `compact`, preprocessed; `None` for no data.
        """
        self._measure_bits(budget, data)
        widths = self.widths(budget)
        selection, weights = reconstructed(
            self.graph, self.moments, self.paths, widths, self.step
        )
        with scope_of(self.graph.model):
            check_agreed({"widths": str(widths)})
            compact = rebuild(self.graph, selection, weights)
            if data is not None and not self._is_free(widths):
                self._improve(compact, selection, data)
            compile_alike(compact, self.graph.model)
        return compact

    def curve(self, points: int = 20) -> list[dict[str, float]]:
        """Returns the trade-off: predicted output divergence against MACs.

        The prediction is the sum of the groups' own divergences; it is exact for
        mild cuts and low for deep ones, where errors add up.

        Args:
            points: How many budgets, evenly spaced over those that can be met.

        Returns:
            One dict per budget: `macs`, `params` (fractions) and `divergence`.

        Raises:
            ValueError: When `points` is no positive integer.
        """
        points = check_count("points", points, minimum=1)
        curves = self._curves()
        costs = costs_of_cuts(self.graph)
        any_budget = Budget(macs=1.0)
        least_widths = {
            name: choices_of(any_budget, curves, name)[0] for name in curves
        }
        least = costs.macs(least_widths)
        narrowings = []
        for widths in descent(curves, Budget(macs=least), costs):
            divergences = [curves[name][width] for name, width in widths.items()]
            narrowing = {
                "macs": costs.macs(widths) / costs.macs(),
                "params": costs.params(widths) / costs.params(),
                "divergence": float(sum(divergences)),
            }
            narrowings.append(narrowing)
        shares = np.linspace(1.0, least / costs.macs(), points)
        return [_first_within(narrowings, share) for share in shares]

    def report(self, budget: float | Budget) -> Report:
        """Returns what a budget would leave of the model, without building it.

        Args:
            budget: As for `prune`.

        Returns:
            The `Report` that `compare` would give for `compact(budget)`; for a budget
            of latency with the predicted and the measured ones.

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
        print(keras_greedy.search(model, data, verbose=0).report(0.5))
        ```
        """
        allocation = self._allocation(budget)
        costs = costs_of_cuts(self.graph)
        report = planned(costs, self.graph.widths, allocation.widths)
        return dataclasses.replace(
            report,
            predicted_ms=allocation.predicted_ms,
            measured_ms=allocation.measured_ms,
        )

    def plot(
        self,
        path: str | Path,
        measured: dict[str, list[tuple[float, float]]] | None = None,
    ) -> None:
        """Draws the trade-off curve into a picture; needs matplotlib.

        Args:
            path: A file name ending in `.png`, `.svg` or `.pdf`; the folder must
                exist.
            measured: The accuracy that compact models were found to reach, drawn above
                the curve: name of a series -> list of `(share of MACs, top-1)`, both
                from 0 to 1.

        Raises:
            FileNotFoundError: When the folder does not exist.
            ImportError: When matplotlib is not installed; says how to install it.
            ValueError: When an argument is not as described, before any work.

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
        paths = keras_greedy.search(model, data, verbose=0)
        paths.plot("tradeoff.png", {"as pruned": [(1.0, 0.98), (0.5, 0.95)]})
        ```
        """
        picture(path)  # Raises when it cannot be drawn.
        series = checked_series(measured)
        plot_curve(self.curve(), path, series)

    def save(self, path: str | Path) -> None:
        """Writes everything but the model and the data to an `.npz` file.

        Args:
            path: The file; its folder must exist.

        Raises:
            FileNotFoundError: When the folder does not exist.
            ValueError: When `path` is no file's name.

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
        keras_greedy.search(model, data, verbose=0).save("paths.npz")
        paths = keras_greedy.load_paths("paths.npz", model)
        compact = paths.compact(0.5, data=data)
        ```
        """
        saved = SavedSearch(self.moments, self.paths, self.divergence, self.step)
        saved.write(path)

    def _allocation(self, budget: float | Budget) -> Allocation:
        """Returns the widths of a budget; if asked again the same: latencies vary."""
        budget = Budget.of(budget)
        if budget.limits_latency and budget.table is None and self.data is not None:
            budget = dataclasses.replace(budget, table=self.latencies)
        if budget not in self._allocations:
            curves = self._curves()
            if budget.may_have_four_bits:
                self._measure_bits(budget, self.data)
                names = costs_of_cuts(self.graph).bits
                bits = curves_of(self._divergence_in_four_bits, names)
                curves = Curves(curves, curves.entries, bits)
            allocation = allocate_and_measure(curves, budget, self.graph)
            self._allocations[budget] = allocation
        return self._allocations[budget]

    def _measure_bits(self, budget: float | Budget, data: Data | None) -> None:
        """Measures what kernels in 4 bits cost, if a budget asks, once."""
        is_asked = Budget.of(budget).may_have_four_bits
        if not is_asked or self._divergence_in_four_bits:
            return
        if data is None:
            raise ValueError(
                "Expected data to measure kernels of 4 bits on: a search that was "
                "loaded from a file has none. Give them, `paths.compact(budget, "
                f"data=...)`, first. Received: {budget}"
            )
        with scope_of(self.graph.model):
            inference = folded(self.graph)
            batches = Batches.of(data, self.graph.functional)
            batches, images = half_unseen(batches, share_of(IMAGES_IN_FOUR_BITS))
            found = observe(inference, batches, first=images)
            observed = Observed(*[moments.over_processes() for moments in found])
            few = list(batches.take(images))
            measured = measure_four_bits(inference, observed.unseen, few)
        self._divergence_in_four_bits.update(measured)

    @functools.cached_property
    def _divergence_in_four_bits(self) -> dict[str, float]:
        """Layer name -> divergence with its kernel in 4 bits; empty until measured."""
        return {}

    def _improve(
        self,
        compact: keras.Model,
        selection: dict[str, np.ndarray],
        data: Data,
    ) -> None:
        """Fits weights and statistics to what the compact model computes of data."""
        if STEP_RULES[self.step].reconstruct is least_squares:
            batches = Batches.of(data, self.graph.functional, BATCH_SIZE)
            refit(self.graph, compact, selection, batches)
        reestimate_batch_norm(compact, data)

    @functools.cached_property
    def _allocations(self) -> dict[Budget, Allocation]:
        return {}

    def _is_free(self, widths: dict[str, int]) -> bool:
        """Returns whether the output is what it was: no statistics have to follow."""
        total = 0.0
        for name, curve in self._curves().items():
            # What goes with a branch is part of what the branch is worth.
            if widths[name] > 0 or np.isfinite(curve[0]):
                total += curve[widths[name]]
        return total <= FREE

    def _curves(self) -> Curves:
        """Returns each group's `(N + 1,)` divergence at every width, by its name."""
        curves = {}
        for name, path in self.paths.items():
            curves[name] = self.divergence[name].curve(path.errors)
        entries = {group.name: group.entries for group in self.graph.groups}
        return Curves(curves, entries)


def load_paths(path: str | Path, model: keras.Model) -> SelectionPaths:
    """Reads the file that `SelectionPaths.save` wrote.

    Args:
        path: The `.npz` file.
        model: The model the search was made on.

    Returns:
        The `SelectionPaths`, without data: give it to `compact` for BatchNorm
        statistics.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is another one, or damaged, or of a search on another
            model; says which entry or group it is.

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
    keras_greedy.search(model, data, verbose=0).save("paths.npz")
    compact = keras_greedy.load_paths("paths.npz", model).compact(0.5, data=data)
    ```
    """
    saved = SavedSearch.read(path)
    graph = of_groups(trace(network_of(model)), saved.paths)
    saved.check_model(graph)
    return SelectionPaths(
        graph,
        saved.moments,
        saved.paths,
        saved.divergence,
        saved.step,
        task=model if has_preprocessor(model) else None,
    )


def _first_within(points: list[dict[str, float]], share: float) -> dict[str, float]:
    """Returns the first point of a descent with no more than a share of the MACs."""
    return next(point for point in points if point["macs"] <= share + ROUNDING)
