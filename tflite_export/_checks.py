"""Checks of arguments that several modules share."""

import operator
from pathlib import Path

import numpy as np


def check_count(name, value, minimum):
    """Returns `value` as an `int`, or says which argument is not one.

    Args:
        name: the argument's name, for the error.
        value: what the caller gave. Any integer type but `bool` is accepted.
        minimum: the smallest value allowed.

    Raises:
        ValueError: if `value` is no integer or below `minimum`.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or count < minimum or isinstance(value, bool):
        raise ValueError(
            f"Expected `{name}` to be an integer of at least {minimum}. "
            f"Received: {name}={value!r}"
        )
    return count


def check_target(path, suffix):
    """Returns `path`, a file to write, as a `Path`.

    Args:
        path: what the caller gave.
        suffix: what its name must end in.

    Raises:
        FileNotFoundError: if its folder does not exist.
        ValueError: if it has another suffix, or is a folder.
    """
    path = Path(path)
    if path.suffix != suffix or path.is_dir():
        raise ValueError(
            f"Expected `path` to be a file name ending in {suffix}. "
            f"Received: path={str(path)!r}"
        )
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected `path` to be in an existing folder. Received: path={str(path)!r}"
        )
    return path


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
