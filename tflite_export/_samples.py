"""Reads samples out of whatever holds them."""

from collections.abc import Iterable

import numpy as np


def take_samples(data, limit, shape):
    """Returns the first samples of `data` as one array.

    Args:
        data: an array of samples, a tuple `(x, y)` of arrays, or an iterable of
            batches `x` or `(x, y)`. No more batches are read than needed.
        limit: how many samples to take at most.
        shape: the shape each sample must have.

    Raises:
        ValueError: if there are no samples, if they are no finite numbers, or if
            their shape is another one.
    """
    taken, count = [], 0
    for batch in _batches(data):
        batch = np.asarray(batch)
        is_numeric = batch.dtype.kind in "biuf"
        if batch.ndim == 0 or batch.shape[1:] != shape or not is_numeric:
            raise ValueError(
                f"Expected `data` to be numbers in batches of shape {('n', *shape)}, "
                "as the file takes them. Received: a batch of shape "
                f"{batch.shape} and dtype {batch.dtype}"
            )
        taken.append(batch[: limit - count])
        count += len(taken[-1])
        if count == limit:
            break
    if not count:
        raise ValueError(f"Expected `data` to hold samples. Received: data={data!r}")
    samples = np.concatenate(taken)
    check_finite("`data`", samples)
    return samples


def check_finite(what, values):
    """Raises a `ValueError` if any of `values` is NaN or infinite.

    Args:
        what: what the values are, for the error.
        values: an array, one row per sample.
    """
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise ValueError(
            f"Expected {what} to be finite. Received: NaN or infinity in "
            f"{len(bad)} of {len(values)} samples, the first at index {bad[0]}"
        )


def _batches(data):
    if hasattr(data, "__array__") or isinstance(data, tuple):
        data = [data]
    if not isinstance(data, Iterable):
        raise ValueError(
            "Expected `data` to be an array or an iterable of batches. "
            f"Received: data={data!r}"
        )
    return (batch[0] if isinstance(batch, tuple) else batch for batch in data)
