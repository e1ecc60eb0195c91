"""The scope of the strategy that a model was made in, for all that is made of it."""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import keras

STRATEGIES = ("MirroredStrategy", "OneDeviceStrategy", "TPUStrategy")
"""Of `tf.distribute`: those of one process."""

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def on_devices_of_model(
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Result]:
    """Makes a function run in the scope of its first argument, see `scope_of`."""
    name = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def in_scope(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        model: Any = args[0] if args else kwargs.get(name)
        with scope_of(model):
            return function(*args, **kwargs)

    return in_scope


def scope_of(model: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the context in which all that is made and run is on all devices.

    That is the scope of the `tf.distribute` strategy that the model was made in, as
    Keras' `fit` has it, or the one that is open already.

    Args:
        model: The model.

    Raises:
        ValueError: When there are several processes, the strategy is one that the
            library does not know, or another one than the model's is open.
    """
    if keras.backend.backend() == "tensorflow":
        return _scope_of_strategy(model)
    if keras.backend.backend() == "jax":
        _check_one_process()
    return contextlib.nullcontext()


def _scope_of_strategy(model: keras.Model) -> contextlib.AbstractContextManager:
    import tensorflow as tf

    current = tf.distribute.get_strategy()
    is_in_scope = tf.distribute.has_strategy()
    strategy = getattr(model, "distribute_strategy", current)
    if strategy is current and not is_in_scope:
        return contextlib.nullcontext()
    known = tuple(getattr(tf.distribute, name) for name in STRATEGIES)
    if not isinstance(strategy, known):
        raise ValueError(
            f"Expected a strategy of one process: {', '.join(STRATEGIES)}. Received: "
            f"a {type(strategy).__name__}. Workers with data of their own would each "
            "select channels of their own: prune in one process, without a strategy or "
            "under one of these, and train the compact model in all."
        )
    if strategy is current:
        return contextlib.nullcontext()
    if is_in_scope:
        raise ValueError(
            "Expected a model made in the scope of the strategy that is open, or in "
            f"none. Received: a model of {strategy!r} in the scope of {current!r}"
        )
    return strategy.scope()


def _check_one_process() -> None:
    import jax

    if jax.process_count() > 1:
        raise ValueError(
            "Expected one process, with all of its devices. Received: "
            f"jax.process_count()={jax.process_count()}. Processes with data of their "
            "own would each select channels of their own: prune in one process, and "
            "train the compact model in all."
        )
