"""Callbacks of `fit` for wrapped models: selection, and TensorBoard."""

import warnings
from collections.abc import Iterator

import keras

from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import wrappers_of
from keras_greedy.while_training.selector import Selector


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

    In a training loop of your own, the optimizer must be the model's, and the three
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
    wrapped.fit(x, y, callbacks=[keras_greedy.GreedySelectionStep(x[:512])])
    ```

    ```python
    selection = keras_greedy.GreedySelectionStep(x[:512])
    wrapped.optimizer = optimizer
    selection.set_model(wrapped)
    selection.on_train_begin()
    for i, (x, y) in enumerate(batches):
        selection.on_train_batch_begin(i)
        train_step(x, y)
    ```
    """

    def __init__(self, data, seed: int = 0):
        super().__init__()
        # A generator is gone after one `fit`.
        self._data = list(data) if isinstance(data, Iterator) else data
        self._seed = seed

    def on_train_begin(self, logs=None):
        wrappers = wrappers_of(self.model)
        settings = _common_settings(self.model, wrappers)
        self._schedule = settings["selection_schedule"]
        objective, step = settings["objective"], settings["step"]
        self._selector = Selector(self.model, self._data, objective, step, self._seed)
        self._selector.check(self._schedule.macs, self._schedule.round_to)
        for wrapper in wrappers:
            wrapper.has_callback = True
        optimizer = self.model.optimizer
        _check_no_average(optimizer)
        if not optimizer.built:
            # TensorFlow cannot make variables in a `fit` after one that has failed.
            optimizer.build(self.model.trainable_variables)
        self._step, self._done = None, 0

    def on_epoch_begin(self, epoch, logs=None):
        # Several steps per execution do not always divide an epoch.
        self._step = None

    def on_train_batch_begin(self, batch, logs=None):
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

    def on_train_end(self, logs=None):
        for wrapper in wrappers_of(self.model):
            wrapper.has_callback = False
        # The next `fit` is to look at that again.
        self.model.make_train_function(force=True)
        self._warn_if_unfinished()

    def _warn_if_unfinished(self) -> None:
        left = GatedModel(self.model).share_of_macs()
        if left > self._schedule.macs + 1e-6:
            warnings.warn(
                f"The training ended with {left:.1%} of the MACs left, not with the "
                f"{self._schedule.macs:.1%} of the schedule, after {self._step} steps. "
                "Train on with a GreedySelectionStep, or have the schedule end "
                "earlier; callbacks that restore weights must begin behind it",
                stacklevel=2,
            )

    def _steps_taken(self) -> int:
        """Read before the first batch: other callbacks may restore the optimizer."""
        _sync(self.model)
        optimizer = self.model.optimizer
        each = optimizer.gradient_accumulation_steps or 1
        return each * int(keras.ops.convert_to_numpy(optimizer.iterations))


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
    callbacks = [
        keras_greedy.GreedySelectionStep(x),
        keras_greedy.SelectionSummaries("logs"),
    ]
    wrapped.fit(x, y, callbacks=callbacks)  # tensorboard --logdir logs
    ```
    """

    def __init__(self, log_dir):
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
        self._summary, self._log_dir = tf.summary, str(log_dir)

    def on_train_begin(self, logs=None):
        self._writer = self._summary.create_file_writer(self._log_dir)

    def on_epoch_end(self, epoch, logs=None):
        view = GatedModel(self.model)
        masks, errors = view.masks(), view.errors()
        with self._writer.as_default(step=epoch):
            self._summary.scalar("macs", view.share_of_macs())
            for name, mask in masks.items():
                self._summary.scalar(f"width/{name}", int(mask.sum()))
                self._summary.scalar(f"error/{name}", errors[name])
                self._summary.histogram(f"gate/{name}", mask.astype(float))
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()


def _check_no_average(optimizer) -> None:
    if optimizer.use_ema:
        raise ValueError(
            "Expected an optimizer with use_ema=False: the averages of before a "
            "selection would undo what it does to the weights. Received: "
            f"optimizer={optimizer!r} with use_ema=True"
        )


def _common_settings(model, wrappers) -> dict:
    """What the wrappers of a model say that is to be done."""
    if not wrappers:
        raise ValueError(
            "Expected a model with `GreedyChannels` layers: wrap it by "
            f"`keras_greedy.prune_greedy` first. Received: model={model!r}"
        )
    names = ("selection_schedule", "objective", "step")
    configs = [wrapper.get_config() for wrapper in wrappers]
    said = [{name: config[name] for name in names} for config in configs]
    for wrapper, config in zip(wrappers, said, strict=True):
        if config != said[0]:
            raise ValueError(
                "Expected all `GreedyChannels` of the model to have one schedule, "
                f"objective and step. Received: {said[0]} for layer "
                f"'{wrappers[0].name}', {config} for layer '{wrapper.name}'"
            )
    return {name: getattr(wrappers[0], name) for name in names}


def _sync(model) -> None:
    """On JAX, `fit` holds the weights outside of the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
