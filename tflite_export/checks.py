"""Checks of arguments, shared by this package and `keras_greedy`.

Every error names the argument, says which values are accepted and shows the one given.
"""

import numbers
import operator
import os
import reprlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

_SHORT = reprlib.Repr()
# Of one value in a message: a path is shown whole, a data set is not.
_SHORT.maxstring = 200
_SHORT.maxother = 200


def shown(value: object) -> str:
    """Returns a `repr` that fits into a message, however large the value is."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        dtype = getattr(value, "dtype", "unknown")
        return f"<{type(value).__name__} of shape {shape}, dtype {dtype}>"
    return _SHORT.repr(str(value) if isinstance(value, Path) else value)


def is_number(value: object) -> bool:
    """Returns whether `value` is a real number; a `bool` is none."""
    # `bool` is a subclass of `int`, but `budget=True` is a mistake.
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_count(value: object, minimum: int = 1) -> bool:
    """Returns whether `value` is an integer of at least `minimum`; a `bool` is none."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        return False
    return int(value) >= minimum


def check_number(name: str, value: object, expected: str, holds: bool) -> None:
    """Raises an error with the accepted range of a number, unless `holds`.

    Args:
        name: The argument's name.
        value: The value that the caller gave.
        expected: Words for the accepted values, such as "a positive number".
        holds: Whether `value` is one of them.

    Raises:
        ValueError: When `holds` is false.
    """
    if not holds:
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={shown(value)}"
        )


def check_count(name: str, value: Any, minimum: int) -> int:
    """Returns `value` as an `int`, if it is an integer of at least `minimum`.

    Args:
        name: The argument's name, for the error.
        value: The value that the caller gave. Any integer type but `bool` is accepted.
        minimum: The smallest value allowed.

    Returns:
        The same number as Python's own `int`.

    Raises:
        ValueError: When `value` is no integer, or below `minimum`.
    """
    try:
        count = operator.index(value)
    except TypeError:
        count = None
    if count is None or count < minimum or isinstance(value, bool):
        raise ValueError(
            f"Expected `{name}` to be an integer of at least {minimum}. "
            f"Received: {name}={shown(value)}"
        )
    return count


def check_choice(
    name: str,
    value: object,
    accepted: Collection,
    when: str = "",
) -> None:
    """Raises an error unless `value` is one of the accepted values.

    Args:
        name: The argument's name.
        value: The value that the caller gave.
        accepted: All values allowed.
        when: The condition under which these are the ones allowed, such as
            " with objective='loss'".

    Raises:
        ValueError: When `value` is none of them.
    """
    # Looking up a list, not a set or a dict: `value` need not be hashable.
    choices = list(accepted)
    # An array is equal to a string entry by entry, which is neither True nor False.
    if getattr(value, "ndim", 0) or value not in choices:
        raise ValueError(
            f"Expected `{name}` to be one of {choices}{when}. "
            f"Received: {name}={shown(value)}"
        )


def check_path(
    path: str | Path,
    name: str = "path",
    expected: str = "the name of a file, a string or a pathlib.Path, and no folder",
) -> Path:
    """Returns the path of a file, if it is one and not that of a folder.

    Args:
        path: The path that the caller gave.
        name: The argument's name, for the error.
        expected: Words for the file, for the error.

    Returns:
        `path`, as a `Path`.

    Raises:
        ValueError: When `path` is neither a string nor a `pathlib.Path`, is empty, or
            is a folder.
    """
    is_path = isinstance(path, (str, os.PathLike)) and isinstance(os.fspath(path), str)
    if not is_path or not os.fspath(path) or Path(path).is_dir():
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={shown(path)}"
        )
    return Path(path)


def check_file(path: str | Path, expected: str, name: str = "path") -> Path:
    """Returns the path of a file to read, if there is one.

    Args:
        path: The path that the caller gave.
        expected: Words for the file, such as "an existing .tflite file".
        name: The argument's name, for the error.

    Returns:
        `path`, as a `Path`.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When `path` is none, see `check_path`.
    """
    path = check_path(path, name)
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected `{name}` to be {expected}. Received: {name}={str(path)!r}, "
            "which does not exist"
        )
    return path


def check_folder(path: str | Path, name: str = "path") -> Path:
    """Returns the path of a file to write, if its folder exists.

    Args:
        path: The path that the caller gave.
        name: The argument's name, for the error.

    Returns:
        `path`, as a `Path`.

    Raises:
        FileNotFoundError: When the folder of the file does not exist.
        ValueError: When `path` is none, see `check_path`.
    """
    path = check_path(path, name)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected `{name}` to be in an existing folder: create {path.parent} "
            f"first. Received: {name}={str(path)!r}"
        )
    return path


def check_target(path: str | Path, suffix: str, name: str = "path") -> Path:
    """Returns the path of a file to write, if its suffix and its folder are right.

    Args:
        path: The path that the caller gave.
        suffix: The required end of the file name, with its dot.
        name: The argument's name, for the error.

    Returns:
        `path`, as a `Path`.

    Raises:
        FileNotFoundError: When the folder of the file does not exist.
        ValueError: When `path` has another suffix, or is a folder.
    """
    expected = f"a file name ending in {suffix}"
    path = check_path(path, name, expected)
    if path.suffix != suffix:
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={str(path)!r}"
        )
    return check_folder(path, name)


def check_finite(what: str, values: np.ndarray) -> None:
    """Raises an error if any of `values` is NaN or infinite.

    Args:
        what: A name for the values, for the error.
        values: An array `(N, ...)` of at least one sample, one row per sample.

    Raises:
        ValueError: When a value is not finite; says how many samples have one.
    """
    rows = np.isfinite(values).reshape(len(values), -1)
    is_finite_row = rows.all(axis=1)
    if not is_finite_row.all():
        bad = np.flatnonzero(~is_finite_row)
        raise ValueError(
            f"Expected {what} to be finite. Received: NaN or infinity in "
            f"{len(bad)} of {len(values)} samples, the first at index {bad[0]}"
        )
