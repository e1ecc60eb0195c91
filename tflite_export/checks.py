"""Checks of arguments: this package and `keras_greedy` share them."""

import numbers
import operator
from collections.abc import Collection
from pathlib import Path

import numpy as np


def is_number(value: object) -> bool:
    """Returns whether `value` is a real number; a `bool` is none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_count(value: object, minimum: int = 1) -> bool:
    """Returns whether `value` is an integer of at least `minimum`."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and value >= minimum


def check_number(name: str, value: object, expected: str, holds: bool) -> None:
    """Raises a `ValueError` that says what was expected, unless `holds`.

    Args:
        name: the argument's name.
        value: what the caller gave.
        expected: what it should be, such as "a positive number".
        holds: whether it is that.
    """
    if not holds:
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={value!r}"
        )


def check_count(name: str, value: object, minimum: int) -> int:
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


def check_choice(
    name: str, value: object, accepted: Collection, when: str = ""
) -> None:
    """Raises a `ValueError` unless `value` is one of those accepted.

    Args:
        name: the argument's name.
        value: what the caller gave.
        accepted: what it may be.
        when: what that depends on, such as " with objective='loss'".
    """
    # A list, not a set: what the caller gave need not have a hash.
    if value not in list(accepted):
        raise ValueError(
            f"Expected `{name}` to be one of {list(accepted)}{when}. "
            f"Received: {name}={value!r}"
        )


def check_folder(path: str | Path, name: str = "path") -> Path:
    """Returns `path`, a file to write, as a `Path`.

    Args:
        path: what the caller gave.
        name: the argument's name, for the error.

    Raises:
        FileNotFoundError: if its folder does not exist.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected `{name}` to be in an existing folder: create {path.parent} "
            f"first. Received: {name}={str(path)!r}"
        )
    return path


def check_target(path: str | Path, suffix: str) -> Path:
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
    return check_folder(path)


def check_finite(what: str, values: np.ndarray) -> None:
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
