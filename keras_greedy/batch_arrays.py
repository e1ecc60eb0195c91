"""The arrays of a batch, compared with what a model expects."""

from typing import Any, TypeAlias

import keras
import numpy as np

from keras_greedy.data_forms import with_arrays

NUMBERS = "biufV"
"""The kinds of dtypes that are numbers; those of bfloat16 and float8 are "V"."""

Arrays: TypeAlias = list[np.ndarray]


class NamedInputs:
    """The inputs of a model in a dict.

    Args:
        model: The Functional.
        name: Of the argument that the data are, for the errors.
    """

    def __init__(self, model: keras.Model, name: str):
        self._name = name
        self._structure = model.input
        if isinstance(self._structure, dict):
            self._keys = [*self._structure]
        else:
            self._keys = [tensor.name for tensor in model.inputs]

    def in_order(self, x: dict) -> Any:
        """Returns the values of a dict in the order of the model's inputs.

        Raises:
            ValueError: When one is missing.
        """
        self._check(x)
        if isinstance(self._structure, dict):
            # Keras flattens a dict in an order that depends on its class.
            return type(self._structure)((key, x[key]) for key in self._keys)
        return [x[key] for key in self._keys]

    def alone(self, x: dict) -> dict:
        """Returns the dict itself, or without what is no input of the model.

        Raises:
            ValueError: When an input is missing.
        """
        self._check(x)
        if len(x) == len(self._keys):
            return x
        return {key: x[key] for key in self._keys}

    def _check(self, x: dict) -> None:
        if not set(self._keys) <= set(x):
            first = next(iter(x), "image")
            raise ValueError(
                f"Expected `{self._name}` to give a dict with the names of the model's "
                f"inputs, {self._keys}. Received: a dict with {[*x]}. Map each to "
                f"(x, y), with `dataset.map(lambda d: (d[{first!r}], d['label']))` for "
                "example; `tensorflow_datasets` gives such pairs with "
                "`as_supervised=True`."
            )


def unpacked(batch: Any, name: str = "data") -> tuple[Any, Any, Any]:
    """Returns x, y and sample_weight of a batch; what is like an array is one.

    Raises:
        ValueError: When it is none of `x`, `(x,)`, `(x, y)`, `(x, y, sample_weight)`.
    """
    batch = with_arrays(batch, name)
    if isinstance(batch, list | tuple) and len(batch) not in (1, 2, 3):
        raise ValueError(
            f"Expected `{name}` to give batches `x`, `(x, y)` or `(x, y, "
            f"sample_weight)`. Received: a {type(batch).__name__} of {len(batch)}. For "
            "several inputs give `(x,)`, x being their list."
        )
    return keras.utils.unpack_x_y_sample_weight(batch)


def as_dtype(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Returns an array in the dtype of an input, if that can hold its values."""
    if dtype == "string":
        return array
    if array.dtype.kind not in NUMBERS:
        raise ValueError(
            f"Expected `{name}` to be real numbers. Received: a batch of dtype "
            f"{array.dtype}, of shape {array.shape}."
        )
    if array.dtype.kind != "V":
        check_finite(array, name)
    if np.dtype(dtype).kind in "iu" and array.size:
        limits = np.iinfo(dtype)
        if array.min() < limits.min or array.max() > limits.max:
            raise ValueError(
                f"Expected `{name}` to fit the model's input, of dtype {dtype}. "
                f"Received: a batch of values from {array.min()} to {array.max()}."
            )
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    check_finite(converted, name)
    return converted


def check_finite(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        raise ValueError(
            f"Expected `{name}` to be finite. Received: a batch with NaN or "
            f"infinite values, of shape {array.shape}. Remove or repair them."
        )


def joined(batches: list[Arrays]) -> Arrays:
    if len(batches) == 1:
        return batches[0]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def with_channel_axis(array: np.ndarray, expected: tuple) -> np.ndarray:
    """Returns `(n, ...)` as `(n, ..., 1)` where the model expects it, as Keras does."""
    sizes = expected[1:]
    has_rank_less = len(array.shape) == len(expected) - 1
    # Sizes that are free cannot tell a batch from a single example.
    is_clear = sizes[-1:] == (1,) and None not in sizes
    if has_rank_less and is_clear and array.shape[1:] == sizes[:-1]:
        return array[..., None]
    return array


def without_last_one(array: np.ndarray) -> np.ndarray:
    """Returns `(n, 1)` as `(n,)`."""
    return array[..., 0] if len(array.shape) > 1 and array.shape[-1] == 1 else array


def fits(received: tuple, expected: tuple) -> bool:
    """Returns whether a batch has the sizes that are fixed, but for the first."""
    if len(received) != len(expected):
        return False
    pairs = zip(received[1:], expected[1:], strict=True)
    return all(size is None or size == got for got, size in pairs)


def bare(shapes: list[tuple]) -> tuple | list[tuple]:
    return shapes[0] if len(shapes) == 1 else shapes


def unbatched_hint(received: list[tuple], expected: list[tuple]) -> str:
    has_rank_less = received and len(received[0]) == len(expected[0]) - 1
    if has_rank_less and len(received[0]):
        return " It looks unbatched: batch it, with `dataset.batch(32)` for example."
    return ""
