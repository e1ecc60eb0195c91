"""For command lines: keeps the terminal free of what TensorFlow says as it starts."""

import contextlib
import faulthandler
import os


@contextlib.contextmanager
def quiet_tensorflow():
    """Drops what TensorFlow's C++ code says, unless TF_CPP_MIN_LOG_LEVEL is 0.

    No setting keeps it from writing to file descriptor 2 while it is imported, so
    that one leads nowhere for a while. Python's errors and warnings, and where it
    was in a crash, still reach the terminal.
    """
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        yield
        return
    with os.fdopen(os.dup(2), "w", buffering=1) as own, open(os.devnull, "w") as gone:
        os.dup2(gone.fileno(), 2)
        tells_crashes = faulthandler.is_enabled()
        if not tells_crashes:
            faulthandler.enable(own)
        try:
            with contextlib.redirect_stderr(own):
                yield
        finally:
            if not tells_crashes:
                faulthandler.disable()
            os.dup2(own.fileno(), 2)
