"""Errors that tell the author of a rule which layer it does not fit, and why."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_greedy.graph.calls import Call

# What Keras adds to the errors of a layer's `call`.
BOLD = re.compile(r"\x1b\[\d+m")
KERAS_HEADING = "Exception encountered when calling "

# Others' errors may repeat a whole config.
REASON_LENGTH = 300


def fault(call: Call, expected: str, received: str) -> ValueError:
    """Returns the error that a rule does not fit its layer.

    Args:
        call: A call of the layer.
        expected: What the rule should do.
        received: What it does.
    """
    kind = type(call.operation).__name__
    return ValueError(
        f"Expected {type(call.rule).__name__}, the rule of layer '{call.name}' of type "
        f"{kind}, {expected}. Received: {received[:REASON_LENGTH]}"
    )


@contextlib.contextmanager
def blamed_on_rule(call: Call, expected: str) -> Iterator[None]:
    """Makes what fails meanwhile an error of the call's rule.

    Args:
        call: A call with a rule.
        expected: What the rule should do.
    """
    try:
        yield
    except Exception as error:
        # Whatever it is: the rule and the layer are the user's.
        source = error.__cause__ or error
        reason = BOLD.sub("", str(source)).removeprefix(KERAS_HEADING)
        received = f"{type(source).__name__}: {' '.join(reason.split())}"
        raise fault(call, expected, received) from error


def check_width(call: Call, made: Any, width: int) -> None:
    """Raises a ValueError where a cut layer makes another number of channels.

    Args:
        call: The call of the layer before the cut.
        made: What it makes now.
        width: How many channels are left of its output.
    """
    first, *_ = keras.tree.flatten(made)
    if len(first.shape) > 1 and first.shape[-1] not in (None, width):
        raise fault(
            call,
            f"to make it one of {width} channels: by `width`, the name of the argument "
            "that is their number, or by `cut_config`",
            f"one of {first.shape[-1]}",
        )


def check_left(
    call: Call,
    name: str,
    left: Sequence[int],
    wanted: Sequence[int],
) -> None:
    """Raises a ValueError where a weight's entries that are left do not fit.

    Args:
        call: The call of the layer before the cut.
        name: Name of the weight.
        left: The shape of what is left of it.
        wanted: The shape that it has in the layer made anew.
    """
    if tuple(left) != tuple(wanted):
        raise fault(
            call,
            f"to say by `weight_axes` which axes of its weight {name!r} run over the "
            f"channels: of the layer made anew it has the shape {tuple(wanted)}",
            f"{tuple(left)}",
        )
