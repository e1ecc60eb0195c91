"""A fine-tuning that does not get to its end leaves the pruned model."""

from typing import Any

import keras
import numpy as np

from keras_greedy.batches import Batches
from keras_greedy.training.batch_norm import reestimate_batch_norm
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
) -> None:
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
    """
    before = compact.get_weights()
    try:
        finetune.apply(compact, full, batches, **fit)
    except KeyboardInterrupt:
        if not may_stop:
            raise
        warn_user(
            "The fine-tuning was interrupted: the compact model is returned as trained "
            "so far."
        )
        compile_alike(compact, full, quiet=True)
        reestimate_batch_norm(compact, batches)
    except Exception as error:
        warn_user(
            "The fine-tuning failed: the compact model is returned pruned, but not "
            f"trained. {type(error).__name__}: {error}"
        )
        compact.set_weights(before)
        compile_alike(compact, full, quiet=True)
    if _is_finite(before) and not _is_finite(compact.get_weights()):
        warn_user(
            "The fine-tuning diverged, to weights of NaN or infinity: the compact "
            "model is returned pruned, but not trained. A lower learning rate may "
            "help, as in FineTune(optimizer=keras.optimizers.Adam(1e-4))."
        )
        compact.set_weights(before)


def _is_finite(weights: list[np.ndarray]) -> bool:
    return all(np.isfinite(w).all() for w in weights if w.dtype.kind == "f")
