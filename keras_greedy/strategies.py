"""The argument `strategy`: a model that was made elsewhere, on the devices of one."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import keras

from keras_greedy.graph.clone import copied
from keras_greedy.graph.model_kinds import has_graph
from keras_greedy.training.compiling import compile_alike

Strategy: TypeAlias = Any
"""A `tf.distribute.Strategy`, or on JAX a `keras.distribution.DataParallel`."""

KINDS = {
    "tensorflow": "a `tf.distribute.Strategy`",
    "jax": "a `keras.distribution.DataParallel`",
}

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def on_devices_of_strategy(
    function: Callable[Concatenate[Any, Parameters], Result],
) -> Callable[Concatenate[Any, Parameters], Result]:
    """Makes a function run with a copy of its model on the devices of its `strategy`.

    Args:
        function: Takes a model first, and has a `strategy` by keyword, which it does
            not look at.
    """

    @functools.wraps(function)
    def on_devices(model: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = kwargs.pop("strategy", None)
        if strategy is None:
            return function(model, *args, **kwargs)
        _check(strategy)
        if not has_graph(model):
            raise ValueError(
                "Expected a Functional or a Sequential with `strategy`, which is "
                f"copied to its devices. Received: model={model!r}. Make other models "
                "in the scope of the strategy, and leave the argument out"
            )
        with _copy(model, strategy) as copy:
            return function(copy, *args, **kwargs)

    return on_devices


@contextlib.contextmanager
def _copy(model: keras.Model, strategy: Strategy) -> Iterator[keras.Model]:
    """Yields a copy of a model on the devices of a strategy, compiled alike."""
    with strategy.scope():
        copy = copied(model)
        compile_alike(copy, model)
        if keras.backend.backend() == "jax":
            # Devices share the batches only as long as it is in force.
            yield copy
            return
    yield copy


def _check(strategy: Strategy) -> None:
    """Raises a ValueError when it is no strategy of the backend."""
    backend = keras.backend.backend()
    if backend not in KINDS:
        raise ValueError(
            f"Expected no `strategy` on the backend {backend!r}, which computes on one "
            f"device. Received: strategy={strategy!r}"
        )
    if backend == "tensorflow":
        import tensorflow as tf

        kind = tf.distribute.Strategy
    else:
        kind = keras.distribution.DataParallel
    if not isinstance(strategy, kind):
        raise ValueError(
            f"Expected `strategy` to be {KINDS[backend]}. "
            f"Received: strategy={strategy!r}"
        )
