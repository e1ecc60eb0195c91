"""The scope of the strategy that a model was made in, for all that is made of it."""

import contextlib
import functools
import inspect
import json
import os
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import keras

from keras_greedy.processes import process_count, tasks_of, workers_of
from tflite_export.user_warnings import warn_user

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
    Keras' `fit` has it, or the one that is open already. The workers of one of several
    processes each compute on their own, and tell each other the sums.

    Args:
        model: The model.

    Raises:
        ValueError: When the strategy is one that the library does not know, or another
            one than the model's is open, or when it is one of several processes.
    """
    if keras.backend.backend() == "tensorflow":
        return _scope_of_strategy(model)
    if keras.backend.backend() == "jax":
        _check_own_devices()
    return contextlib.nullcontext()


def _scope_of_strategy(model: keras.Model) -> contextlib.AbstractContextManager:
    import tensorflow as tf

    current = tf.distribute.get_strategy()
    is_in_scope = tf.distribute.has_strategy()
    strategy = getattr(model, "distribute_strategy", current)
    if strategy is current and not is_in_scope:
        _warn_of_workers()
        return contextlib.nullcontext()
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        if is_in_scope:
            raise ValueError(
                "Expected a call behind the `with strategy.scope()` that the model was "
                "made in: each worker computes on its own, and they tell each other "
                f"the sums. Received: a call in the scope of a {_name_of(strategy)}"
            )
        return workers_of(strategy)
    known = tuple(getattr(tf.distribute, name) for name in STRATEGIES)
    if not isinstance(strategy, known):
        raise ValueError(
            f"Expected a strategy among {', '.join(STRATEGIES)} and "
            f"MultiWorkerMirroredStrategy. Received: a {_name_of(strategy)}"
        )
    if strategy is current:
        return contextlib.nullcontext()
    if is_in_scope:
        raise ValueError(
            "Expected a model made in the scope of the strategy that is open, or in "
            f"none. Received: a model of {strategy!r} in the scope of {current!r}"
        )
    return strategy.scope()


def _name_of(strategy: Any) -> str:
    return type(strategy).__name__


def _warn_of_workers() -> None:
    """Warns in a worker of a cluster whose model is of no strategy."""
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG", "{}")).get("cluster", {})
    except (AttributeError, ValueError):
        # It is none of TensorFlow's.
        return
    workers = len(tasks_of(cluster))
    if workers > 1 and process_count() == 1:
        warn_user(
            f"TF_CONFIG names {workers} workers, but the model was made outside of a "
            "`MultiWorkerMirroredStrategy`: this one goes by its own data alone, and "
            "may choose other channels than the others. Make the model in the scope of "
            "one, so that they search together."
        )


def _check_own_devices() -> None:
    """Raises a ValueError when Keras distributes over devices of other processes."""
    import jax

    distribution = keras.distribution.distribution()
    if jax.process_count() == 1 or distribution is None:
        return
    mesh = distribution.device_mesh
    own = {f"{device.platform}:{device.id}" for device in jax.local_devices()}
    others = sorted({str(name) for name in mesh.devices.ravel()} - own)
    if others:
        raise ValueError(
            "Expected Keras to distribute over devices of this process, or over none: "
            "each process computes on its own, and they tell each other the sums. "
            f"Received: a {_name_of(distribution)} that has {others}, too. Call "
            "`keras.distribution.set_distribution(None)` before."
        )
