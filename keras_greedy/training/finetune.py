"""Training of the compact model, on labels or on what the full model says."""

import dataclasses
import itertools
import warnings

import keras
import numpy as np

from keras_greedy.batches import Batches, is_arrays
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import check_model, trace_quietly
from keras_greedy.training.batch_norm import reestimate_batch_norm
from keras_greedy.training.losses import training_loss

DISTILLATION_LOSSES = {
    "categorical": keras.losses.KLDivergence,
    "binary": keras.losses.BinaryCrossentropy,
    "logits": keras.losses.MeanSquaredError,
    "real": keras.losses.MeanSquaredError,
}


@dataclasses.dataclass(frozen=True)
class FineTune:
    """How to train a compact model.

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
    compact = keras_greedy.prune(
        model, images, 0.5, finetune=keras_greedy.FineTune(epochs=5, distill=True)
    )
    ```
    """

    epochs: int = 1
    optimizer: object = None
    loss: object = None
    distill: bool = False
    callbacks: tuple = ()

    def __post_init__(self):
        if not isinstance(self.epochs, int) or self.epochs < 1:
            raise ValueError(
                f"Expected `epochs` to be a positive integer. Received: {self.epochs!r}"
            )

    def check(self, data, full: keras.Model) -> None:
        """Raises a ValueError when labels or a loss are needed and missing."""
        if self.distill:
            return
        training_loss(full, data, self.loss)

    def apply(
        self, compact: keras.Model, full: keras.Model, data, **fit
    ) -> keras.callbacks.History:
        """Trains `compact` in place; afterwards it is compiled as `full` is.

        Args:
            compact: The model to train.
            full: The model it was pruned from: teacher and source of settings.
            data: Inputs and labels, or inputs alone with `distill`.
            **fit: Passed to `fit`, as `validation_data` and `verbose`.

        Returns:
            What `fit` returns.
        """
        fit |= {"epochs": self.epochs, "callbacks": list(self.callbacks)}
        train = self._distill if self.distill else self._supervise
        history = train(compact, full, data, fit)
        # A few epochs move the weights, and a momentum of 0.999 not the statistics.
        reestimate_batch_norm(compact, data)
        return history

    def _supervise(self, compact, full, data, fit):
        self._compile(compact, full, data)
        if is_arrays(data):
            x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
            return compact.fit(x, y, sample_weight=weights, **fit)
        if isinstance(data, keras.utils.PyDataset):
            return compact.fit(data, **fit)
        if hasattr(data, "cardinality"):
            return compact.fit(data, shuffle=False, **fit)
        forever = (tuple(batch) for _ in itertools.count() for batch in data)
        steps = sum(1 for _ in data)
        return compact.fit(forever, steps_per_epoch=steps, shuffle=False, **fit)

    def _compile(self, compact, full, data):
        if full.loss is not None and self.optimizer is None and self.loss is None:
            compile_alike(compact, full)
        else:
            loss = training_loss(full, data, self.loss)
            compact.compile(self._fresh_optimizer(full), loss, metrics=["accuracy"])

    def _distill(self, compact, full, data, fit):
        functional = check_model(full)
        kinds = [output.kind for output in outputs_of(trace_quietly(full))]
        losses = [DISTILLATION_LOSSES[kind]() for kind in kinds]
        losses = keras.tree.pack_sequence_as(functional.output, losses)
        # Keras keeps the metrics it has unless it is told that there are none.
        none = keras.tree.map_structure(lambda _: [], functional.output)
        compact.compile(self._fresh_optimizer(full), losses, metrics=none)
        lessons, steps = _lessons(full, functional, data, np.random.default_rng(0))
        if fit.get("validation_data") is not None:
            exam, length = _lessons(full, functional, fit["validation_data"])
            fit |= {"validation_data": exam, "validation_steps": length}
        history = compact.fit(lessons, steps_per_epoch=steps, shuffle=False, **fit)
        compile_alike(compact, full)
        return history

    def _fresh_optimizer(self, full):
        own = full.optimizer if full.compiled else keras.optimizers.Adam(1e-3)
        return _copy(keras.optimizers.get(self.optimizer or own))


def compile_alike(compact: keras.Model, model: keras.Model) -> None:
    """Compiles `compact` with the settings of `model`, if it has any."""
    if not model.compiled:
        return
    try:
        compact.compile_from_config(model.get_compile_config())
    except (TypeError, ValueError) as error:
        compact.compile(_copy(model.optimizer), model.loss)
        warnings.warn(
            "Of the compile settings of the model only optimizer and loss could be "
            f"carried over to the compact one. Keras says: {error}",
            stacklevel=3,
        )


def _copy(optimizer):
    return type(optimizer).from_config(optimizer.get_config())


def _lessons(full: keras.Model, functional: keras.Model, data, shuffle=None):
    """Inputs with the full model's outputs, for ever, and how many batches are new."""
    batches = Batches(data, functional, shuffle=shuffle)

    def lessons():
        while True:
            for batch in batches:
                x = keras.tree.pack_sequence_as(functional.input, batch)
                yield x, full.predict_on_batch(x)

    return lessons(), sum(1 for _ in batches)
