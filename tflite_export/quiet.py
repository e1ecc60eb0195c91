"""Silence: TensorFlow's own messages stay off the terminal."""

import contextlib
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Iterator

STDERR = 2
"""The file descriptor that C++ code writes its messages to."""

LOG_EVERYTHING = "0"
LOG_FATAL_ERRORS = "3"
LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"

LOGGERS = ("tensorflow", "absl")
"""The names of the loggers that TensorFlow's Python code writes to."""


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Drops the messages of TensorFlow's C++ code, unless TF_CPP_MIN_LOG_LEVEL is 0.

    For command lines. Python's errors and warnings, and the place of a crash, still
    reach the terminal. Chooses the TensorFlow backend of Keras, unless KERAS_BACKEND
    names another.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault(LOG_LEVEL, LOG_FATAL_ERRORS)
    with _quiet_native():
        yield


@contextlib.contextmanager
def quiet_conversion() -> Iterator[None]:
    """Drops what TensorFlow says of its own files and steps while it converts.

    Those are lines of C++ code, unless TF_CPP_MIN_LOG_LEVEL is 0, and of Python's
    logging below the level of warnings, of this thread alone.
    """
    ours = _OfOthers(threading.get_ident())
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addFilter(ours)
    try:
        with _quiet_native():
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(ours)


class _OfOthers(logging.Filter):
    """Lets pass warnings, and what other threads log."""

    def __init__(self, thread: int):
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.thread != self._thread


class _Redirection:
    """The descriptor of errors, led to nowhere while somebody asks for it.

    It is of the whole process: threads that convert at once share it, and the last one
    to end restores it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._undo = contextlib.ExitStack()

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._redirect()

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users:
                self._undo.close()

    def _redirect(self) -> None:
        try:
            copy = os.dup(STDERR)
        except OSError:  # A process without a terminal may have closed it.
            return
        terminal = self._undo.enter_context(os.fdopen(copy, "w", buffering=1))
        # No setting keeps TensorFlow from writing to this descriptor while it is
        # imported, so the descriptor itself leads nowhere for a while.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), STDERR)
        self._undo.callback(os.dup2, terminal.fileno(), STDERR)
        if not faulthandler.is_enabled():
            faulthandler.enable(terminal)
            self._undo.callback(faulthandler.disable)
        # Notebooks and tests have put something else in its place, which stays.
        if _leads_to(sys.stderr, STDERR):
            self._undo.enter_context(contextlib.redirect_stderr(terminal))


_redirection = _Redirection()


@contextlib.contextmanager
def _quiet_native() -> Iterator[None]:
    if os.environ.get(LOG_LEVEL) == LOG_EVERYTHING:
        yield
        return
    _redirection.begin()
    try:
        yield
    finally:
        _redirection.end()


def _leads_to(stream: object, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
