"""Trains the compact model, on labels or towards what the full model computes."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np

from keras_greedy.batches import Batches, output_keys
from keras_greedy.data_forms import Data
from keras_greedy.graph.model_kinds import check_model
from keras_greedy.processes import check_one_process
from keras_greedy.scopes import scope_of
from keras_greedy.training.amounts import epochs_for
from keras_greedy.training.compiling import compile_alike, settings_of
from keras_greedy.training.fit_data import (
    for_fit,
    steps_in_an_epoch,
    training_arguments,
    validation_batches,
)
from keras_greedy.training.held import HeldDivergence, HeldLoss, KeepBest, fitted
from keras_greedy.training.labels import check_labels
from keras_greedy.training.losses import (
    Loss,
    check_loss,
    losses_by_output,
    training_loss,
)
from keras_greedy.training.mimicry import Student, views_of
from keras_greedy.training.optimizers import (
    OF_RATES,
    copy_of,
    default_optimizer,
    optimizer_of,
    warm_up,
)
from keras_greedy.training.tasks import network_of, preprocessed
from tflite_export.checks import is_count, shown


@dataclasses.dataclass(frozen=True)
class FineTune:
    """The settings of a training of the compact model.

    Attributes:
        epochs: Passes over the data; by default the more, the fewer examples there
            are.
        optimizer: A name or a `keras.Optimizer`, which is copied and used as it is. By
            default, on labels, that of the full model's compile settings, else Adam at
            1e-3; when distilling Adam at 6e-4. Its learning rate then rises for a
            twentieth of the steps, and falls as a cosine.
        loss: By default that of the full model's compile settings, else the
            cross-entropy that fits the labels. Not used when distilling. Metrics and
            weights of the losses are those of the compile settings.
        distill: Train towards what the full model computes, at each position of each
            layer that reads what no channel was pruned of. No labels needed. Images are
            seen in random views. Layers of more weights than there are positions in all
            examples keep them, and outputs are learned from more examples than weights.
        callbacks: One or several, passed to `fit`. When distilling, the compact model
            is the attribute `compact` of their `model`.

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

    epochs: int | None = None
    optimizer: str | keras.Optimizer | None = None
    loss: Loss = None
    distill: bool = False
    callbacks: keras.callbacks.Callback | tuple[keras.callbacks.Callback, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs is not None and not is_count(self.epochs):
            raise ValueError(
                "Expected `epochs` to be a positive integer or None. "
                f"Received: epochs={shown(self.epochs)}"
            )
        if not isinstance(self.distill, bool | np.bool_):
            raise ValueError(
                "Expected `distill` to be True or False. "
                f"Received: distill={shown(self.distill)}"
            )
        if self.optimizer is not None:
            optimizer_of(self.optimizer)
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
        check_one_process("fine-tuning")
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

        After each epoch it is judged on examples that it does not see, by its loss,
        or when distilling by its divergence from the full model. The best weights are
        kept, those before the training among them.

        Args:
            compact: The model to train.
            full: The model it was pruned from: teacher and source of settings.
            data: Inputs and labels, or inputs alone with `distill`.
            **fit: Passed to `fit`, as `validation_data` and `verbose`. The validation
                data are the examples that it is judged on; by default about an eighth
                of `data` is held apart for that, at most some thousand examples.

        Returns:
            The history that `fit` returns, with `val_loss` or `val_divergence`.
        """
        data = preprocessed(full, data)
        validation = preprocessed(full, fit.pop("validation_data", None))
        full = network_of(full)
        with scope_of(compact):
            return self._train(compact, full, data, validation, fit)

    def _train(
        self,
        compact: keras.Model,
        full: keras.Model,
        data: Data | Batches,
        validation: Data | Batches | None,
        fit: dict,
    ) -> keras.callbacks.History:
        check_one_process("fine-tuning")
        functional = check_model(full)
        batches = Batches.of(data, functional)
        held = validation_batches(validation, functional)
        if held is None:
            # Those of a few dozen examples have to judge what they teach.
            batches, held = batches.held_apart() or (batches, batches)
        fit["epochs"] = self.epochs or epochs_for(batches.examples())
        fit["callbacks"] = _callbacks_of(self.callbacks)
        train = self._distill if self.distill else self._supervise
        return train(compact, full, batches, held, fit)

    def _supervise(
        self,
        compact: keras.Model,
        full: keras.Model,
        batches: Batches,
        held: Batches,
        fit: dict,
    ) -> keras.callbacks.History:
        functional = check_model(full)
        fit = training_arguments(batches, functional) | fit
        steps = fit["epochs"] * steps_in_an_epoch(fit, batches)
        self._compile(compact, full, batches, steps)
        best = KeepBest(compact, HeldLoss(held, functional), batches)
        history = fitted(compact, best, **fit)
        if self.optimizer is None:
            # The learning rate is at its end: whoever trains on begins anew.
            self._compile(compact, full, batches)
        return history

    def _compile(
        self,
        compact: keras.Model,
        full: keras.Model,
        batches: Batches,
        steps: int | None = None,
    ) -> None:
        settings = settings_of(full)[0] if full.compiled else {}
        is_as_compiled = full.loss is not None and not (self.optimizer or self.loss)
        settings["loss"] = training_loss(full, batches, self.loss)
        settings["optimizer"] = self._fresh_optimizer(full, steps)
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
        held: Batches,
        fit: dict,
    ) -> keras.callbacks.History:
        student = Student(compact, full, batches)
        best = KeepBest(compact, HeldDivergence(held, full), batches)
        shared = batches.for_devices()
        views = functools.partial(views_of, shared, student)
        fit["x"] = for_fit(views, student.functional)
        fit["steps_per_epoch"] = sum(1 for _ in shared)
        steps = fit["epochs"] * fit["steps_per_epoch"]
        with student.freezing():
            student.compile(self._fresh_optimizer(full, steps))
            history = fitted(student, best, shuffle=False, **fit)
        compile_alike(compact, full, quiet=True)
        return history

    def _fresh_optimizer(
        self,
        full: keras.Model,
        steps: int | None = None,
    ) -> keras.Optimizer:
        """Returns the optimizer to train with.

        Args:
            full: The full model.
            steps: Of the whole training; without, the learning rate is constant.

        Raises:
            ValueError: When the one of the settings or of the full model cannot be
                copied.
        """
        if self.optimizer is not None:
            return copy_of(optimizer_of(self.optimizer))
        if full.compiled and full.optimizer is not None and not self.distill:
            own = copy_of(full.optimizer)
        else:
            own = default_optimizer(self.distill)
        callbacks = _callbacks_of(self.callbacks)
        sets_rate = any(isinstance(callback, OF_RATES) for callback in callbacks)
        if steps is not None and not sets_rate:
            warm_up(own, steps)
        return own


def check_finetune(name: str, finetune: Any) -> None:
    """Raises a ValueError unless `finetune`, of this name, is a `FineTune` or None."""
    if finetune is not None and not isinstance(finetune, FineTune):
        raise ValueError(
            f"Expected `{name}` to be a keras_greedy.FineTune or None. "
            f"Received: {name}={finetune!r}"
        )


def trainings_of(finetune: Any, batches: Batches) -> list[FineTune]:
    """Returns the trainings that the argument `finetune` of `prune` stands for.

    True is one towards the full model, and another one on the labels, if there are any.

    Args:
        finetune: As given by the user.
        batches: The data.

    Raises:
        ValueError: When it is none of a `FineTune`, True, False and None.
    """
    if isinstance(finetune, FineTune):
        return [finetune]
    if finetune is None or finetune is False:
        return []
    if finetune is not True:
        raise ValueError(
            "Expected `finetune` to be a keras_greedy.FineTune, True, False or None. "
            f"Received: finetune={finetune!r}"
        )
    trainings = [FineTune(distill=True)]
    if batches.first_labels() is not None:
        trainings.append(FineTune())
    return trainings


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
