"""Watches a training on examples that it does not see, and keeps the best weights."""

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.batches import Arrays, Batches
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import check_model, trace_quietly
from keras_greedy.training.batch_norm import reestimate_batch_norm

HOLD_EVERY = 8
"""Each one of so many examples is held apart."""

MOST_HELD = 512
"""Examples that are looked at after each epoch."""


def held_apart(batches: Batches) -> tuple[Batches, Batches]:
    """Returns the examples to train on, and those to watch the training on.

    These are the same where there are too few, or a model takes batches of one size.

    Args:
        batches: All of them.
    """
    if batches.fixed_size or len(batches.first[0]) < 2 * HOLD_EVERY:
        return batches, batches
    return batches.held_apart(HOLD_EVERY)


class HeldDivergence:
    """The divergence of a model from the full one's answers, on some examples.

    Args:
        full: The model whose answers are wanted.
        batches: The examples, of which the first ones are taken.
    """

    def __init__(self, full: keras.Model, batches: Batches):
        self._functional = check_model(full)
        self._kinds = outputs_of(trace_quietly(full))
        held: Iterable[Arrays] = batches.take(MOST_HELD)
        self._batches = list(held)
        self._wanted = [self._answers(full, batch) for batch in self._batches]

    def of(self, model: keras.Model) -> float:
        """Returns the mean of an example, summed over the outputs."""
        total = 0.0
        examples = 0
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            found = self._answers(model, batch)
            for kind, one, other in zip(self._kinds, wanted, found, strict=True):
                divergences = kind.divergence(one, other)
                total += float(ops.sum(divergences))
            examples += len(batch[0])
        return total / examples

    def _answers(self, model: keras.Model, batch: Arrays) -> list[Tensor]:
        x = keras.tree.pack_sequence_as(self._functional.input, batch)
        answers = keras.tree.flatten(model.predict_on_batch(x))
        return [ops.convert_to_tensor(answer) for answer in answers]


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights that come closest to the full model, those before included.

    After each epoch the BatchNorm statistics are measured anew: those of a few steps
    lag behind the weights.

    Args:
        compact: The model in training.
        divergence: From the full model, on held examples.
        batches: Those that it is trained on.

    Attributes:
        before: The divergence before the training.
        best: The least one.
    """

    def __init__(
        self,
        compact: keras.Model,
        divergence: HeldDivergence,
        batches: Batches,
    ):
        super().__init__()
        self._compact = compact
        self._divergence = divergence
        self._batches = batches
        self.before = divergence.of(compact)
        self.best = self.before
        self._weights: list[np.ndarray] = compact.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        value = self.look()
        if logs is not None:
            logs["held_divergence"] = value

    def look(self) -> float:
        """Measures the model as it is, and keeps its weights if they are the best."""
        reestimate_batch_norm(self._compact, self._batches)
        value = self._divergence.of(self._compact)
        if value < self.best:
            self.best = value
            self._weights = self._compact.get_weights()
        return value

    def restore(self) -> None:
        """Gives the model the best weights."""
        self._compact.set_weights(self._weights)
