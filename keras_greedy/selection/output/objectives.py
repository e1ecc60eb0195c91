"""The objectives of a search on the output: labels, or the full network's answers."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
import numpy as np

from keras_greedy.batches import Arrays, Batches
from keras_greedy.graph.answering import answering
from keras_greedy.graph.model_kinds import check_model
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.processes import total_of_processes
from keras_greedy.training.labels import check_labels
from keras_greedy.training.losses import LossPerExample, loss_per_example, training_loss

HOLD_EVERY = 5
"""A tolerance is checked on every fifth example, which the search does not see."""


class Objective(Protocol):
    """A loss of the network's outputs, and the examples to evaluate it on."""

    @property
    def loss(self) -> LossPerExample:
        """Maps lists of outputs and of targets to the `(n,)` loss per example."""
        ...

    def examples(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields inputs and targets of some examples, one array each per tensor."""
        ...


class CheckedObjective(Objective, Protocol):
    """An objective that looks at its targets before they are searched with."""

    def check(self) -> None:
        """Raises a ValueError when the targets do not fit the loss."""
        ...


class TrainingLoss:
    """The loss the model is trained with [ICML].

    Examples count by their weights, where the data are `(x, y, sample_weight)`. These
    are scaled to a mean of 1, so that equal weights change nothing.

    Args:
        model: The full model.
        batches: The data, with labels.

    Raises:
        ValueError: When there are no labels that fit, or no loss that shows.
    """

    def __init__(self, model: keras.Model, batches: Batches):
        self._functional = check_model(model)
        self._training_loss = training_loss(model, batches)
        self.loss: LossPerExample = loss_per_example(
            model,
            self._functional,
            self._training_loss,
        )
        self._batches = batches.labelled()
        self._mean_weight = self._mean_of_weights()

    def check(self) -> None:
        """Raises a ValueError when the labels do not fit the loss or the model."""
        check_labels(self._functional, self._training_loss, self._batches)
        inputs, targets = next(self.examples())
        outputs = answering(self._functional)(inputs)
        # It says so when it is no loss of each example.
        self.loss(outputs, [keras.ops.convert_to_tensor(target) for target in targets])

    def examples(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields inputs and labels of up to 32 examples, one array each per tensor.

        Behind the labels are the weights of the examples, if they have any.
        """
        for inputs, targets in self._batches.pairs():
            labels, weights = self._apart(targets)
            yield inputs, [*labels, *(weight / self._mean_weight for weight in weights)]

    def _mean_of_weights(self) -> float:
        if not self._batches.has_weights:
            return 1.0
        total, count = 0.0, 0
        for _, targets in self._batches.pairs():
            _, weights = self._apart(targets)
            total += sum(float(weight.sum(dtype=float)) for weight in weights)
            count += sum(weight.size for weight in weights)
        total, count = total_of_processes(total), total_of_processes(count)
        if not total:
            raise ValueError(
                "Expected `data` to give sample weights that are not all 0. Received: "
                f"no other among {count}."
            )
        return total / count

    def _apart(self, targets: Arrays) -> tuple[Arrays, Arrays]:
        """Returns the labels, and the weights of the examples as float32."""
        outputs = len(self._functional.outputs)
        weights = [weight.astype("float32") for weight in targets[outputs:]]
        return targets[:outputs], weights


class OutputDivergence:
    """The divergence from the answers of the full model [NeurIPS, global imitation].

    Args:
        model: The full model.
        batches: The data; labels are not needed.
    """

    def __init__(self, model: keras.Model, batches: Batches):
        self._graph = trace_quietly(model)
        self._batches = batches
        self._kinds = outputs_of(self._graph)

    def check(self) -> None:
        """Accepts all: the targets are the model's own answers."""

    def loss(self, outputs: list, answers: list) -> Any:
        """Returns the `(n,)` divergence, summed over the outputs."""
        triples = zip(self._kinds, answers, outputs, strict=True)
        return sum(kind.divergence(answer, output) for kind, answer, output in triples)

    def examples(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields inputs and the full model's answers, as `TrainingLoss.examples`."""
        answers = answering(self._graph.functional)
        for batch in self._batches:
            yield batch, [keras.ops.convert_to_numpy(each) for each in answers(batch)]


class Subset:
    """Some of the examples of an objective, the same ones each time.

    Args:
        objective: The objective of all examples.
        belongs: Maps the places in a batch to `(n,)` booleans: which are of the subset.
    """

    def __init__(
        self,
        objective: Objective,
        belongs: Callable[[np.ndarray], np.ndarray],
    ):
        self.loss: LossPerExample = objective.loss
        self._objective = objective
        self._belongs = belongs

    def examples(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields the examples of the subset, as the objective does."""
        for inputs, targets in self._objective.examples():
            own = self._belongs(np.arange(len(inputs[0])))
            if own.any():
                yield [x[own] for x in inputs], [y[own] for y in targets]


def held_apart(objective: Objective) -> tuple[Subset, Subset]:
    """Returns all examples but every fifth of a batch, and these."""

    def is_held(places: np.ndarray) -> np.ndarray:
        return places % HOLD_EVERY == HOLD_EVERY - 1

    searched = Subset(objective, lambda places: ~is_held(places))
    return searched, Subset(objective, is_held)
