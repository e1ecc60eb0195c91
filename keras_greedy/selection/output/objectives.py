"""What the network's output is held against: labels, or the full network's output."""

from collections.abc import Iterator

import keras
import numpy as np

from keras_greedy.batches import Batches, LabelledBatches
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import check_model, trace_quietly
from keras_greedy.training.losses import loss_per_example, training_loss

HELD = 5


class TrainingLoss:
    """The loss the model is trained with [ICML].

    Args:
        model: The full model.
        data: As for `prune`, with labels.

    Raises:
        ValueError: When there are no labels that fit, or no loss that shows.
    """

    def __init__(self, model: keras.Model, data):
        functional = check_model(model)
        self.loss = loss_per_example(model, functional, training_loss(model, data))
        self._inputs = len(functional.inputs)
        self._batches = LabelledBatches(data, functional)

    def examples(self) -> Iterator[tuple[list, list]]:
        """Yields inputs and labels of up to 32 examples, one array each per tensor."""
        for batch in self._batches:
            yield batch[: self._inputs], batch[self._inputs :]


class OutputDivergence:
    """The divergence from what the full model answers [NeurIPS, global imitation].

    Args:
        model: The full model.
        data: As for `prune`; labels are not needed.
    """

    def __init__(self, model: keras.Model, data):
        self._graph = trace_quietly(model)
        self._batches = Batches(data, self._graph.functional)
        self._kinds = outputs_of(self._graph)

    def loss(self, outputs, answers):
        """`(n,)` divergence, summed over the outputs."""
        return sum(
            kind.divergence(answer, output)
            for kind, answer, output in zip(self._kinds, answers, outputs, strict=True)
        )

    def examples(self) -> Iterator[tuple[list, list]]:
        """Yields inputs and the full model's answers, as `TrainingLoss.examples`."""
        functional = self._graph.functional
        for batch in self._batches:
            x = keras.tree.pack_sequence_as(functional.input, batch)
            answers = keras.tree.flatten(functional.predict_on_batch(x))
            yield batch, [np.asarray(answer) for answer in answers]


OUTPUT_OBJECTIVES = {"loss": TrainingLoss, "divergence": OutputDivergence}


class Part:
    """Some of the examples of an objective, the same ones each time.

    Args:
        objective: A `TrainingLoss` or an `OutputDivergence`.
        belongs: A function of the places in a batch: `(n,)` whether they belong.
    """

    def __init__(self, objective, belongs):
        self.loss = objective.loss
        self._objective, self._belongs = objective, belongs

    def examples(self) -> Iterator[tuple[list, list]]:
        """As of the objective."""
        for inputs, targets in self._objective.examples():
            own = self._belongs(np.arange(len(inputs[0])))
            if own.any():
                yield [x[own] for x in inputs], [y[own] for y in targets]


def held_apart(objective) -> tuple[Part, Part]:
    """All examples but every fifth of a batch, and these."""
    held = Part(objective, lambda places: places % HELD == HELD - 1)
    return Part(objective, lambda places: places % HELD != HELD - 1), held
