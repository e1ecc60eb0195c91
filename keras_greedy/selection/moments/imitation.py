"""The method of selection on second moments."""

import dataclasses
from typing import TypeAlias

import keras
import numpy as np

from keras_greedy.batches import BATCH_SIZE, Batches
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.processes import share_of
from keras_greedy.progress import Progress
from keras_greedy.records import NO_RECORDS, Record, Records
from keras_greedy.selection.consumers import Consumer, consumers_of
from keras_greedy.selection.moments.fisher import sensitivities
from keras_greedy.selection.moments.scatter import Moments
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.steps import STEP_RULES, MomentsAndKernels
from keras_greedy.threads import in_parallel
from tflite_export.checks import check_choice

IMITATED: dict[str, list[str]] = {
    "global": ["global"],
    "local": ["local"],
    "best": ["global", "local"],
}
"""Objective of an `Imitation` -> those that each group chooses from."""

DIVERGENCES = ("measured", "expanded")

LEAST_WEIGHT = 1e-12
"""Of an output, as a share of the greatest one's."""

IMAGES_WEIGHED = 64
WEIGHING_BATCH = 16

Paths: TypeAlias = dict[str, SelectionPath]


@dataclasses.dataclass(frozen=True)
class Imitation:
    """Selection on second moments: the consumers' outputs stay close to the full ones.

    One search gives every group's path, and so every budget.

    Attributes:
        objective: `"local"`: the squared error at the output of the layers that read
            the channels. `"global"`: likewise, each output weighed by its Fisher
            information in the network's output. `"best"`: for each group the one of
            these two that changes the network's output less.
        step: `"corrective"`: after each addition the least-squares optimum.
            `"uniform"`: the same weight for each pick. `"line_search"`: the size of
            each step is chosen with the channel.
        divergence: What cutting a group alone makes of the network's output, for the
            widths of a budget. `"measured"`: the network behind it is run.
            `"expanded"`: to second order, for all groups in a few passes: many times
            as fast for deep networks, and too low for cuts that ruin the network.

    Raises:
        ValueError: When an attribute is none of these.

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
    method = keras_greedy.Imitation("local", step="line_search")
    compact = keras_greedy.prune(model, data, 0.5, method=method, verbose=0)
    ```

    Reference: Ye, Wu and Liu, Greedy Optimization Provably Wins the Lottery, NeurIPS
    2020.
    """

    objective: str = "global"
    step: str = "corrective"
    divergence: str = "measured"

    def __post_init__(self) -> None:
        check_choice("divergence", self.divergence, DIVERGENCES)
        check_choice("objective", self.objective, IMITATED)
        check_choice("step", self.step, STEP_RULES)

    def check(self, model: keras.Model, batches: Batches) -> None:
        """Accepts all data that `Batches` accepts."""

    def alternatives(
        self,
        graph: ChannelGraph,
        batches: Batches,
        moments: Moments,
        seed: int,
        progress: Progress,
        records: Records = NO_RECORDS,
    ) -> list[Paths]:
        """Returns the path of each group, once per objective to choose from.

        Args:
            graph: The traced model, for inference.
            batches: The calibration data.
            moments: Of the inputs of the consumers.
            seed: Of the labels drawn for the Fisher information.
            progress: Shows the stages.
            records: Keep the weights of the outputs, and each path.

        Returns:
            For each objective: group name -> its selection path.
        """
        found = []
        for objective in IMITATED[self.objective]:
            weights = {}
            if objective == "global":
                with records.open_own("sensitivities") as record:
                    weights = self._output_weights(
                        graph, batches, seed, progress, record
                    )
            with records.open(f"paths-{objective}") as record:
                found.append(self._paths(graph, moments, weights, progress, record))
        return found

    def _output_weights(
        self,
        graph: ChannelGraph,
        batches: Batches,
        seed: int,
        progress: Progress,
        record: Record,
    ) -> dict[str, np.ndarray]:
        """Returns the Fisher weights `(outputs,)` of each consumer's outputs."""
        images = share_of(IMAGES_WEIGHED)
        few = batches.of_size(WEIGHING_BATCH).take(images)
        title = "Weighing what the output cares for"
        few = progress.over(few, title, -(-images // WEIGHING_BATCH))
        turn = BATCH_SIZE // WEIGHING_BATCH
        return sensitivities(graph, few, seed, record, turn)

    def _paths(
        self,
        graph: ChannelGraph,
        moments: Moments,
        weights: dict[str, np.ndarray],
        progress: Progress,
        record: Record,
    ) -> Paths:
        consumers = consumers_of(graph)
        paths = {group.name: record.get(group.name) for group in graph.groups}
        left = [group for group in graph.groups if paths[group.name] is None]

        def path_of(group: ChannelGroup) -> SelectionPath:
            problems = self._problems(group, consumers, moments, weights)
            return STEP_RULES[self.step].path(problems, group.size)

        found = in_parallel(path_of, left)
        shown = progress.over(found, "Selecting channels", len(left))
        for path, group in zip(shown, left, strict=True):
            paths[group.name] = path
            record.put(group.name, path)
        return paths

    def _problems(
        self,
        group: ChannelGroup,
        consumers: dict[str, Consumer],
        moments: Moments,
        weights: dict[str, np.ndarray],
    ) -> MomentsAndKernels:
        """Yields the covariance and the kernel of a consumer after the other."""
        for name in group.consumer_names:
            consumer = consumers[name]
            # The features that the group's F / N per channel own, channel by channel.
            own = consumer.features_of(group.channels)
            matrix = consumer.matrix()[own]
            if name in weights:
                # ||(f - F) sqrt(M)||^2: the weights M go into the kernel's columns.
                column_weights = np.tile(_above_zero(weights[name]), consumer.folds)
                matrix = matrix * np.sqrt(column_weights)
            covariance = moments.scatters[name].regularized()
            yield covariance[np.ix_(own, own)], matrix


def _above_zero(weights: np.ndarray) -> np.ndarray:
    """Returns the Fisher weights `(outputs,)` of a consumer, none of which is 0.

    An output may matter for none of the few images that were weighed. A channel that
    it reads still comes before one that nothing reads.
    """
    greatest = weights.max()
    if greatest == 0:
        return np.ones(len(weights))
    return np.maximum(weights, LEAST_WEIGHT * greatest)
