"""How long to train, and how fast, by the amount of data."""

import math

import keras

EXAMPLES_SEEN = 40_000
"""In all passes together, of a data set that is not larger."""

FEWEST_EPOCHS = 3
MOST_EPOCHS = 60

WARM_UP = 0.05
"""Of the steps, until the learning rate is reached; then it falls as a cosine."""


def epochs_for(examples: int) -> int:
    """Returns the passes over so many examples: the fewer they are, the more."""
    wanted = math.ceil(EXAMPLES_SEEN / examples)
    return min(max(wanted, FEWEST_EPOCHS), MOST_EPOCHS)


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
        rate = float(optimizer.learning_rate)
        optimizer.learning_rate = warmed_up(rate, steps)
