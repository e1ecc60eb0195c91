"""The loss a model is trained with, and the loss of each example."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_greedy.batches import Data, is_arrays, output_keys
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import trace_quietly

Loss: TypeAlias = Any
"""As for `compile`: a name, a `keras.Loss`, a function, or a list or dict of them."""

LossPerExample: TypeAlias = Callable[[list, list], Any]
"""Lists of outputs and of targets, one per output -> `(n,)` loss."""


def training_loss(model: keras.Model, data: Data, loss: Loss = None) -> Loss:
    """Returns `loss`, else that of the model's compile settings, else a cross-entropy.

    Args:
        model: The full model.
        data: As for `prune`, with labels.
        loss: As for `compile`.

    Raises:
        ValueError: When there are no labels, or no loss that shows.
    """
    if first_labels(data) is None:
        raise ValueError(
            "Expected `data` to give (x, y): labels are needed. Received: x alone. "
            "Add the labels, or use what needs none: FineTune(distill=True), or an "
            "`objective` other than 'loss'."
        )
    return loss or model.loss or _cross_entropy(model, data)


def loss_per_example(
    model: keras.Model,
    functional: keras.Model,
    loss: Loss,
) -> LossPerExample:
    """Returns a function of outputs and labels: `(n,)`, summed over the outputs.

    Args:
        model: The model, whose compile settings have the weights of the losses.
        functional: The Functional that holds its graph.
        loss: As for `compile`.
    """
    names = output_keys(functional)
    config = model.get_compile_config() if len(names) > 1 else {}
    weights = _for_each(config.get("loss_weights") or 1.0, names)
    functions = [own and _function(own) for own in _for_each(loss, names)]

    def of_each(outputs: list, labels: list) -> Any:
        total = 0
        for weight, function, y, output in zip(
            weights,
            functions,
            labels,
            outputs,
            strict=True,
        ):
            # An output without a loss is not trained.
            if function:
                values = function(_with_channel_axis(y, output), output)
                total = total + weight * _mean_over_rest(values)
        return total

    return of_each


def first_labels(data: Data) -> Any:
    """Returns the labels of the first batch, or of all when `data` are arrays."""
    first = data if is_arrays(data) else next(iter(data), None)
    _, labels, _ = keras.utils.unpack_x_y_sample_weight(first)
    return labels


def _cross_entropy(model: keras.Model, data: Data) -> keras.losses.Loss:
    """Returns the loss that fits the model's output and the shape of the labels."""
    kinds = [output.kind for output in outputs_of(trace_quietly(model))]
    if kinds not in (["categorical"], ["binary"]):
        raise ValueError(
            "Expected a loss, of a compiled model or by FineTune(loss=...): it shows "
            "only of a single output that is a softmax or a sigmoid. Received: a "
            f"model that is not compiled, with outputs of the kind {kinds}"
        )
    if kinds == ["binary"]:
        return keras.losses.BinaryCrossentropy()
    classes = model.output_shape[-1]
    shape = np.shape(first_labels(data))
    if len(shape) > 1 and shape[-1] == classes:  # One-hot.
        return keras.losses.CategoricalCrossentropy()
    return keras.losses.SparseCategoricalCrossentropy()


def _for_each(setting: Any, names: list[str]) -> list:
    """Returns a setting of `compile`, one for all or by output, as a list."""
    if isinstance(setting, dict):
        return [setting.get(name) for name in names]
    if isinstance(setting, list | tuple):
        return list(setting)
    return [setting] * len(names)


def _function(loss: Loss) -> Callable:
    loss = keras.losses.get(loss)
    # Calling a `keras.Loss` would reduce over the examples.
    return loss.call if isinstance(loss, keras.losses.Loss) else loss


def _with_channel_axis(labels: Any, output: Any) -> Any:
    """Returns labels of `(n,)` as `(n, 1)` for outputs of `(n, 1)`."""
    has_rank_less = len(labels.shape) == len(output.shape) - 1
    if has_rank_less and output.shape[-1] == 1:
        return ops.expand_dims(labels, -1)
    return labels


def _mean_over_rest(x: Any) -> Any:
    """`(n, ...)` -> `(n,)`."""
    examples = ops.shape(x)[0]
    rows = ops.reshape(x, (examples, -1))
    return ops.mean(rows, axis=1)
