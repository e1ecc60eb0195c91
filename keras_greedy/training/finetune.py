"""Trains the compact model, on labels or on the answers of the full model."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_greedy.batches import Batches, Data, is_arrays
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import check_model, trace_quietly
from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.losses import Loss, training_loss
from tflite_export.user_warnings import warn_user

DISTILLATION_LOSSES = {
    "categorical": keras.losses.KLDivergence,
    "binary": keras.losses.BinaryCrossentropy,
    "logits": keras.losses.MeanSquaredError,
    "real": keras.losses.MeanSquaredError,
}
LEARNING_RATE = 1e-3
"""Of Adam, where neither the settings nor the full model name an optimizer."""


@dataclasses.dataclass(frozen=True)
class FineTune:
    """The settings of a training of the compact model.

    Attributes:
        epochs: Passes over the data.
        optimizer: A name or a `keras.Optimizer`, which is copied. By default that
            of the full model's compile settings, else Adam at 1e-3.
        loss: By default that of the full model's compile settings, else the
            cross-entropy that fits the labels. Not used when distilling.
        distill: Train towards the full model's outputs (KL divergence; squared
            error for linear outputs, as Ba and Caruana, 2014). No labels needed.
        callbacks: Passed to `fit`.

    Raises:
        ValueError: When `epochs` is not a positive integer.

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
    tuning = keras_greedy.FineTune(epochs=2, distill=True)
    compact = keras_greedy.prune(model, data, 0.5, finetune=tuning, verbose=0)
    ```
    """

    epochs: int = 1
    optimizer: str | keras.Optimizer | None = None
    loss: Loss = None
    distill: bool = False
    callbacks: tuple[keras.callbacks.Callback, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(
                f"Expected `epochs` to be a positive integer. Received: {self.epochs!r}"
            )

    def check(self, data: Data, full: keras.Model) -> None:
        """Raises a ValueError when labels or a loss are needed and missing."""
        if not self.distill:
            training_loss(full, data, self.loss)

    def apply(
        self,
        compact: keras.Model,
        full: keras.Model,
        data: Data | Batches,
        **fit: Any,
    ) -> keras.callbacks.History:
        """Trains `compact` in place; afterwards it is compiled as `full` is.

        Args:
            compact: The model to train.
            full: The model it was pruned from: teacher and source of settings.
            data: Inputs and labels, or inputs alone with `distill`.
            **fit: Passed to `fit`, as `validation_data` and `verbose`.

        Returns:
            The history that `fit` returns.
        """
        batches = Batches.of(data, check_model(full))
        fit |= {"epochs": self.epochs, "callbacks": list(self.callbacks)}
        train = self._distill if self.distill else self._supervise
        history = train(compact, full, batches, fit)
        # A few epochs move the weights, and a momentum of 0.999 not the statistics.
        reestimate_batch_norm(compact, batches)
        return history

    def _supervise(
        self,
        compact: keras.Model,
        full: keras.Model,
        batches: Batches,
        fit: dict,
    ) -> keras.callbacks.History:
        data = batches.data
        self._compile(compact, full, data)
        if is_arrays(data):
            x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
            return compact.fit(x, y, sample_weight=weights, **fit)
        if isinstance(data, keras.utils.PyDataset):
            return compact.fit(data, **fit)
        if hasattr(data, "cardinality"):
            return compact.fit(data, shuffle=False, **fit)
        # Keras reads other iterables once only.
        forever = (tuple(batch) for _ in itertools.count() for batch in data)
        steps = sum(1 for _ in data)
        return compact.fit(forever, steps_per_epoch=steps, shuffle=False, **fit)

    def _compile(self, compact: keras.Model, full: keras.Model, data: Data) -> None:
        if full.loss is not None and self.optimizer is None and self.loss is None:
            compile_alike(compact, full)
        else:
            loss = training_loss(full, data, self.loss)
            compact.compile(self._fresh_optimizer(full), loss, metrics=["accuracy"])

    def _distill(
        self,
        compact: keras.Model,
        full: keras.Model,
        batches: Batches,
        fit: dict,
    ) -> keras.callbacks.History:
        functional = check_model(full)
        kinds = [output.kind for output in outputs_of(trace_quietly(full))]
        losses = [DISTILLATION_LOSSES[kind]() for kind in kinds]
        losses = keras.tree.pack_sequence_as(functional.output, losses)
        # Keras keeps the metrics it has unless it is told that there are none.
        none = keras.tree.map_structure(lambda _: [], functional.output)
        compact.compile(self._fresh_optimizer(full), losses, metrics=none)
        shuffled = batches.shuffled(np.random.default_rng(0))
        answered, steps = _answered(full, functional, shuffled)
        if fit.get("validation_data") is not None:
            held = Batches(fit["validation_data"], functional)
            validation, validation_steps = _answered(full, functional, held)
            fit["validation_data"] = validation
            fit["validation_steps"] = validation_steps
        history = compact.fit(answered, steps_per_epoch=steps, shuffle=False, **fit)
        compile_alike(compact, full)
        return history

    def _fresh_optimizer(self, full: keras.Model) -> keras.Optimizer:
        own = full.optimizer if full.compiled else keras.optimizers.Adam(LEARNING_RATE)
        return _copy(keras.optimizers.get(self.optimizer or own))


def check_finetune(name: str, finetune: Any) -> None:
    """Raises a ValueError unless `finetune`, of this name, is a `FineTune` or None."""
    if finetune is not None and not isinstance(finetune, FineTune):
        raise ValueError(
            f"Expected `{name}` to be a keras_greedy.FineTune or None. "
            f"Received: {name}={finetune!r}"
        )


def compile_alike(compact: keras.Model, model: keras.Model) -> None:
    """Compiles `compact` with the settings of `model`, if it has any."""
    if not model.compiled:
        return
    try:
        compact.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        compact.compile(_copy(model.optimizer), model.loss)
        warn_user(
            "Of the compile settings of the model only optimizer and loss could be "
            f"carried over to the compact one. Keras says: {error}"
        )


def _copy(optimizer: keras.Optimizer) -> keras.Optimizer:
    return type(optimizer).from_config(optimizer.get_config())


def _answered(
    full: keras.Model,
    functional: keras.Model,
    batches: Batches,
) -> tuple[Iterator[tuple], int]:
    """Returns the inputs with the full model's outputs, for ever.

    Args:
        full: The model to answer.
        functional: The Functional that holds its graph.
        batches: The inputs.

    Returns:
        `(inputs, outputs)` batch by batch, and after how many they begin anew.
    """

    def answered() -> Iterator[tuple]:
        while True:
            for batch in batches:
                x = keras.tree.pack_sequence_as(functional.input, batch)
                yield x, full.predict_on_batch(x)

    return answered(), sum(1 for _ in batches)
