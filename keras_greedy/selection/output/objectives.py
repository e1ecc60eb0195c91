"""The objectives of a search on the output: labels, or the full network's answers."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras
import numpy as np

from keras_greedy.batches import Arrays, Batches
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import check_model, trace_quietly
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


class TrainingLoss:
    """The loss the model is trained with [ICML].

    Args:
        model: The full model.
        batches: The data, with labels.

    Raises:
        ValueError: When there are no labels that fit, or no loss that shows.
    """

    def __init__(self, model: keras.Model, batches: Batches):
        loss = training_loss(model, batches.data)
        self.loss: LossPerExample = loss_per_example(model, check_model(model), loss)
        self._batches = batches.labelled()

    def examples(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields inputs and labels of up to 32 examples, one array each per tensor."""
        return self._batches.pairs()


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

    def loss(self, outputs: list, answers: list) -> Any:
        """Returns the `(n,)` divergence, summed over the outputs."""
        triples = zip(self._kinds, answers, outputs, strict=True)
        return sum(kind.divergence(answer, output) for kind, answer, output in triples)

    def examples(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields inputs and the full model's answers, as `TrainingLoss.examples`."""
        functional = self._graph.functional
        for batch in self._batches:
            x = keras.tree.pack_sequence_as(functional.input, batch)
            answers = keras.tree.flatten(functional.predict_on_batch(x))
            yield batch, [np.asarray(answer) for answer in answers]


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
