"""Trains the compact model, on labels or on the answers of the full model."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_greedy.batches import Batches, output_keys
from keras_greedy.data_forms import Data
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import check_model, trace_quietly
from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.compiling import (
    compile_alike,
    copied_optimizer,
    settings_of,
)
from keras_greedy.training.fit_data import (
    answered,
    training_arguments,
    validation_arguments,
    validation_batches,
)
from keras_greedy.training.labels import check_labels
from keras_greedy.training.losses import (
    Loss,
    check_loss,
    losses_by_output,
    training_loss,
)
from tflite_export.checks import is_count, shown

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
            cross-entropy that fits the labels. Not used when distilling. Metrics and
            weights of the losses are those of the compile settings.
        distill: Train towards the full model's outputs (KL divergence; squared
            error for linear outputs, as Ba and Caruana, 2014). No labels needed.
        callbacks: One or several, passed to `fit`.

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
    tuning = keras_greedy.FineTune(epochs=2, distill=True)
    compact = keras_greedy.prune(model, data, 0.5, finetune=tuning, verbose=0)
    ```
    """

    epochs: int = 1
    optimizer: str | keras.Optimizer | None = None
    loss: Loss = None
    distill: bool = False
    callbacks: keras.callbacks.Callback | tuple[keras.callbacks.Callback, ...] = ()

    def __post_init__(self) -> None:
        if not is_count(self.epochs):
            raise ValueError(
                "Expected `epochs` to be a positive integer. "
                f"Received: epochs={shown(self.epochs)}"
            )
        if not isinstance(self.distill, bool | np.bool_):
            raise ValueError(
                "Expected `distill` to be True or False. "
                f"Received: distill={shown(self.distill)}"
            )
        if self.optimizer is not None:
            _optimizer_of(self.optimizer)
        check_loss(self.loss)
        _callbacks_of(self.callbacks)

    def check(
        self,
        data: Data | Batches,
        full: keras.Model,
        validation_data: Data | Batches | None = None,
    ) -> None:
        """Checks that `apply` can train with these settings, on these data.

        Args:
            data: As for `apply`.
            full: As for `apply`.
            validation_data: As for `apply`.

        Raises:
            ValueError: When labels or a loss are needed and missing, the data or the
                labels do not fit the model, or the optimizer cannot be copied.
        """
        functional = check_model(full)
        batches = Batches.of(data, functional)
        self._fresh_optimizer(full)
        check_loss(self.loss, output_keys(functional))
        held = validation_batches(validation_data, functional)
        if self.distill:
            return
        loss = training_loss(full, batches, self.loss)
        for labelled in (batches, held):
            if labelled is not None:
                _check_labelled(labelled, functional, loss)

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
        functional = check_model(full)
        batches = Batches.of(data, functional)
        fit |= {"epochs": self.epochs, "callbacks": _callbacks_of(self.callbacks)}
        held = validation_batches(fit.pop("validation_data", None), functional)
        train = self._distill if self.distill else self._supervise
        history = train(compact, full, batches, held, fit)
        # A few epochs move the weights, and a momentum of 0.999 not the statistics.
        reestimate_batch_norm(compact, batches)
        return history

    def _supervise(
        self,
        compact: keras.Model,
        full: keras.Model,
        batches: Batches,
        held: Batches | None,
        fit: dict,
    ) -> keras.callbacks.History:
        functional = check_model(full)
        self._compile(compact, full, batches)
        if held is not None:
            fit |= validation_arguments(held, functional)
        return compact.fit(**training_arguments(batches, functional), **fit)

    def _compile(
        self, compact: keras.Model, full: keras.Model, batches: Batches
    ) -> None:
        settings = settings_of(full)[0] if full.compiled else {}
        is_as_compiled = full.loss is not None and not (self.optimizer or self.loss)
        settings["loss"] = training_loss(full, batches, self.loss)
        settings["optimizer"] = self._fresh_optimizer(full)
        has_metrics = settings.get("metrics") or settings.get("weighted_metrics")
        is_single = len(check_model(full).outputs) == 1
        if not is_as_compiled and not has_metrics and is_single:
            settings["metrics"] = ["accuracy"]
        compact.compile(**settings)

    def _distill(
        self,
        compact: keras.Model,
        full: keras.Model,
        batches: Batches,
        held: Batches | None,
        fit: dict,
    ) -> keras.callbacks.History:
        functional = check_model(full)
        kinds = [output.kind for output in outputs_of(trace_quietly(full))]
        losses = []
        for kind in kinds:
            # Integers have no derivative to train by.
            losses.append(None if kind == "none" else DISTILLATION_LOSSES[kind]())
        losses = keras.tree.pack_sequence_as(functional.output, losses)
        # Keras keeps the metrics it has unless it is told that there are none.
        none = keras.tree.map_structure(lambda _: [], functional.output)
        compact.compile(self._fresh_optimizer(full), losses, metrics=none)
        shuffled = batches.shuffled(np.random.default_rng(0))
        examples, steps = answered(full, functional, shuffled)
        if held is not None:
            validation, validation_steps = answered(full, functional, held)
            fit["validation_data"] = validation
            fit["validation_steps"] = validation_steps
        history = compact.fit(examples, steps_per_epoch=steps, shuffle=False, **fit)
        compile_alike(compact, full, quiet=True)
        return history

    def _fresh_optimizer(self, full: keras.Model) -> keras.Optimizer:
        """Returns the optimizer to train with.

        Raises:
            ValueError: When the one of the settings or of the full model cannot be
                copied.
        """
        own = self.optimizer
        if own is None and full.compiled:
            own = full.optimizer
        if own is None:
            return keras.optimizers.Adam(LEARNING_RATE)
        own = _optimizer_of(own)
        try:
            return copied_optimizer(own)
        except Exception as error:
            raise ValueError(
                "Expected `optimizer` to be one that can be copied, in FineTune("
                "optimizer=...) or the compile settings of the model. Received: a "
                f"{type(own).__name__}, whose `get_config` does not give what its "
                f"`__init__` takes: {error}"
            ) from error


