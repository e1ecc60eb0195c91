"""Samples of a model's inputs, read from the user's arrays, datasets or batches."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from tflite_export.checks import check_finite, shown
from tflite_export.data_forms import Data, Inputs, batches_of, is_x, split_labels

Samples: TypeAlias = dict[str, np.ndarray]
"""Input or output name -> an array of one row per sample."""

NUMERIC_KINDS = "biuf"
"""NumPy's letters for the dtypes bool, int, unsigned int and float."""


def count_samples(samples: Mapping[str, np.ndarray]) -> int:
    """Returns the number of rows, which is the same for each array of `samples`."""
    return len(next(iter(samples.values())))


def take_samples(
    data: Data,
    limit: int | None,
    inputs: Inputs,
    name: str = "data",
) -> Samples:
    """Returns the first samples of `data`, one array per input.

    Args:
        data: An array of samples, a dict of such arrays by the names of the inputs, a
            list of them, a tuple `(x, y)`, or an iterable of batches `x` or `(x, y)`.
            In these, x is an array, or for several inputs a dict by their names, or a
            list. No more batches are read than needed.
        limit: Most samples to take; `None` takes all.
        inputs: The inputs that the samples must fit.
        name: The caller's name for `data`, for errors.

    Returns:
        Input name -> array `(N, ...)`, all of the same N >= 1.

    Raises:
        ValueError: When there are no samples, when they are no finite numbers, or
            when their shape is another one.
    """
    parts: dict[str, list[np.ndarray]] = {key: [] for key in inputs.shapes}
    count = 0
    for batch, _ in read_batches(data, inputs, name, is_limited=limit is not None):
        remaining = None if limit is None else limit - count
        taken = {key: array[:remaining] for key, array in batch.items()}
        for key, array in taken.items():
            parts[key].append(array)
        count += count_samples(taken)
        # Checked after a batch, not before the next: a generator may be costly.
        if count == limit:
            break
    check_not_empty(count, data, name)
    samples = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    for array in samples.values():
        check_finite(f"`{name}`", array)
    return samples


def full_batches(samples: Samples, batch_size: int) -> Iterator[Samples]:
    """Yields batches; the last one is filled up with the first samples.

    Args:
        samples: Input name -> array `(N, ...)`.
        batch_size: Number of samples in each batch.
    """
    count = count_samples(samples)
    # -count % batch_size rows are missing; real ones leave the ranges as they are.
    rows = np.arange(count + -count % batch_size) % count
    for rows_of_batch in rows.reshape(-1, batch_size):
        yield {name: values[rows_of_batch] for name, values in samples.items()}


def check_not_empty(count: int, data: Data, name: str = "data") -> None:
    """Raises an error if no sample was found.

    Args:
        count: The number of samples found in `data`.
        data: The data as the caller gave them.
        name: The caller's name for `data`, for the error.

    Raises:
        ValueError: When `count` is 0.
    """
    if not count:
        raise ValueError(
            f"Expected `{name}` to hold samples. Received: {name}={shown(data)}"
        )


def read_batches(
    data: Data,
    inputs: Inputs,
    name: str = "data",
    is_limited: bool = False,
) -> Iterator[tuple[Samples, Any]]:
    """Yields the inputs and the labels of each batch.

    Args:
        data: As for `take_samples`.
        inputs: As for `take_samples`.
        name: As for `take_samples`.
        is_limited: Whether the caller stops by itself, so that data may be endless.

    Yields:
        A pair: arrays by the names of the inputs; and y as given, or `None`.

    Raises:
        ValueError: When `data` is no iterable, or a batch does not fit `inputs`.
    """
    for batch in batches_of(data, inputs, name, is_limited):
        x, y = split_labels(batch, inputs)
        arrays = _by_name(x, inputs, name)
        _check_arrays(arrays, inputs, name)
        yield arrays, y


