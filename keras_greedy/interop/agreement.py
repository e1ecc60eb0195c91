"""Checks that two models of the same layers compute the same, layer by layer."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_greedy.interop.either import AnyModel, AnyTensor

# Errors by the mean size of a layer's outputs. Those of float32 add up along a deep
# network; a layer that computes something else is far beyond.
TOLERANCE = 1e-4
TOLERANCE_IN_HALF_PRECISION = 5e-2
HALF_PRECISION = {"float16", "bfloat16"}

# Of the random inputs, where the model leaves a size open.
UNKNOWN_SIZE = 32
BATCH = 2


def check_agreement(
    names: Sequence[str],
    own: AnyModel,
    new: AnyModel,
) -> None:
    """Runs a model and its conversion on the same random numbers.

    Args:
        names: Of the layers, in the order in which they compute.
        own: The model that was converted, with the output of each layer in a list.
        new: Its conversion, likewise.

    Raises:
        ValueError: Names the first layer whose outputs differ.
    """
    x = [_random(tensor) for tensor in own.inputs]
    tolerance = TOLERANCE
    for tensor in own.outputs:
        if keras.backend.standardize_dtype(tensor.dtype) in HALF_PRECISION:
            tolerance = TOLERANCE_IN_HALF_PRECISION
    expected = _run(own, x)
    made = _run(new, x)
    for name, true, found in zip(names, expected, made, strict=True):
        error = relative_error(true, found)
        # An error that is no number is not within the tolerance either.
        if not error <= tolerance:
            raise ValueError(
                "Expected every layer to compute the same in both libraries. "
                f"Received: layer '{name}', whose outputs on random inputs differ by "
                f"{error:.2g} of their mean size. Put another layer in its place, or "
                "give `check=False` if they need not agree on random inputs."
            )


def relative_error(true: np.ndarray, found: np.ndarray) -> float:
    """Returns the mean difference by the mean size.

    It is infinite where only one is finite, or where the shapes differ.

    Args:
        true: The outputs of a layer.
        found: Those of its conversion.
    """
    if true.shape != found.shape:
        return np.inf
    finite = np.isfinite(true)
    if not np.array_equal(finite, np.isfinite(found)):
        return np.inf
    true = true[finite]
    found = found[finite]
    difference = np.abs(true - found).sum()
    size = np.abs(true).sum()
    # Not 0 / 0, where all outputs are 0 and so they should be.
    smallest = np.finfo(float).tiny
    return difference / max(size, smallest)


def _random(tensor: AnyTensor) -> np.ndarray:
    """Returns random numbers for an input of a model."""
    shape = list(tensor.shape)
    rng = np.random.default_rng(len(shape))
    if shape[0] is None:
        shape[0] = BATCH
    for axis, size in enumerate(shape):
        if size is None:
            shape[axis] = UNKNOWN_SIZE
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" in dtype:
        return rng.normal(size=shape).astype(dtype)
    # Not more than 1: they may be indices, of an embedding for one.
    return rng.integers(0, 2, shape).astype(dtype)


def _run(model: AnyModel, x: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the outputs of a model in double precision."""
    outputs = keras.tree.flatten(model(x, training=False))
    return [_array(output).astype("float64") for output in outputs]


def _array(value: AnyTensor) -> np.ndarray:
    if keras.ops.is_tensor(value):
        return keras.ops.convert_to_numpy(value)
    # With another backend than TensorFlow, a tensor of tf_keras is none of Keras.
    return value.numpy()