def check_finetune(name: str, finetune: Any) -> None:
    """Raises a ValueError unless `finetune`, of this name, is a `FineTune` or None."""
    if finetune is not None and not isinstance(finetune, FineTune):
        raise ValueError(
            f"Expected `{name}` to be a keras_greedy.FineTune or None. "
            f"Received: {name}={finetune!r}"
        )


def _check_labelled(
    batches: Batches,
    functional: keras.Model,
    loss: Loss,
) -> None:
    """Raises a ValueError when the labels do not fit."""
    labels = batches.first_labels()
    if labels is None:
        raise ValueError(
            f"Expected `{batches.name}` to give (x, y): labels are needed. Received: x "
            "alone."
        )
    names = output_keys(functional)
    losses = losses_by_output(loss, names)
    missing = [
        name for name in names if isinstance(labels, dict) and name not in labels
    ]
    if missing and all(losses[names.index(name)] is None for name in missing):
        return  # Keras trains the other outputs; there is less to compare.
    check_labels(functional, loss, batches.labelled())


def _optimizer_of(optimizer: Any) -> keras.Optimizer:
    try:
        return keras.optimizers.get(optimizer)
    except (TypeError, ValueError):
        raise ValueError(
            "Expected `optimizer` to be a name that Keras knows, or a keras.Optimizer. "
            f"Received: optimizer={shown(optimizer)}"
        ) from None


def _callbacks_of(callbacks: Any) -> list[keras.callbacks.Callback]:
    if isinstance(callbacks, keras.callbacks.Callback):
        return [callbacks]
    is_several = isinstance(callbacks, list | tuple)
    if not is_several or not all(
        isinstance(callback, keras.callbacks.Callback) for callback in callbacks
    ):
        raise ValueError(
            "Expected `callbacks` to be a keras.callbacks.Callback, or several. "
            f"Received: callbacks={shown(callbacks)}"
        )
    return list(callbacks)
