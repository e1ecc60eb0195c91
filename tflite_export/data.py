"""Reads samples out of whatever holds them."""

from collections.abc import Iterable

import numpy as np

from tflite_export.checks import check_finite


def take_samples(data, limit, shapes, name="data"):
    """Returns the first samples of `data`, one array per input.

    Args:
        data: an array of samples, a dict of such arrays by the names of the inputs, a
            tuple `(x, y)`, or an iterable of batches `x` or `(x, y)`. In these, x is
            an array, or for several inputs a dict by their names, or a list. No more
            batches are read than needed.
        limit: how many samples to take at most; `None`: all.
        shapes: by the name of the input, the shape each sample must have.
        name: what the caller calls `data`, for errors.

    Raises:
        ValueError: if there are no samples, if they are no finite numbers, or if
            their shape is another one.
    """
    taken, count = {key: [] for key in shapes}, 0
    for inputs, _ in read_batches(data, shapes, name):
        rest = None if limit is None else limit - count
        for key, array in inputs.items():
            taken[key].append(array[:rest])
        count = sum(map(len, taken[key]))
        if count == limit:
            break
    if not count:
        raise ValueError(
            f"Expected `{name}` to hold samples. Received: {name}={data!r}"
        )
    samples = {key: np.concatenate(arrays) for key, arrays in taken.items()}
    for array in samples.values():
        check_finite(f"`{name}`", array)
    return samples


def read_batches(data, shapes, name="data"):
    """Yields `(inputs, y)`: arrays by the names of the inputs, and y or `None`.

    Args and errors are those of `take_samples`.
    """
    if hasattr(data, "__array__") or isinstance(data, (tuple, dict)):
        data = [data]
    if not isinstance(data, Iterable):
        raise ValueError(
            f"Expected `{name}` to be an array or an iterable of batches. "
            f"Received: {name}={data!r}"
        )
    for batch in data:
        x, y, *_ = (*batch, None) if isinstance(batch, tuple) else (batch, None)
        yield _checked(_by_name(x, shapes, name), shapes, name), y


def _by_name(x, shapes, name):
    if len(shapes) == 1 and not isinstance(x, dict):
        x = dict.fromkeys(shapes, x)
    elif isinstance(x, (list, tuple)) and len(x) == len(shapes):
        x = dict(zip(shapes, x, strict=True))
    if not isinstance(x, dict) or set(x) != set(shapes):
        received = sorted(x) if isinstance(x, dict) else type(x)
        raise ValueError(
            f"Expected batches of `{name}` to be dicts of arrays by the names of the "
            f"inputs, {list(shapes)}. Received: {received}"
        )
    return {key: np.asarray(x[key]) for key in shapes}


def _checked(inputs, shapes, name):
    for key, array in inputs.items():
        is_numeric = array.dtype.kind in "biuf"
        if array.ndim == 0 or array.shape[1:] != shapes[key] or not is_numeric:
            raise ValueError(
                f"Expected `{name}` to be numbers in batches of shape "
                f"{('n', *shapes[key])}, as input {key!r} takes them. Received: a "
                f"batch of shape {array.shape} and dtype {array.dtype}"
            )
    if len({len(array) for array in inputs.values()}) > 1:
        raise ValueError(
            f"Expected `{name}` to give as many samples for each input. Received: "
            f"batches of shape {[array.shape for array in inputs.values()]}"
        )
    return inputs
