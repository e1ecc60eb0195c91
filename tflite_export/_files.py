"""What the other modules share: opening a `.tflite` file, checking a count."""

import operator
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter


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


def open_tflite(path, threads=1):
    """Opens a `.tflite` file, ready to run.

    Args:
        path: the file.
        threads: how many threads its kernels may use.

    Returns:
        An `ai_edge_litert.interpreter.Interpreter` with its tensors allocated.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a `.tflite` model, or needs operations
            that the plain runtime does not have.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"Expected an existing .tflite file. Received: path={str(path)!r}"
        )
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "Expected a .tflite model that the built-in operations can run. "
            f"Received: path={str(path)!r}, which the interpreter refuses: {error}"
        ) from error
    return interpreter
