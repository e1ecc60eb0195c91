"""A fine-tuning that does not get to its end leaves the pruned model."""

from typing import Any

import keras

from keras_greedy.batches import Batches
from keras_greedy.training.compiling import compile_alike
from keras_greedy.training.finetune import FineTune
from tflite_export.user_warnings import warn_user


def tune_or_keep(
    finetune: FineTune,
    compact: keras.Model,
    full: keras.Model,
    batches: Batches,
    may_stop: bool = True,
    **fit: Any,
) -> bool:
    """Trains as `FineTune.apply`; a training that fails leaves the pruned model.

    The search before it may have taken hours: it is not lost because of an error in a
    callback, or because somebody stops the training.

    Args:
        finetune: The settings.
        compact: The model to train.
        full: As for `FineTune.apply`.
        batches: The data.
        may_stop: Whether the training is the last stage: a `KeyboardInterrupt` ends it
            alone.
        **fit: As for `FineTune.apply`.

    Returns:
        Whether nobody stopped it.
    """
    before = compact.get_weights()
    try:
        finetune.apply(compact, full, batches, **fit)
    except KeyboardInterrupt:
        if not may_stop:
            raise
        warn_user(
            "The fine-tuning was interrupted: the compact model is returned as it was "
            "best so far."
        )
        compile_alike(compact, full, quiet=True)
        return False
    except Exception as error:
        warn_user(
            "The fine-tuning failed: the compact model is returned as before it, not "
            f"trained. {type(error).__name__}: {error}"
        )
        compact.set_weights(before)
        compile_alike(compact, full, quiet=True)
    return True
