"""Checks labels against the loss and the outputs of a model, before any long work."""

import itertools

import keras
import numpy as np

from keras_greedy.batch_arrays import NUMBERS
from keras_greedy.batches import LabelledBatches, output_keys
from keras_greedy.data_forms import MOST_BATCHES
from keras_greedy.training.losses import (
    Loss,
    loss_function,
    loss_values,
    losses_by_output,
)

SPARSE = keras.losses.sparse_categorical_crossentropy

OF_PROBABILITIES = (
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
)
"""The losses whose labels are probabilities, each by itself."""

ENTRY_BY_ENTRY = (
    *OF_PROBABILITIES,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.categorical_hinge,
    keras.losses.cosine_similarity,
    keras.losses.hinge,
    keras.losses.huber,
    keras.losses.kl_divergence,
    keras.losses.log_cosh,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.mean_squared_error,
    keras.losses.mean_squared_logarithmic_error,
    keras.losses.poisson,
    keras.losses.squared_hinge,
)
"""The losses whose labels have the shape of the output."""


def check_labels(
    functional: keras.Model,
    loss: Loss,
    batches: LabelledBatches,
) -> None:
    """Raises a ValueError when labels do not fit the loss they are for.

    Their values are looked at, up to some number of batches, and the loss is computed
    on the first one.

    Args:
        functional: The Functional that holds its graph.
        loss: As for `compile`.
        batches: The data with labels.
    """
    names = output_keys(functional)
    functions = losses_by_output(loss, names)
    outputs = keras.tree.flatten(functional.output)
    pairs = batches.pairs()
    first = next(pairs)
    for _, targets in itertools.islice(itertools.chain([first], pairs), MOST_BATCHES):
        # Behind the labels there may be weights of the examples.
        labels = targets[: len(names)]
        for name, own, y, output in zip(names, functions, labels, outputs, strict=True):
            if own is not None:
                whose = f"`{batches.name}` for the output {name!r}"
                _check_values(whose, own, y, tuple(output.shape))
    _check_computable(functional, loss, batches.name, first)


def _check_values(whose: str, loss: Loss, labels: np.ndarray, output: tuple) -> None:
    """Raises a ValueError for labels that make no sense to one of Keras' losses."""
    if labels.dtype.kind not in NUMBERS:
        _refuse(whose, "numbers", f"labels of dtype {labels.dtype}")
    own = loss_function(loss, labels.shape, output)
    function = getattr(own, "fn", own)
    if not labels.size or function not in (SPARSE, *ENTRY_BY_ENTRY):
        return
    if labels.dtype.kind != "V" and not np.isfinite(labels).all():
        _refuse(whose, "finite", "labels with NaN or infinity")
    if function is SPARSE:
        config = own.get_config() if isinstance(own, keras.losses.Loss) else {}
        counted = labels[labels != config.get("ignore_class")]
        _check_classes(whose, counted, output[-1])
        return
    if function in OF_PROBABILITIES and not ((labels >= 0) & (labels <= 1)).all():
        _refuse(whose, "of the two classes 0 and 1", _range(labels))
    if not _has_shape(labels.shape, output):
        # Keras would compare each label with all of the outputs.
        received = f"labels of shape {labels.shape}"
        _refuse(whose, f"of the output's shape {output}", received)


def _check_classes(whose: str, labels: np.ndarray, classes: int) -> None:
    if ((labels < 0) | (labels >= classes)).any():
        expected = f"numbers of the {classes} classes, from 0 to {classes - 1}"
        _refuse(whose, expected, _range(labels))
    if (labels != np.floor(labels)).any():
        _refuse(whose, "whole numbers of classes", "labels with fractions")


def _has_shape(labels: tuple, output: tuple) -> bool:
    """Returns whether labels have the output's shape, but for a last axis of 1."""
    if len(labels) != len(output):
        longer = max(labels, output, key=len)
        if longer[-1] != 1 or abs(len(labels) - len(output)) > 1:
            return False
    pairs = zip(labels[1:], output[1:], strict=False)
    return all(size is None or size == got for got, size in pairs)


def _range(labels: np.ndarray) -> str:
    return f"labels from {labels.min()} to {labels.max()}"


def _refuse(whose: str, expected: str, received: str) -> None:
    raise ValueError(
        f"Expected the labels of {whose} to be {expected}. Received: {received}."
    )


def _check_computable(
    functional: keras.Model,
    loss: Loss,
    data: str,
    batch: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    """Raises a ValueError when the loss fails on a batch."""
    inputs, targets = batch
    shapes = [target.shape for target in targets]
    x = [keras.ops.convert_to_tensor(array) for array in inputs]
    x = keras.tree.pack_sequence_as(functional.input, x)
    outputs = keras.tree.flatten(functional(x, training=False))
    losses = losses_by_output(loss, output_keys(functional))
    for own, target, output in zip(losses, targets, outputs, strict=False):
        if own is None:
            continue
        try:
            y = keras.ops.convert_to_tensor(target)
            values = keras.ops.convert_to_numpy(loss_values(own, y, output))
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(
                f"Expected labels of `{data}` that fit the `loss` {own!r}. Received: "
                f"labels of shape {shapes}, on which it fails: {reason[0][:300]}"
            ) from error
        if not np.isfinite(values).all():
            raise ValueError(
                f"Expected labels of `{data}` with which the `loss` {own!r} is finite. "
                f"Received: labels of shape {shapes}, with which it is NaN or infinite."
            )
