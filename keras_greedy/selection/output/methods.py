"""The methods of selection on the output of the whole network."""

import dataclasses
from typing import ClassVar

import keras
import numpy as np

from keras_greedy.batches import Batches
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.progress import Progress
from keras_greedy.records import NO_RECORDS, Record, Records
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.output.candidates import Candidates
from keras_greedy.selection.output.objectives import (
    CheckedObjective,
    Objective,
    OutputDivergence,
    TrainingLoss,
)
from keras_greedy.selection.output.search import OutputSelection, begin
from keras_greedy.selection.output.step_sizes import STEP_SIZES
from keras_greedy.selection.path import SelectionPath
from keras_greedy.training.finetune import FineTune, check_finetune
from tflite_export.checks import check_choice, is_number


@dataclasses.dataclass(frozen=True)
class OutputSearch:
    """Selection on the output of the whole network, group by group.

    The base of `LossSearch` and `DivergenceSearch`. `prune` searches each group on top
    of the groups already pruned; `search` searches each with all others whole.
    """

    step: str = "uniform"
    candidates: int | str = "screened"
    channels_per_step: int = 1
    finetune_per_layer: FineTune | None = None

    objective: ClassVar[str]

    def __post_init__(self) -> None:
        when = f" with objective={self.objective!r}"
        check_choice("step", self.step, STEP_SIZES, when)
        Candidates(self.candidates, self.channels_per_step)  # Raises on bad values.
        if self.candidates == "ranked" and self.step != "uniform":
            raise ValueError(
                "Expected step='uniform' with candidates='ranked': the size of a step "
                f"is evaluated, and no candidate is. Received: step={self.step!r}"
            )
        check_finetune("finetune_per_layer", self.finetune_per_layer)

    @property
    def evaluated(self) -> Candidates:
        """The channels that each step evaluates, and how many it adds."""
        return Candidates(self.candidates, self.channels_per_step)

    def objective_on(self, model: keras.Model, batches: Batches) -> CheckedObjective:
        """Returns the objective of a model on data.

        Raises:
            ValueError: When labels are needed and missing.
        """
        raise NotImplementedError

    def check(self, model: keras.Model, batches: Batches) -> None:
        """Raises a ValueError when labels are needed and missing, or do not fit."""
        if batches.fixed_size:
            raise ValueError(
                "Expected `objective` to be 'local' or 'global' for a model of a fixed "
                f"batch size: {self.objective!r} evaluates several candidates as one "
                f"batch. Received: a model with batches of {batches.fixed_size}"
            )
        self.objective_on(model, batches).check()
        if self.finetune_per_layer is not None:
            self.finetune_per_layer.check(batches, model)

    def begin(
        self,
        graph: ChannelGraph,
        group: ChannelGroup,
        moments: Moments,
        objective: Objective,
        seed: int,
    ) -> OutputSelection:
        """Returns the selection of a group's channels, before its first step."""
        rng = np.random.default_rng(seed)
        return begin(graph, group, moments, objective, self.step, self.evaluated, rng)

    def alternatives(
        self,
        graph: ChannelGraph,
        batches: Batches,
        moments: Moments,
        seed: int,
        progress: Progress,
        records: Records = NO_RECORDS,
    ) -> list[dict[str, SelectionPath]]:
        """Returns the path of each group with all others whole; as of `Imitation`."""
        objective = self.objective_on(graph.model, batches)
        groups = progress.over(graph.groups, "Selecting channels", len(graph.groups))
        paths: dict[str, SelectionPath] = {}
        with (
            records.open(f"paths-{self.objective}") as record,
            records.open("selection") as under_way,
        ):
            for group in groups:
                given = (graph, group, moments, objective, seed, under_way)
                paths[group.name] = record.of(group.name, self._path, *given)
        return [paths]

    def _path(
        self,
        graph: ChannelGraph,
        group: ChannelGroup,
        moments: Moments,
        objective: Objective,
        seed: int,
        under_way: Record,
    ) -> SelectionPath:
        """Returns the path of a group, all of it."""
        selection = self.begin(graph, group, moments, objective, seed)
        state = under_way.get(group.name)
        if state is not None:
            selection.restore(state)
        while not selection.finished:
            selection.advance()
            under_way.put(group.name, selection.state())
        return selection.path()


@dataclasses.dataclass(frozen=True)
class LossSearch(OutputSearch):
    """Selection by the training loss of the whole network; needs labels.

    Attributes:
        step: `"uniform"`: each pick has the same weight. `"line_search"`: the size of
            each step is chosen with the channel.
        candidates: The channels evaluated at each step: a number drawn at random (50
            in the paper), `"all"`, or `"screened"`: the best of all by their
            gradient, and some at random. `"ranked"`: none; blocks of uniform steps go
            by the gradients alone, many times as fast, and each channel is picked once.
            Less good to a few channels.
        channels_per_step: How many of them a step adds.
        finetune_per_layer: How to train after each group; not at all if `None`.
        tolerance: Instead of a budget: each group gets channels, in eights, until no
            more than this share of the top-1 is lost on a fifth of the data that is
            held apart.

    Raises:
        ValueError: When an attribute is not as described.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 10)), rng.integers(0, 3, 64)
    method = keras_greedy.LossSearch(candidates=8, channels_per_step=4)
    compact = keras_greedy.prune(model, data, 0.5, method=method, verbose=0)
    ```

    Reference: Ye, Gong, Nie, Zhou, Klivans and Liu, Good Subnetworks Provably Exist:
    Pruning via Greedy Forward Selection, ICML 2020.
    """

    tolerance: float | None = None

    objective: ClassVar[str] = "loss"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tolerance is None:
            return
        if not is_number(self.tolerance) or not 0 <= self.tolerance < 1:
            raise ValueError(
                "Expected `tolerance` to be the share of top-1 that a layer may lose, "
                f"from 0 to 1. Received: tolerance={self.tolerance!r}"
            )

    def objective_on(self, model: keras.Model, batches: Batches) -> CheckedObjective:
        return TrainingLoss(model, batches)


@dataclasses.dataclass(frozen=True)
class DivergenceSearch(OutputSearch):
    """Selection by the divergence from the full network's answers; needs no labels.

    Attributes:
        step: As of `LossSearch`.
        candidates: As of `LossSearch`.
        channels_per_step: As of `LossSearch`.
        finetune_per_layer: As of `LossSearch`.

    Raises:
        ValueError: When an attribute is not as described.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    data = np.random.default_rng(0).normal(size=(64, 10))
    method = keras_greedy.DivergenceSearch("line_search", candidates=8)
    compact = keras_greedy.prune(model, data, 0.5, method=method, verbose=0)
    ```

    Reference: Ye, Wu and Liu, NeurIPS 2020, global imitation taken at its word.
    """

    objective: ClassVar[str] = "divergence"

    def objective_on(self, model: keras.Model, batches: Batches) -> CheckedObjective:
        return OutputDivergence(model, batches)
