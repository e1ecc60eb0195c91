"""The methods of selection: an objective, a step rule, and what they need."""

import dataclasses

import keras
import numpy as np

from keras_greedy.batches import Batches
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.progress import Progress
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.moments.fisher import sensitivities
from keras_greedy.selection.output.candidates import Candidates
from keras_greedy.selection.output.objectives import OUTPUT_OBJECTIVES
from keras_greedy.selection.output.search import STEP_SIZES, LossSearch
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.steps import STEP_RULES

IMITATION_OBJECTIVES = {
    "global": ["global"],
    "local": ["local"],
    "best": ["global", "local"],
}
IMAGES_WEIGHED = 64


@dataclasses.dataclass(frozen=True)
class Imitation:
    """Selection on moments: the consumers' outputs are to stay what they are.

    Attributes:
        objective: `"global"`, `"local"`, or `"best"` of both for each group.
        step: `"corrective"`, `"line_search"` or `"uniform"`.
        seed: Of everything random.
    """

    objective: str
    step: str
    seed: int

    def check(self, model: keras.Model, data) -> None:
        """All data that `Batches` takes will do."""

    def alternatives(
        self, graph: ChannelGraph, data, moments: Moments, progress: Progress
    ) -> list[dict[str, SelectionPath]]:
        """Group name -> its selection path, for each objective to choose from."""
        return [
            self._paths(
                self._weights(objective, graph, data, progress),
                graph,
                moments,
                progress,
            )
            for objective in IMITATION_OBJECTIVES[self.objective]
        ]

    def _paths(self, weights, graph, moments, progress):
        groups = progress.over(graph.groups, "Selecting channels", len(graph.groups))
        reads = consumers_of(graph)
        return {g.name: self._path(g, reads, moments, weights) for g in groups}

    def _weights(self, objective, graph, data, progress):
        if objective == "local":
            return {}
        few = Batches(data, graph.functional, batch_size=16).take(IMAGES_WEIGHED)
        title = "Weighing what the output cares for"
        few = progress.over(few, title, IMAGES_WEIGHED // 16)
        return sensitivities(graph, few, self.seed)

    def _path(self, group: ChannelGroup, reads, moments, weights) -> SelectionPath:
        consumers = []
        for name in group.consumer_names:
            own = reads[name].features_of(group.channels)
            matrix = reads[name].matrix()[own]
            if name in weights:
                matrix = matrix * np.sqrt(np.tile(weights[name], reads[name].folds))
            covariance = moments.scatters[name].regularized()[np.ix_(own, own)]
            consumers.append((covariance, matrix))
        return STEP_RULES[self.step].path(consumers, group.size)


@dataclasses.dataclass(frozen=True)
class OutputSearch(LossSearch):
    """Selection on what the whole network answers.

    Attributes:
        objective: `"loss"` or `"divergence"`.
    """

    objective: str

    def held_against(self, model: keras.Model, data):
        """The `TrainingLoss` or `OutputDivergence` of a model on data."""
        return OUTPUT_OBJECTIVES[self.objective](model, data)

    def check(self, model: keras.Model, data) -> None:
        """Raises a ValueError when labels are needed and missing."""
        self.held_against(model, data)

    def alternatives(
        self, graph: ChannelGraph, data, moments: Moments, progress: Progress
    ) -> list[dict[str, SelectionPath]]:
        """Group name -> its selection path, all other groups whole."""
        against = self.held_against(graph.model, data)
        groups = progress.over(graph.groups, "Selecting channels", len(graph.groups))
        return [{g.name: self._path(graph, g, moments, against) for g in groups}]

    def _path(self, graph, group, moments, against) -> SelectionPath:
        selection = self.begin(graph, group, moments, against)
        while not selection.finished:
            selection.advance()
        return selection.path()


def method_of(objective, step, candidates, channels_per_step, seed):
    """The `Imitation` or `OutputSearch` of these arguments of `prune`.

    Raises:
        ValueError: When one is none of the choices, or they do not go together.
    """
    _check_choice("objective", objective, [*IMITATION_OBJECTIVES, *OUTPUT_OBJECTIVES])
    if objective in OUTPUT_OBJECTIVES:
        _check_choice("step", step, [*STEP_SIZES], f" with objective={objective!r}")
        which = "screened" if candidates is None else candidates
        return OutputSearch(step, Candidates(which, channels_per_step), seed, objective)
    _check_choice("step", step, [*STEP_RULES])
    if candidates is not None or channels_per_step != 1:
        raise ValueError(
            "Expected `candidates` and `channels_per_step` with an objective of "
            f"{[*OUTPUT_OBJECTIVES]}: the others evaluate all channels in closed form. "
            f"Received: candidates={candidates!r}, channels_per_step="
            f"{channels_per_step!r} with objective={objective!r}"
        )
    return Imitation(objective, step, seed)


def _check_choice(name, value, accepted, when=""):
    if value not in accepted:
        raise ValueError(
            f"Expected `{name}` to be one of {accepted}{when}. "
            f"Received: {name}={value!r}"
        )
