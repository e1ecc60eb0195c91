"""Watches a training on examples that it does not see, and keeps the best weights."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.batch_arrays import joined
from keras_greedy.batches import Arrays, Batches
from keras_greedy.graph.answering import answering
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.training.batch_norm import BATCH_SIZE, BatchNormStatistics
from keras_greedy.training.fit_data import evaluation_arguments
from tflite_export.user_warnings import warn_user

EXAMPLES_NORMALIZED = 256
"""About so many BatchNorm statistics are measured on after each epoch."""

Figures: TypeAlias = dict[str, float]
"""Of a model on held examples, as in the logs of `fit`; by the first one it is judged,
and less is better."""

# Computes the figures of a model.
Judge: TypeAlias = Callable[[keras.Model], Figures]


class HeldLoss:
    """The loss of a compiled model, and its metrics, on some labelled examples.

    Args:
        held: The examples.
        functional: The Functional whose inputs and outputs they fit.
    """

    def __init__(self, held: Batches, functional: keras.Model):
        self._held = held
        self._functional = functional

    def __call__(self, model: keras.Model) -> Figures:
        """Returns the loss, and the metrics behind it."""
        arguments = evaluation_arguments(self._held, self._functional)
        found = model.evaluate(**arguments, verbose=0, return_dict=True)
        loss = {"val_loss": found.pop("loss")}
        return loss | {f"val_{name}": value for name, value in found.items()}


class HeldDivergence:
    """The divergence of a model from the full one's answers, on some examples.

    Args:
        held: The examples.
        full: The model whose answers are wanted.
    """

    def __init__(self, held: Batches, full: keras.Model):
        self._kinds = outputs_of(trace_quietly(full))
        self._batches: list[Arrays] = list(held)
        of_full = answering(full)
        self._wanted = [of_full(batch) for batch in self._batches]
        # Model -> the function that computes its answers, compiled once.
        self._answering: dict[keras.Model, Callable[[Arrays], list[Tensor]]] = {}

    def __call__(self, model: keras.Model) -> Figures:
        """Returns the mean of an example, summed over the outputs."""
        if model not in self._answering:
            self._answering[model] = answering(model)
        answers = self._answering[model]
        total = 0.0
        examples = 0
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            found = answers(batch)
            for kind, one, other in zip(self._kinds, wanted, found, strict=True):
                divergences = kind.divergence(one, other)
                total += float(ops.sum(divergences))
            examples += len(batch[0])
        return {"val_divergence": total / examples}


class KeepBest(keras.callbacks.Callback):
    """Keeps the weights that are best on held examples, those before included.

    The model is judged with BatchNorm statistics measured anew, as those of a few steps
    lag behind the weights, and training goes on without them: a layer that has been
    trained on some statistics would have to learn again.

    Args:
        compact: The model in training.
        judge: Of that model.
        batches: The examples that it is trained on.
    """

    def __init__(self, compact: keras.Model, judge: Judge, batches: Batches):
        super().__init__()
        self._compact = compact
        self._judge = judge
        self._normalized = _spread(batches, EXAMPLES_NORMALIZED)
        self._statistics = BatchNormStatistics(compact)
        self._name, self._before = next(iter(judge(compact).items()))
        self._best = self._before
        self._best_epoch = 0
        self._weights: list[np.ndarray] = compact.get_weights()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        trained = self._compact.get_weights()
        self._statistics.measure(self._normalized)
        figures = self._judge(self._compact)
        if figures[self._name] < self._best:
            self._best = figures[self._name]
            self._best_epoch = epoch + 1
            self._weights = self._compact.get_weights()
        self._compact.set_weights(trained)
        if logs is not None:
            logs.update(figures)

    def restore(self) -> None:
        """Gives the model the best weights."""
        self._compact.set_weights(self._weights)

    def say(self, verbose: Any) -> None:
        """Says what was reached; a training of no use is a warning.

        Args:
            verbose: That of `fit`.
        """
        what = self._name.removeprefix("val_")
        if not self._best_epoch:
            warn_user(
                "No epoch of the fine-tuning was better on the examples that judge it, "
                f"where the {what} is {self._before:.3g}: the compact model is left as "
                "it was. More data, more epochs or a lower learning rate may help."
            )
        elif verbose:
            line = (
                f"On the examples that judge it: {what} {self._before:.3g} before, "
                f"{self._best:.3g} after epoch {self._best_epoch}, which is kept."
            )
            print(line, flush=True)


def _spread(batches: Batches, most: int) -> list[Arrays]:
    """Returns some examples from all over the data, which may be in order of class.

    Args:
        batches: The data.
        most: About how many examples.
    """
    # A model of a fixed batch size takes whole batches alone.
    size = batches.fixed_size or BATCH_SIZE
    every = math.ceil(batches.examples() / max(most, size))
    own = []
    seen = 0
    for batch in batches:
        is_own = (seen + np.arange(len(batch[0]))) % every == 0
        own.append([array[is_own] for array in batch])
        seen += len(batch[0])
    together = joined(own)
    whole = len(together[0])
    if batches.fixed_size:
        whole -= whole % size
    return [[x[i : i + size] for x in together] for i in range(0, whole, size)]


def fitted(
    trained: keras.Model,
    best: KeepBest,
    callbacks: list[keras.callbacks.Callback],
    verbose: Any = "auto",
    **fit: Any,
) -> keras.callbacks.History:
    """Trains a model, which has the best weights then, or when it is interrupted.

    Args:
        trained: A compiled model.
        best: Watches it.
        callbacks: Others.
        verbose: As for `fit`.
        **fit: The arguments of `fit`.
    """
    try:
        # First: what it finds is in the logs that the others see.
        callbacks = [best, *callbacks]
        history = trained.fit(callbacks=callbacks, verbose=verbose, **fit)
    finally:
        best.restore()
    best.say(verbose)
    return history
