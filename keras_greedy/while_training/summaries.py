"""The callback of `fit` that shows TensorBoard what selection does."""

import os
from pathlib import Path
from typing import Any

import keras

from keras_greedy.while_training.callbacks import Logs
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.running import (
    model_of,
    optimizer_of,
    steps_taken,
    sync,
)


class SelectionSummaries(keras.callbacks.Callback):
    """Writes what selection has left of the model to TensorBoard, after each epoch.

    Those are the model's share of MACs, and for each group its width, the error of
    its last selection (a share of the error of no channel at all), and a histogram
    of its gates.

    Their steps are those of the optimizer, as the schedule counts them, so that a
    second `fit` goes on behind the first; epochs, if the model has no optimizer.

    Args:
        log_dir: The folder for TensorBoard.

    Raises:
        ValueError: When `log_dir` is no path, or that of a file.
        ImportError: When TensorFlow or TensorBoard is not installed; says how to.

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
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 10)), rng.integers(0, 3, 64)
    wrapped = keras_greedy.prune_greedy(model)
    wrapped.compile("adam", "sparse_categorical_crossentropy")
    callbacks = [
        keras_greedy.GreedySelectionStep(x),
        keras_greedy.SelectionSummaries("logs"),
    ]
    wrapped.fit(x, y, callbacks=callbacks)  # tensorboard --logdir logs
    ```
    """

    def __init__(self, log_dir: str | Path):
        super().__init__()
        is_path = isinstance(log_dir, str | os.PathLike) and bool(os.fspath(log_dir))
        if not is_path or os.path.isfile(log_dir):
            raise ValueError(
                "Expected `log_dir` to be the path of a folder, which need not exist "
                f"yet. Received: log_dir={log_dir!r}"
            )
        try:
            import tensorboard  # noqa: F401
            import tensorflow as tf
        except ImportError as error:
            raise ImportError(
                "SelectionSummaries writes its files by TensorFlow and TensorBoard, of "
                f"which one is not installed ({error}): pip install tensorflow "
                "tensorboard"
            ) from error
        self._summary = tf.summary
        self._log_dir = os.fspath(log_dir)
        self._writer: Any = None

    def on_train_begin(self, logs: Logs = None) -> None:
        """Opens the file."""
        self._gated = GatedModel(model_of(self))
        self._writer = self._summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Writes the summaries of an epoch."""
        if self._writer is None:
            # In a training loop of one's own this may be the only call.
            self.on_train_begin()
        masks = self._gated.masks()
        errors = self._gated.errors()
        with self._writer.as_default(step=self._steps(epoch)):
            self._summary.scalar("macs", self._gated.share_of_macs())
            for name, mask in masks.items():
                self._summary.scalar(f"width/{name}", int(mask.sum()))
                self._summary.scalar(f"error/{name}", errors[name])
                self._summary.histogram(f"gate/{name}", mask.astype(float))
        self._writer.flush()

    def on_train_end(self, logs: Logs = None) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _steps(self, epoch: int) -> int:
        optimizer = optimizer_of(self.model)
        if optimizer is None:
            return epoch
        sync(self.model)
        return steps_taken(optimizer)
