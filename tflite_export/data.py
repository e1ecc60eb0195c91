"""Samples of a model's inputs, read from the user's arrays, datasets or batches."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from tflite_export.checks import check_finite

Data: TypeAlias = Any
"""An array, a dict of arrays, a tuple `(x, y)`, or an iterable of batches."""

Samples: TypeAlias = dict[str, np.ndarray]
"""Input or output name -> an array of one row per sample."""

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Input name -> the shape of one sample, without the batch axis."""

NUMERIC_KINDS = "biuf"
"""NumPy's letters for the dtypes bool, int, unsigned int and float."""


def count_samples(samples: Mapping[str, np.ndarray]) -> int:
    """Returns the number of rows, which is the same for each array of `samples`."""
    return len(next(iter(samples.values())))


def take_samples(
    data: Data,
    limit: int | None,
    shapes: Shapes,
    name: str = "data",
) -> Samples:
    """Returns the first samples of `data`, one array per input.

    Args:
        data: An array of samples, a dict of such arrays by the names of the inputs, a
            tuple `(x, y)`, or an iterable of batches `x` or `(x, y)`. In these, x is
            an array, or for several inputs a dict by their names, or a list. No more
            batches are read than needed.
        limit: Most samples to take; `None` takes all.
        shapes: Input name -> the shape that each sample must have.
        name: The caller's name for `data`, for errors.

    Returns:
        Input name -> array `(N, ...)`, all of the same N >= 1.

    Raises:
        ValueError: When there are no samples, when they are no finite numbers, or
            when their shape is another one.
    """
    parts: dict[str, list[np.ndarray]] = {input_name: [] for input_name in shapes}
    count = 0
    for inputs, _ in read_batches(data, shapes, name):
        remaining = None if limit is None else limit - count
        taken = {input_name: array[:remaining] for input_name, array in inputs.items()}
        for input_name, array in taken.items():
            parts[input_name].append(array)
        count += count_samples(taken)
        # Checked after a batch, not before the next: a generator may be costly.
        if count == limit:
            break
    check_not_empty(count, data, name)
    samples = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    for array in samples.values():
        check_finite(f"`{name}`", array)
    return samples


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
            f"Expected `{name}` to hold samples. Received: {name}={data!r}"
        )


def read_batches(
    data: Data,
    shapes: Shapes,
    name: str = "data",
) -> Iterator[tuple[Samples, Any]]:
    """Yields the inputs and the labels of each batch.

    Args:
        data: As for `take_samples`.
        shapes: As for `take_samples`.
        name: As for `take_samples`.

    Yields:
        A pair: arrays by the names of the inputs; and y as given, or `None`.

    Raises:
        ValueError: When `data` is no iterable, or a batch does not fit `shapes`.
    """
    # These are one batch. A list is not: its items are batches.
    is_one_batch = hasattr(data, "__array__") or isinstance(data, (tuple, dict))
    batches = [data] if is_one_batch else data
    if not isinstance(batches, Iterable):
        raise ValueError(
            f"Expected `{name}` to be an array or an iterable of batches. "
            f"Received: {name}={data!r}"
        )
    for batch in batches:
        x, y = _split_labels(batch)
        inputs = _by_name(x, shapes, name)
        _check_inputs(inputs, shapes, name)
        yield inputs, y


def _split_labels(batch: Any) -> tuple[Any, Any]:
    """Returns x and y of a batch; y is `None` when it has none."""
    if not isinstance(batch, tuple):
        return batch, None
    # Keras accepts a third item, the sample weights: of no use here.
    x = batch[0] if batch else None
    y = batch[1] if len(batch) > 1 else None
    return x, y


def _by_name(x: Any, shapes: Shapes, name: str) -> Samples:
    """Returns the inputs of one batch as arrays, in the order of `shapes`."""
    if len(shapes) == 1 and not isinstance(x, dict):
        (only_input,) = shapes
        x = {only_input: x}
    elif isinstance(x, (list, tuple)) and len(x) == len(shapes):
        x = dict(zip(shapes, x, strict=True))
    if not isinstance(x, dict) or set(x) != set(shapes):
        received = sorted(x) if isinstance(x, dict) else type(x)
        raise ValueError(
            f"Expected batches of `{name}` to be dicts of arrays by the names of the "
            f"inputs, {list(shapes)}. Received: {received}"
        )
    return {input_name: np.asarray(x[input_name]) for input_name in shapes}


def _check_inputs(inputs: Samples, shapes: Shapes, name: str) -> None:
    for input_name, array in inputs.items():
        shape = shapes[input_name]
        is_numeric = array.dtype.kind in NUMERIC_KINDS
        if array.ndim == 0 or array.shape[1:] != shape or not is_numeric:
            raise ValueError(
                f"Expected `{name}` to be numbers in batches of shape "
                f"{('n', *shape)}, as input {input_name!r} takes them. Received: a "
                f"batch of shape {array.shape} and dtype {array.dtype}"
            )
    counts = {len(array) for array in inputs.values()}
    if len(counts) > 1:
        received = [array.shape for array in inputs.values()]
        raise ValueError(
            f"Expected `{name}` to give as many samples for each input. Received: "
            f"batches of shape {received}"
        )