def cast(values: np.ndarray, dtype: DTypeLike, name: str = "data") -> np.ndarray:
    """Returns samples in the dtype of their input.

    Args:
        values: Finite numbers.
        dtype: The dtype of the input.
        name: The caller's name for the data, for the error.

    Raises:
        ValueError: When numbers are out of the range of `dtype`, or it is of integers
            and they are none.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = values.astype(dtype)
    is_whole = np.issubdtype(dtype, np.integer)
    fits = np.array_equal(result, values) if is_whole else np.isfinite(result).all()
    if not fits:
        kind = "integers" if is_whole else "numbers"
        raise ValueError(
            f"Expected `{name}` to be {kind} in the range of {np.dtype(dtype)}, which "
            f"the input takes. Received: values from {values.min()} to {values.max()}"
        )
    return result


def _by_name(x: Any, inputs: Inputs, name: str) -> Samples:
    """Returns the inputs of one batch as arrays, in the order of `inputs.shapes`."""
    names = list(inputs.shapes)
    if isinstance(x, Mapping):
        return _from_dict(x, inputs, name)
    is_listed = isinstance(x, (list, tuple)) and len(x) == len(names)
    if len(names) == 1:
        # A list of one array is as good as the array, one of one sample is another.
        is_listed = is_listed and is_x(x[0], inputs)
        values = x if is_listed else [x]
    elif is_listed:
        values = x
    else:
        raise ValueError(
            f"Expected batches of `{name}` to be dicts of arrays by the names of the "
            f"inputs, {names}. Received: {shown(x)} of {type(x)}"
        )
    arrays = [_to_numpy(value, name) for value in values]
    if len(names) > 1 and not inputs.is_ordered:
        names = _names_by_shape(arrays, inputs, name)
    return dict(zip(names, arrays, strict=True))


def _from_dict(x: Mapping, inputs: Inputs, name: str) -> Samples:
    """Returns the inputs out of a dict, which may have other entries too."""
    arrays = {}
    for input_name in inputs.shapes:
        accepted = [input_name, *inputs.keys.get(input_name, ())]
        keys = [key for key in accepted if key in x]
        if not keys:
            raise ValueError(
                f"Expected batches of `{name}` to be dicts of arrays by the names of "
                f"the inputs, {list(inputs.shapes)}, or pairs (x, y), as of "
                "tensorflow_datasets with as_supervised=True. Received: a dict with "
                f"{shown(list(x))}"
            )
        arrays[input_name] = _to_numpy(x[keys[0]], name)
    return arrays


def _names_by_shape(
    arrays: list[np.ndarray],
    inputs: Inputs,
    name: str,
) -> list[str]:
    """Returns the name of each array of a list: a file has no order but of names."""
    names = {shape: input_name for input_name, shape in inputs.shapes.items()}
    if len(names) < len(inputs.shapes):
        raise ValueError(
            f"Expected batches of `{name}` to be dicts of arrays by the names of the "
            f"inputs, {list(inputs.shapes)}: several are of one shape, and the file "
            "does not tell the order that they have in the model. Received: a list"
        )
    found = [names.get(array.shape[1:]) for array in arrays]
    # Without a place for each, their shapes are checked, and refused, in any order.
    is_complete = set(found) == set(inputs.shapes)
    return [str(each) for each in found] if is_complete else list(inputs.shapes)


def _to_numpy(value: Any, name: str) -> np.ndarray:
    # Tensors of torch, which may need gradients or be on another device.
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"Expected `{name}` to be arrays of numbers. Received: {shown(value)}: "
            f"{error}"
        ) from None


def _check_arrays(arrays: Samples, inputs: Inputs, name: str) -> None:
    for input_name, array in arrays.items():
        shape = tuple(inputs.shapes[input_name])
        # As Keras does: a column may come without its axis.
        if array.ndim == 1 and shape == (1,):
            array = arrays[input_name] = array[:, None]
        is_numeric = array.dtype.kind in NUMERIC_KINDS
        if array.ndim == 0 or array.shape[1:] != shape or not is_numeric:
            hint = ""
            if 0 < array.ndim == len(shape):
                hint = (
                    ". It looks unbatched: batch it, with `dataset.batch(32)` for "
                    "example, or make one array of the samples, with `np.stack`"
                )
            raise ValueError(
                f"Expected `{name}` to be numbers in batches of shape "
                f"{('n', *shape)}, as input {input_name!r} takes them. Received: a "
                f"batch of shape {array.shape} and dtype {array.dtype}{hint}"
            )
    counts = {len(array) for array in arrays.values()}
    if len(counts) > 1:
        received = [array.shape for array in arrays.values()]
        raise ValueError(
            f"Expected `{name}` to give as many samples for each input. Received: "
            f"batches of shape {received}"
        )
