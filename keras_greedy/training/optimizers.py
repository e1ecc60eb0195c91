"""The optimizer of a training: whose it is, and how its learning rate runs."""

import math
from typing import Any

import keras

from keras_greedy.training.compiling import copied_optimizer
from tflite_export.checks import shown

LEARNING_RATE = 1e-3
"""Of Adam, on labels, where no optimizer is named."""

LEARNING_RATE_DISTILLING = 6e-4
"""Of Adam, towards the full model, where no optimizer is named."""

MOST_NORM = 1.0
"""Gradients of a greater norm are scaled to it."""

OF_RATES = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
)
"""The callbacks that set the learning rate themselves."""

WARM_UP = 0.05
"""Of the steps, until the learning rate is reached; then it falls as a cosine."""


def optimizer_of(optimizer: Any) -> keras.Optimizer:
    """Returns the optimizer that a user names or gives.

    Raises:
        ValueError: When it is none.
    """
    try:
        return keras.optimizers.get(optimizer)
    except (TypeError, ValueError):
        raise ValueError(
            "Expected `optimizer` to be a name that Keras knows, or a keras.Optimizer. "
            f"Received: optimizer={shown(optimizer)}"
        ) from None


def copy_of(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Returns a new optimizer with the settings of another.

    Raises:
        ValueError: When its class does not allow that.
    """
    try:
        return copied_optimizer(optimizer)
    except Exception as error:
        raise ValueError(
            "Expected `optimizer` to be one that can be copied, in FineTune("
            "optimizer=...) or the compile settings of the model. Received: a "
            f"{type(optimizer).__name__}, whose `get_config` does not give what its "
            f"`__init__` takes: {error}"
        ) from error


def default_optimizer(distill: bool) -> keras.Optimizer:
    """Returns the optimizer of a training that names none.

    Args:
        distill: Whether it is towards the full model.
    """
    rate = LEARNING_RATE_DISTILLING if distill else LEARNING_RATE
    return keras.optimizers.Adam(rate, global_clipnorm=MOST_NORM)


def warmed_up(
    rate: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a learning rate that rises to `rate` and falls to 0, in so many steps.

    The first steps of an optimizer that knows nothing yet of the gradients would spoil
    what the pruned network can do.

    Args:
        rate: The greatest.
        steps: Of the whole training.
    """
    warm_up = math.ceil(WARM_UP * steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, steps - warm_up),
        warmup_target=rate,
        warmup_steps=warm_up,
    )


def warm_up(optimizer: keras.Optimizer, steps: int) -> None:
    """Gives an optimizer such a learning rate, in place, unless it has a schedule.

    Args:
        optimizer: Not yet in use.
        steps: As for `warmed_up`.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if isinstance(getattr(optimizer, "_learning_rate", None), keras.Variable):
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        optimizer.learning_rate = warmed_up(rate, steps)
