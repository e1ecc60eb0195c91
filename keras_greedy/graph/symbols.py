"""Symbolic tensors in the code of users, who wrote it for values."""

import contextlib
import re
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
# Lines of Keras around what an error says.
FRAMES = (
    "Exception encountered when calling",
    "Could not automatically infer the output shape",
)
# Of a reason, which may be a long message of the user's own code.
REASON_LENGTH = 150


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
    """Returns what an error says, in a line, without what Keras adds."""
    # Colours, and the names of TensorFlow's nodes.
    text = re.sub(r"\x1b\[[0-9;]*m|\{\{.*?\}\} *", "", str(error))
    for line in text.splitlines():
        if line.strip() and not line.startswith(FRAMES):
            return line.strip()[:REASON_LENGTH]
    return type(error).__name__
