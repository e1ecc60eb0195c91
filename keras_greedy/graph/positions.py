"""Layers inside a layer that are called on constants, as on the positions 0, 1, 2, ...

Keras leaves no trace of such a call: no argument of it is symbolic. It gets the same
constant for each example instead, which is.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_greedy.graph.calls import Call, run_calls
from keras_greedy.graph.probing.trial import EXAMPLES, POSITIONS
from keras_greedy.graph.rules.base import Unprunable
from keras_greedy.graph.symbols import is_symbolic

TOLERANCE = 1e-3
"""The largest difference of an output, over the largest output."""


@contextlib.contextmanager
def symbols_for_constants(source: KerasTensor) -> Iterator[list[Any]]:
    """Calls layers with weights on symbolic tensors where they get constants alone.

    Args:
        source: `(N, ...)`, a symbolic tensor for `N` examples.

    Yields:
        The constants, added as they come.
    """
    usual = keras.Layer.__call__
    constants: list[Any] = []
    # Keras calls the layers inside one on tensors, to learn what shapes it makes.
    is_inside = False

    def symbol(leaf: Any) -> Any:
        if not isinstance(leaf, np.ndarray) and not ops.is_tensor(leaf):
            return leaf
        constants.append(leaf)
        return of_each_example(ops.convert_to_tensor(leaf), source)

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        nonlocal is_inside
        if is_inside:
            return usual(layer, *args, **kwargs)
        leaves = keras.tree.flatten((args, kwargs))
        if layer.weights and not any(map(is_symbolic, leaves)):
            args, kwargs = keras.tree.map_structure(symbol, (args, kwargs))
        is_inside = True
        try:
            return usual(layer, *args, **kwargs)
        finally:
            is_inside = False

    keras.Layer.__call__ = call
    try:
        yield constants
    finally:
        keras.Layer.__call__ = usual


def of_each_example(constant: Any, source: KerasTensor) -> KerasTensor:
    """Returns a constant as a symbolic tensor, the same for each example.

    Args:
        constant: `(...)`, or `(1, ...)`: the same for all examples in any case.
        source: `(N, ...)`, whose values are not used.

    Returns:
        `(N, ...)`.
    """
    shape = tuple(constant.shape)
    shape = shape[1:] if shape[:1] == (1,) else shape
    dtype = keras.backend.standardize_dtype(constant.dtype)
    zeros = ops.zeros_like(source)
    axes = tuple(range(1, len(source.shape)))
    if axes:
        zeros = ops.sum(zeros, axes, keepdims=True)
    if len(axes) != len(shape):
        zeros = ops.reshape(zeros, (-1, *(1 for _ in shape)))
    return ops.add(ops.cast(zeros, dtype), ops.reshape(constant, shape))


def check_alike(
    layer: keras.Layer,
    args: tuple,
    kwargs: dict[str, Any],
    calls: Sequence[Call],
    made: Any,
) -> None:
    """Raises `Unprunable` unless calls make what a layer makes of random inputs.

    A constant of each example has an axis more, which the layer's own code may not
    expect.

    Args:
        layer: That the calls are of.
        args: What they were made with, symbolic tensors among them.
        kwargs: The same, by name.
        calls: In topological order.
        made: The symbolic tensors that they make.
    """
    rng = np.random.default_rng(0)
    values: dict[KerasTensor, Any] = {}
    for leaf in keras.tree.flatten((args, kwargs)):
        if is_symbolic(leaf):
            values[leaf] = _random(leaf, rng)
    own_args, own_kwargs = keras.tree.map_structure(
        lambda leaf: values[leaf] if is_symbolic(leaf) else leaf,
        (args, kwargs),
    )
    reason = "it is made of layers, and calls one on constants, not on its input"
    try:
        expected = keras.tree.flatten(layer.call(*own_args, **own_kwargs))
        run_calls(calls, values, Call.compute)
    except Exception as error:
        # Whatever it is: the code is the user's.
        raise Unprunable(reason) from error
    outputs = keras.tree.flatten(made)
    for tensor, wanted in zip(outputs, expected, strict=True):
        if not _are_close(values[tensor], wanted):
            raise Unprunable(reason)


def _are_close(found: Any, expected: Any) -> bool:
    """Returns whether tensors have the same shape, and nearly the same values."""
    found = ops.convert_to_numpy(found).astype(float)
    expected = ops.convert_to_numpy(expected).astype(float)
    if found.shape != expected.shape:
        return False
    error = np.max(np.abs(found - expected), initial=0)
    return bool(error <= TOLERANCE * np.max(np.abs(expected), initial=0))


def _random(tensor: KerasTensor, rng: np.random.Generator) -> Any:
    """Returns random values for a symbolic tensor: of integers, 0 and 1."""
    sizes = [POSITIONS if size is None else size for size in tensor.shape]
    if tensor.shape[0] is None:
        sizes[0] = EXAMPLES
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" not in dtype:
        return ops.convert_to_tensor(rng.integers(0, 2, sizes), dtype)
    return ops.convert_to_tensor(rng.normal(size=sizes), dtype)
