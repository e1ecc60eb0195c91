"""Callbacks of `fit` for wrapped models: selection, and TensorBoard."""

from pathlib import Path
from typing import Any

import keras

from keras_greedy.batches import Data, repeatable
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import GreedyChannels, wrappers_of
from keras_greedy.while_training.selector import Selector
from tflite_export.user_warnings import warn_user

ROUNDING = 1e-6
"""Of the share of MACs that is left and the one of the schedule."""

SETTINGS = ("selection_schedule", "objective", "step")
"""The attributes of all wrappers of a model that must agree."""

Logs = dict[str, float] | None


class GreedySelectionStep(keras.callbacks.Callback):
    """Selects channels during training, when the model's schedule says so.

    Before the steps of the schedule, the model as trained so far is searched, gates
    are closed, and the layers that read the channels get the weights that make up for
    them. In between, training goes on. The schedule counts the optimizer's
    iterations, so that a model that was saved with its optimizer goes on where it
    stopped. Training that ends before the schedule does is warned of.

    A callback that restores weights of an earlier time, such as `EarlyStopping`,
    restores the gates of that time, too: have it begin behind the schedule, with
    `start_from_epoch`.

    In a training loop of your own, the optimizer must be the model's, and the
    calls of the second example are needed.

    Args:
        data: What to select on, as the `data` of `prune`: a few hundred training
            examples, with labels for `objective="loss"`. A callback does not get
            to see the data of `fit`.
        seed: Of everything random in the search.

    Raises:
        ValueError: At the beginning of the training, when the model has no
            `GreedyChannels`, they do not agree on what to do, the schedule or the
            data do not fit the model, or the optimizer averages weights, which would
            bring back those of before a selection.

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
    wrapped.fit(x, y, callbacks=[keras_greedy.GreedySelectionStep(x)])
    ```

    In a training loop of your own:

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

    selection = keras_greedy.GreedySelectionStep(x)
    selection.set_model(wrapped)
    selection.on_train_begin()
    for i in range(4):
        selection.on_train_batch_begin(i)
        wrapped.train_on_batch(x, y)
    selection.on_train_end()
    ```
    """

    def __init__(self, data: Data, seed: int = 0):
        super().__init__()
        # A generator is gone after one `fit`.
        self._data = repeatable(data)
        self._seed = seed

    def on_train_begin(self, logs: Logs = None) -> None:
        """Prepares the selections; raises when the model does not allow any."""
        wrappers = wrappers_of(self.model)
        _check_one_setting(self.model, wrappers)
        self._schedule = wrappers[0].selection_schedule
        self._gated = GatedModel(self.model)
        self._selector = Selector(
            self.model,
            self._gated,
            self._data,
            wrappers[0].objective,
            wrappers[0].step,
            self._seed,
        )
        self._selector.check(self._schedule.macs, self._schedule.round_to)
        for wrapper in wrappers:
            wrapper.has_callback = True
        optimizer = self.model.optimizer
        _check_no_average(optimizer)
        if not optimizer.built:
            # TensorFlow cannot make variables in a `fit` after one that has failed.
            optimizer.build(self.model.trainable_variables)
        self._step: int | None = None
        self._done = 0

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Reads the optimizer's steps anew at the next batch."""
        # Several steps per execution do not always divide an epoch.
        self._step = None

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Makes the selections that are due before this batch."""
        if self._step is None:
            self._step = self._steps_taken()
            self._done = max(self._done, self._schedule.selections(self._step - 1))
        due = self._schedule.selections(self._step)
        if due > self._done:
            _sync(self.model)
        for index in range(self._done, due):
            self._schedule.select(self._selector, index)
        self._done = due
        self._step += self.model.steps_per_execution

    def on_train_end(self, logs: Logs = None) -> None:
        """Warns when the training ended before the schedule did."""
        for wrapper in wrappers_of(self.model):
            wrapper.has_callback = False
        # The next `fit` is to look at that again.
        self.model.make_train_function(force=True)
        self._warn_if_unfinished()

    def _warn_if_unfinished(self) -> None:
        left = self._gated.share_of_macs()
        if left > self._schedule.macs + ROUNDING:
            warn_user(
                f"The training ended with {left:.1%} of the MACs left, not with the "
                f"{self._schedule.macs:.1%} of the schedule, after {self._step} steps. "
                "Train on with a GreedySelectionStep, or have the schedule end "
                "earlier; callbacks that restore weights must begin behind it"
            )

    def _steps_taken(self) -> int:
        """Returns the steps of the optimizer before the first batch.

        Not before: other callbacks may restore the optimizer.
        """
        _sync(self.model)
        optimizer = self.model.optimizer
        batches_per_step = optimizer.gradient_accumulation_steps or 1
        iterations = keras.ops.convert_to_numpy(optimizer.iterations)
        return batches_per_step * int(iterations)


class SelectionSummaries(keras.callbacks.Callback):
    """Writes what selection has left of the model to TensorBoard, after each epoch.

    Those are the model's share of MACs, and for each group its width, the error of
    its last selection (a share of the error of no channel at all), and a histogram
    of its gates.

    Args:
        log_dir: The folder for TensorBoard.

    Raises:
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
        self._log_dir = str(log_dir)

    def on_train_begin(self, logs: Logs = None) -> None:
        """Opens the file."""
        self._gated = GatedModel(self.model)
        self._writer = self._summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        """Writes the summaries of an epoch."""
        masks = self._gated.masks()
        errors = self._gated.errors()
        with self._writer.as_default(step=epoch):
            self._summary.scalar("macs", self._gated.share_of_macs())
            for name, mask in masks.items():
                self._summary.scalar(f"width/{name}", int(mask.sum()))
                self._summary.scalar(f"error/{name}", errors[name])
                self._summary.histogram(f"gate/{name}", mask.astype(float))
        self._writer.flush()

    def on_train_end(self, logs: Logs = None) -> None:
        """Closes the file."""
        self._writer.close()


def _check_no_average(optimizer: keras.Optimizer) -> None:
    if optimizer.use_ema:
        raise ValueError(
            "Expected an optimizer with use_ema=False: the averages of before a "
            "selection would undo what it does to the weights. Received: "
            f"optimizer={optimizer!r} with use_ema=True"
        )


def _check_one_setting(model: keras.Model, wrappers: list[GreedyChannels]) -> None:
    """Raises a ValueError unless there are wrappers, and all are to do the same."""
    if not wrappers:
        raise ValueError(
            "Expected a model with `GreedyChannels` layers: wrap it by "
            f"`keras_greedy.prune_greedy` first. Received: model={model!r}"
        )
    first = _settings_of(wrappers[0])
    for wrapper in wrappers[1:]:
        settings = _settings_of(wrapper)
        if settings != first:
            raise ValueError(
                "Expected all `GreedyChannels` of the model to have one schedule, "
                f"objective and step. Received: {first} for layer "
                f"'{wrappers[0].name}', {settings} for layer '{wrapper.name}'"
            )


def _settings_of(wrapper: GreedyChannels) -> dict[str, Any]:
    config = wrapper.get_config()
    return {name: config[name] for name in SETTINGS}


def _sync(model: keras.Model) -> None:
    """On JAX, `fit` holds the weights outside of the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
