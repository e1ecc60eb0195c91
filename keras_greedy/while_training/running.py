"""A training that a callback watches: its run, its optimizer, its steps."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import keras

from keras_greedy.while_training.layers import NO_CALLBACK, GreedyChannels


class TrainingRun:
    """Knows whether the training that a callback began still goes on.

    Keras tells callbacks of a training's end, but not of an interruption. So the train
    function of the model takes a batch only when the callback has announced it.

    Args:
        model: The model that trains.
        wrappers: Its wrappers, which may be trained during the run.
    """

    def __init__(self, model: keras.Model, wrappers: list[GreedyChannels]):
        self._model = model
        self._name = wrappers[0].name
        self._is_of_fit = is_in_fit(model)
        self._is_over = False
        self._is_announced = False
        self._guarded: GuardedFunction | None = None
        self._guard()
        for wrapper in wrappers:
            wrapper.follow(self.is_running)

    def is_running(self) -> bool:
        """Returns whether it goes on, as far as is known."""
        # A model that was compiled anew has another train function.
        if self._is_over or self._model.train_function is not self._guarded:
            return False
        # A strategy traces the train function in threads of its own.
        is_inside = self._guarded is not None and self._guarded.is_called
        return is_inside or not self._is_of_fit or is_in_fit(self._model)

    def announce(self) -> None:
        """Lets the train function take the next batch."""
        self._is_over = False
        self._is_announced = True
        # Another callback may have made the train function anew.
        self._guard()

    def take(self) -> None:
        """Raises a RuntimeError unless the batch was announced."""
        if not self._is_announced:
            raise RuntimeError(NO_CALLBACK.format(self._name))
        self._is_announced = False

    def end(self) -> None:
        """Ends the run; the next one traces the wrappers again."""
        self._is_over = True
        if self._model.compiled:
            self._model.make_train_function(force=True)
        else:
            self._model.train_function = None

    def _guard(self) -> None:
        if self._model.compiled:
            self._model.make_train_function()
        function = self._model.train_function
        if function is self._guarded:
            return
        if isinstance(function, GuardedFunction):
            # Of a run that was interrupted.
            function = function.plain
        self._guarded = GuardedFunction(function, self) if function else None
        self._model.train_function = self._guarded


class GuardedFunction:
    """The train function of a model during a run.

    Args:
        plain: The function that Keras made.
        run: The run that it belongs to.

    Attributes:
        is_called: Whether a call of it is not done yet.
    """

    def __init__(self, plain: Callable, run: TrainingRun):
        self.plain = plain
        self.is_called = False
        self._run = run

    def __call__(self, *arguments: Any) -> Any:
        self._run.take()
        self.is_called = True
        try:
            return self.plain(*arguments)
        finally:
            self.is_called = False

    def __getattr__(self, name: str) -> Any:
        # TensorBoard looks for the graph of a `tf.function`. Before there is a plain
        # function, `copy` looks for methods of its own.
        if name == "plain" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.plain, name)


def is_in_fit(model: keras.Model) -> bool:
    """Returns whether the call is one of a callback, or a layer, in `model.fit`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        is_of_keras = frame.f_globals.get("__name__", "").startswith("keras.")
        is_fit = is_of_keras and frame.f_code.co_name == "fit"
        if is_fit and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False


def model_of(callback: keras.callbacks.Callback) -> keras.Model:
    """Returns the model of a callback; raises a RuntimeError when it has none."""
    if callback.model is None:
        raise RuntimeError(
            f"Expected `set_model(model)` before the other calls of "
            f"{type(callback).__name__} in a training loop of your own. Received: none"
        )
    return callback.model


def optimizer_of(model: keras.Model) -> keras.Optimizer | None:
    """Returns the optimizer of a model, if it has one of Keras'."""
    optimizer = getattr(model, "optimizer", None)
    return optimizer if isinstance(optimizer, keras.Optimizer) else None


def optimizers_in(optimizer: keras.Optimizer) -> list[keras.Optimizer]:
    """Returns an optimizer and all inside it, as that of a LossScaleOptimizer."""
    found = [optimizer]
    for outer in found:
        for value in vars(outer).values():
            members = value if isinstance(value, list | tuple) else [value]
            for member in members:
                is_new = all(member is not each for each in found)
                if isinstance(member, keras.Optimizer) and is_new:
                    found.append(member)
    return found


def steps_taken(optimizer: keras.Optimizer) -> int:
    """Returns the training steps of an optimizer: one for each batch."""
    # One that wraps another may count for both, or not at all.
    return max(_own_steps(each) for each in optimizers_in(optimizer))


def _own_steps(optimizer: keras.Optimizer) -> int:
    batches_per_iteration = optimizer.gradient_accumulation_steps or 1
    iterations = keras.ops.convert_to_numpy(optimizer.iterations)
    return batches_per_iteration * int(iterations)


def sync(model: keras.Model) -> None:
    """On JAX, `fit` holds the weights outside of the model's variables."""
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()
