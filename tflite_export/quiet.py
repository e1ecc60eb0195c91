"""Silence for command lines: TensorFlow's start-up messages stay off the terminal."""

import contextlib
import faulthandler
import os
from collections.abc import Iterator

STDERR = 2
"""The file descriptor that C++ code writes its messages to."""

LOG_EVERYTHING = "0"
LOG_FATAL_ERRORS = "3"


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Drops the messages of TensorFlow's C++ code, unless TF_CPP_MIN_LOG_LEVEL is 0.

    Python's errors and warnings, and the place of a crash, still reach the terminal.
    Chooses the TensorFlow backend of Keras, unless KERAS_BACKEND names another.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", LOG_FATAL_ERRORS)
    if level == LOG_EVERYTHING:
        yield
        return
    with (
        os.fdopen(os.dup(STDERR), "w", buffering=1) as terminal,
        open(os.devnull, "w") as nowhere,
    ):
        # No setting keeps TensorFlow from writing to this descriptor while it is
        # imported, so the descriptor itself leads nowhere for a while.
        os.dup2(nowhere.fileno(), STDERR)
        had_faulthandler = faulthandler.is_enabled()
        if not had_faulthandler:
            faulthandler.enable(terminal)
        try:
            with contextlib.redirect_stderr(terminal):
                yield
        finally:
            if not had_faulthandler:
                faulthandler.disable()
            os.dup2(terminal.fileno(), STDERR)
