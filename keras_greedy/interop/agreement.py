"""Whether two models of the same layers compute the same, layer by layer."""

import keras
import numpy as np

TOLERANCE = 1e-4
TOLERANCE_IN_HALF_PRECISION = 5e-2
UNKNOWN_SIZE = 32
BATCH = 2


def check_agreement(names, own, new) -> None:
    """Runs a model and what was made of it on the same random numbers.

    Args:
        names: Of the layers, in the order in which they compute.
        own: The model that was converted, with the output of each layer in a list.
        new: What was made of it, likewise.

    Raises:
        ValueError: Names the first layer whose outputs differ.
    """
    x = [_random(tensor) for tensor in own.inputs]
    dtypes = {keras.backend.standardize_dtype(t.dtype) for t in own.outputs}
    is_half = not dtypes.isdisjoint({"float16", "bfloat16"})
    tolerance = TOLERANCE_IN_HALF_PRECISION if is_half else TOLERANCE
    for name, true, found in zip(names, _run(own, x), _run(new, x), strict=True):
        error = relative_error(true, found)
        if not error <= tolerance:
            raise ValueError(
                "Expected every layer to compute the same in both libraries. "
                f"Received: layer '{name}', whose outputs on random inputs differ by "
                f"{error:.2g} of their mean size. Put another layer in its place, or "
                "give `check=False` if they need not agree on random inputs."
            )


def relative_error(true, found) -> float:
    """Mean difference by mean size, infinite where only one is finite."""
    finite = np.isfinite(true)
    if true.shape != found.shape or not np.array_equal(finite, np.isfinite(found)):
        return np.inf
    true, found = true[finite], found[finite]
    difference = np.abs(true - found).sum()
    return difference / max(np.abs(true).sum(), np.finfo(float).tiny)


def _random(tensor) -> np.ndarray:
    rng = np.random.default_rng(len(tensor.shape))
    shape = [BATCH if tensor.shape[0] is None else tensor.shape[0]]
    shape += [UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:]]
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "float" in dtype:
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def _run(model, x) -> list[np.ndarray]:
    outputs = keras.tree.flatten(model(x, training=False))
    return [_array(output).astype("float64") for output in outputs]


def _array(value):
    is_own = keras.ops.is_tensor(value)
    return keras.ops.convert_to_numpy(value) if is_own else value.numpy()
