"""Training of the compact model, on labels or on what the full model says."""

import dataclasses
import itertools
import warnings

import keras
import numpy as np

from keras_greedy.batches import Batches, is_arrays
from keras_greedy.graph.trace import trace
from keras_greedy.selection.outputs import outputs_of

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

    def check(self, data) -> None:
        """Raises a ValueError when `data` lacks the labels this needs."""
        if not self.distill and _first_labels(data) is None:
            raise ValueError(
                "Expected `data` to give (x, y) for fine-tuning on labels. Received: "
                "x alone. Add the labels, or use FineTune(distill=True), which needs "
                "none."
            )

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
        if self.distill:
            return self._distill(compact, full, data, fit)
        self._compile(compact, full, data)
        if is_arrays(data):
            x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
            return compact.fit(x, y, sample_weight=weights, **fit)
        if isinstance(data, (list, tuple)):
            forever = itertools.cycle(map(tuple, data))
            return compact.fit(forever, steps_per_epoch=len(data), **fit)
        return compact.fit(data, **fit)

    def _compile(self, compact, full, data):
        if full.compiled and self.optimizer is None and self.loss is None:
            compile_alike(compact, full)
            return
        loss = self.loss or (full.loss if full.compiled else _cross_entropy(full, data))
        compact.compile(self._fresh_optimizer(), loss, metrics=["accuracy"])

    def _distill(self, compact, full, data, fit):
        graph = trace(full)
        losses = [DISTILLATION_LOSSES[output.kind]() for output in outputs_of(graph)]
        pack = keras.tree.pack_sequence_as
        compact.compile(self._fresh_optimizer(), pack(graph.functional.output, losses))
        batches = Batches(data, graph.functional, shuffle=np.random.default_rng(0))

        def lessons():
            while True:
                for batch in batches:
                    x = pack(graph.functional.input, batch)
                    yield x, full.predict_on_batch(x)

        steps = sum(1 for _ in batches)
        history = compact.fit(lessons(), steps_per_epoch=steps, **fit)
        compile_alike(compact, full)
        return history

    def _fresh_optimizer(self):
        optimizer = keras.optimizers.get(self.optimizer or keras.optimizers.Adam(1e-3))
        return type(optimizer).from_config(optimizer.get_config())


def compile_alike(compact: keras.Model, model: keras.Model) -> None:
    """Compiles `compact` with the settings of `model`, if it has any."""
    config = model.get_compile_config() if model.compiled else None
    if not config:
        return
    try:
        compact.compile_from_config(config)
    except (TypeError, ValueError) as error:
        warnings.warn(
            "The compile settings of the model could not be carried over to the "
            f"compact one; compile it yourself. Keras says: {error}",
            stacklevel=3,
        )


def _first_labels(data):
    first = data if is_arrays(data) else next(iter(data), None)
    return keras.utils.unpack_x_y_sample_weight(first)[1]


def _cross_entropy(model: keras.Model, data):
    """The loss that fits the model's output and the shape of the labels."""
    (kind,) = {output.kind for output in outputs_of(trace(model))}
    if kind == "real":
        raise ValueError(
            "Expected `FineTune(loss=...)`: the model is not compiled and its linear "
            "output does not tell the loss. Compile the model or name the loss."
        )
    if kind == "binary":
        return keras.losses.BinaryCrossentropy()
    labels = np.shape(_first_labels(data))
    one_hot = len(labels) > 1 and labels[-1] == model.output_shape[-1]
    name = "CategoricalCrossentropy" if one_hot else "SparseCategoricalCrossentropy"
    return getattr(keras.losses, name)()
