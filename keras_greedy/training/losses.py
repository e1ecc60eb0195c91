"""The loss a model is trained with, and the loss of each example."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import ops

from keras_greedy.batch_arrays import unpacked
from keras_greedy.batches import Batches, output_keys
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import trace_quietly
from tflite_export.checks import shown

Loss: TypeAlias = Any
"""As for `compile`: a name, a `keras.Loss`, a function, or a list or dict of them."""

LossPerExample: TypeAlias = Callable[[list, list], Any]
"""Lists of outputs and of targets -> `(n,)` loss.

Targets are one array per output, and behind them the weights of the examples, if any.
"""

CROSSENTROPY = ("crossentropy", "ce")
"""The names by which `compile` takes the cross-entropy that fits the labels."""


def training_loss(model: keras.Model, batches: Batches, loss: Loss = None) -> Loss:
    """Returns `loss`, else that of the model's compile settings, else a cross-entropy.

    Args:
        model: The full model.
        batches: The data, with labels.
        loss: As for `compile`.

    Raises:
        ValueError: When there are no labels, or no loss that shows.
    """
    first = batches.first_as_given()
    _, labels, _ = unpacked(first, batches.name)
    if labels is None:
        is_dict = isinstance(first, dict)
        mapped = " A dict is x alone: map it to (x, y)." if is_dict else ""
        raise ValueError(
            "Expected `data` to give (x, y): labels are needed. Received: x alone."
            f"{mapped} Add the labels, or use what needs none: FineTune(distill=True), "
            "or an `objective` other than 'loss'."
        )
    return loss or model.loss or _cross_entropy(model, labels)


def check_loss(loss: Loss, names: list[str] | None = None) -> None:
    """Raises a ValueError when a loss is none that Keras knows, or of other outputs.

    Args:
        loss: As for `compile`.
        names: The keys of the model's outputs, if the model is known.
    """
    if isinstance(loss, dict):
        leaves = list(loss.values())
    else:
        leaves = list(loss) if isinstance(loss, list | tuple) else [loss]
    for leaf in leaves:
        is_name = isinstance(leaf, str) and leaf.lower() in CROSSENTROPY
        if leaf is None or is_name:
            continue
        try:
            keras.losses.get(leaf)
        except (TypeError, ValueError):
            raise ValueError(
                "Expected `loss` to be as for `compile`: a name that Keras knows, a "
                f"keras.Loss, a function, or a list or dict of them. Received: "
                f"loss={shown(loss)}"
            ) from None
    if names is None or loss is None:
        return
    if isinstance(loss, dict):
        fits = bool(loss) and set(loss) <= set(names)
    else:
        fits = not isinstance(loss, list | tuple) or len(loss) == len(names)
    if not fits:
        raise ValueError(
            "Expected `loss` to be one for all, or one for each of the outputs "
            f"{names}. Received: loss={shown(loss)}"
        )


def loss_per_example(
    model: keras.Model,
    functional: keras.Model,
    loss: Loss,
) -> LossPerExample:
    """Returns a function of outputs and targets: `(n,)`, summed over the outputs.

    Args:
        model: The model, whose compile settings have the weights of the losses.
        functional: The Functional that holds its graph.
        loss: As for `compile`.
    """
    names = output_keys(functional)
    weights = _for_each(_loss_weights(model, len(names)), names)
    losses = losses_by_output(loss, names)

    def of_each(outputs: list, targets: list) -> Any:
        total = 0
        labels = targets[: len(names)]
        sample_weights = targets[len(names) :] or [None] * len(names)
        for weight, own, y, output, counts in zip(
            weights,
            losses,
            labels,
            outputs,
            sample_weights,
            strict=True,
        ):
            # An output without a loss is not trained.
            if own is not None:
                values = loss_values(own, y, output)
                _check_per_example(values, own)
                if counts is not None:
                    values = _weighed(values, counts)
                share = 1.0 if weight is None else weight
                total = total + share * _mean_over_rest(values)
        return total

    return of_each


def losses_by_output(loss: Loss, names: list[str]) -> list[Loss]:
    """Returns the loss of each output, `None` where there is none.

    Args:
        loss: As for `compile`.
        names: The keys of the outputs.
    """
    return _for_each(loss, names)


def loss_function(loss: Loss, labels: tuple, output: tuple) -> Any:
    """Returns the `keras.Loss` or the function that a name stands for.

    Args:
        loss: As for `compile`, of one output.
        labels: Their shape, by which one of the cross-entropies is chosen.
        output: Its shape.
    """
    if not isinstance(loss, str) or loss.lower() not in CROSSENTROPY:
        return keras.losses.get(loss)
    if output[-1] == 1:
        return keras.losses.binary_crossentropy
    if len(labels) == len(output) and labels[-1] == output[-1]:
        return keras.losses.categorical_crossentropy
    return keras.losses.sparse_categorical_crossentropy


def loss_values(loss: Loss, labels: Any, output: Any) -> Any:
    """Returns the loss of one output, `(n, ...)` of all but some losses of one's own.

    Args:
        loss: As for `compile`, of this output.
        labels: Its labels.
        output: Its values.
    """
    function = loss_function(loss, tuple(labels.shape), tuple(output.shape))
    if isinstance(function, keras.losses.Loss):
        # Calling it would reduce over the examples.
        function = function.call
    return function(_with_channel_axis(labels, output), output)


def _check_per_example(values: Any, loss: Loss) -> None:
    if not len(values.shape):
        raise ValueError(
            "Expected a loss of each example, to select by it. Received: the loss "
            f"{loss!r}, which gives one number for all; take the mean over the last "
            "axes only."
        )


def _loss_weights(model: keras.Model, outputs: int) -> Any:
    """Returns the weights of the losses in the compile settings, 1 by default."""
    if outputs == 1 or not model.compiled:
        return 1.0
    # `get_compile_config` fails where an optimizer or a loss has no config.
    config = getattr(model, "_compile_config", None)
    return getattr(config, "config", {}).get("loss_weights") or 1.0


def _cross_entropy(model: keras.Model, labels: Any) -> keras.losses.Loss:
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
    shape = np.shape(keras.tree.flatten(labels)[0])
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


def _with_channel_axis(labels: Any, output: Any) -> Any:
    """Returns labels of `(n,)` as `(n, 1)` for outputs of `(n, 1)`."""
    has_rank_less = len(labels.shape) == len(output.shape) - 1
    if has_rank_less and output.shape[-1] == 1:
        return ops.expand_dims(labels, -1)
    return labels


def _weighed(values: Any, weights: Any) -> Any:
    """Returns the losses `(n, ...)` times the weights of the examples, or positions."""
    missing = len(values.shape) - len(weights.shape)
    for _ in range(missing):
        weights = ops.expand_dims(weights, -1)
    return values * ops.cast(weights, values.dtype)


def _mean_over_rest(x: Any) -> Any:
    """`(n, ...)` -> `(n,)`."""
    examples = ops.shape(x)[0]
    rows = ops.reshape(x, (examples, -1))
    return ops.mean(rows, axis=1)
