"""Symbolic tensors in the code of users, who wrote it for values."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import KerasTensor

OPERATORS = (
    "__add__",
    "__sub__",
    "__mul__",
    "__truediv__",
    "__floordiv__",
    "__matmul__",
    "__pow__",
)


def is_symbolic(value: Any) -> bool:
    """Returns whether a value is a symbolic tensor of Keras."""
    return isinstance(value, KerasTensor)


@contextlib.contextmanager
def symbols_take_weights() -> Iterator[None]:
    """Lets a weight be the left one of two factors whose right one is symbolic.

    Keras only knows the other order, in which the symbolic tensor says what is done.
    """
    own = dict(vars(keras.Variable))

    def leaving_it_to_the_other(name: str) -> Callable[[Any, Any], Any]:
        usual = getattr(keras.Variable, name)

        def operator(weight: Any, other: Any) -> Any:
            return NotImplemented if is_symbolic(other) else usual(weight, other)

        return operator

    for name in OPERATORS:
        setattr(keras.Variable, name, leaving_it_to_the_other(name))
    try:
        yield
    finally:
        for name in OPERATORS:
            if name in own:
                setattr(keras.Variable, name, own[name])
            else:
                delattr(keras.Variable, name)


def first_line(error: Exception) -> str:
    """Returns the first sentence of what an error says."""
    text = str(error).strip() or type(error).__name__
    return text.split("\n")[0].split(". ")[0]
