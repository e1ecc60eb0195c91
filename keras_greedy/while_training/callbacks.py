"""The callback of `fit` that selects channels of a wrapped model."""

from typing import Any

import keras

from keras_greedy.batches import Data, repeatable
from keras_greedy.scopes import scope_of
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import GreedyChannels, wrappers_of
from keras_greedy.while_training.running import (
    TrainingRun,
    model_of,
    optimizer_of,
    optimizers_in,
    steps_taken,
    sync,
)
from keras_greedy.while_training.selector import Selector, unwrapped_readers_of
from keras_greedy.while_training.strip import ROUNDING
from tflite_export.checks import check_count
from tflite_export.user_warnings import warn_user

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
        self._seed = check_count("seed", seed, minimum=0)
        self._run: TrainingRun | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        """Prepares the selections; raises when the model does not allow any."""
        model = model_of(self)
        with scope_of(model):
            self._prepare(model)

    def _prepare(self, model: keras.Model) -> None:
        self._wrappers = wrappers_of(model)
        _check_one_setting(model, self._wrappers)
        optimizer = _checked_optimizer(model)
        first = self._wrappers[0]
        self._schedule = first.selection_schedule
        self._gated = GatedModel(model)
        self._selector = Selector(
            model,
            self._gated,
            self._data,
            first.objective,
            first.step,
            self._seed,
        )
        kept_whole = unwrapped_readers_of(self._gated)
        if kept_whole:
            warn_user(
                "Some layers are wrapped that narrow nothing, as not all that read the "
                f"same channels are: {kept_whole}"
            )
        self._selector.check(self._schedule.macs, self._schedule.round_to)
        if not optimizer.built:
            # TensorFlow cannot make variables in a `fit` after one that has failed.
            optimizer.build(model.trainable_variables)
        self._step: int | None = None
        self._done = 0
        self._run = TrainingRun(model, self._wrappers)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        """Reads the optimizer's steps anew at the next batch."""
        # Several steps per execution do not always divide an epoch.
        self._step = None

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        """Makes the selections that are due before this batch."""
        if self._run is None:
            raise RuntimeError(
                "Expected `on_train_begin()` before `on_train_batch_begin(batch)` of "
                "GreedySelectionStep, once, in a training loop of your own. Received: "
                f"batch={batch!r} without it"
            )
        self._run.announce()
        if self._step is None:
            self._step = self._steps_taken()
            before = self._schedule.selections(self._step - 1)
            # All of them are due again where their gates are open again.
            self._done = 0 if self._is_undone() else max(self._done, before)
        due = self._schedule.selections(self._step)
        if due > self._done:
            sync(self.model)
            with scope_of(self.model):
                for index in range(self._done, due):
                    self._schedule.select(self._selector, index)
            self._note_macs_left()
        self._done = due
        self._step += self.model.steps_per_execution

    def on_train_end(self, logs: Logs = None) -> None:
        """Warns when the training ended before the schedule did."""
        if self._run is None:
            return
        self._run.end()
        self._warn_if_unfinished()

    def _warn_if_unfinished(self) -> None:
        left = self._gated.share_of_macs()
        if left > self._schedule.macs + ROUNDING:
            steps = self._steps_taken() if self._step is None else self._step
            warn_user(
                f"The training ended with {left:.1%} of the MACs left, not with the "
                f"{self._schedule.macs:.1%} of the schedule, after {steps} steps. "
                "Train on with a GreedySelectionStep, or have the schedule end "
                "earlier; callbacks that restore weights must begin behind it"
            )
        if self._wrappers[0].macs_left is None:
            self._note_macs_left()

    def _is_undone(self) -> bool:
        """Returns whether gates are open again that a selection has closed.

        So they are after weights of before it were restored.
        """
        left = self._gated.share_of_macs()
        before = self._wrappers[0].macs_left
        if before is None:
            return left == 1
        return left > before + ROUNDING

    def _note_macs_left(self) -> None:
        left = self._gated.share_of_macs()
        for wrapper in self._wrappers:
            wrapper.macs_left = left

    def _steps_taken(self) -> int:
        """Returns the steps of the optimizer before the first batch.

        Not before: other callbacks may restore the optimizer.
        """
        sync(self.model)
        return steps_taken(self.model.optimizer)


def _checked_optimizer(model: keras.Model) -> keras.Optimizer:
    """Returns the optimizer of a model whose steps the schedule is to count."""
    optimizer = optimizer_of(model)
    if optimizer is None:
        raise ValueError(
            "Expected the model to have an optimizer of Keras, whose steps the "
            "schedule counts: compile it, or set `model.optimizer`. Received: "
            f"model={model!r} with optimizer={getattr(model, 'optimizer', None)!r}"
        )
    for each in optimizers_in(optimizer):
        if each.use_ema:
            raise ValueError(
                "Expected an optimizer with use_ema=False: the averages of before a "
                "selection would undo what it does to the weights. Received: "
                f"optimizer={each!r} with use_ema=True"
            )
    return optimizer


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
