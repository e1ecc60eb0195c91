"""The command line `keras-greedy`.

It stands outside of the package, whose import starts Keras: before that, the backend is
chosen and TensorFlow is kept quiet. The commands are in `keras_greedy.cli`.
"""

import contextlib
import importlib
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence

from keras_greedy_cli.parser import parser
from tflite_export.quiet import quiet_tensorflow

# The exit codes of shells for a wrong call, and for the signal of Ctrl-C.
USAGE_ERROR = 2
INTERRUPTED = 130
# That of the signal which ends a program whose output nobody reads on, as of `| head`.
NO_READER = 141

PROGRAM = "keras-greedy"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `keras-greedy`.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0; 1 when what was checked is off; 2 for an error that the user
        can put right; 130 when interrupted.

    Example:

    ```sh
    keras-greedy prune model.keras --data photos --macs 0.5 -o compact.keras
    ```
    """
    argv = sys.argv[1:] if argv is None else argv
    options = vars(parser().parse_args(argv))
    command = options.pop("command")
    if "as_given" in options:
        options["as_given"] = shlex.join([PROGRAM, *argv])
    try:
        with quiet_tensorflow(), _warnings_in_a_line():
            code = _resolved(command)(**options)
            sys.stdout.flush()
            return code
    except BrokenPipeError:
        # Or else Python complains when it flushes the output at its end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except ImportError as error:
        told = str(error)
        if "pip install" not in told:
            told += ". To have it all: pip install 'keras_greedy[datasets,demo]'"
        return _failed(told)
    except (OSError, RuntimeError, ValueError) as error:
        return _failed(error)
    except KeyboardInterrupt as error:
        # That of a search with a checkpoint says how to go on.
        if str(error):
            _say(str(error))
        return INTERRUPTED


def _resolved(command: str | Callable[..., int]) -> Callable[..., int]:
    """Returns a command by its name, `module:function`, now that Keras may start."""
    if not isinstance(command, str):
        return command
    module, _, function = command.partition(":")
    return getattr(importlib.import_module(module), function)


def _failed(error: object) -> int:
    _say(error)
    return USAGE_ERROR


def _say(message: object) -> None:
    # Split into words, so that it is one line.
    print(f"{PROGRAM}:", *str(message).split(), file=sys.stderr)


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Shows warnings without the place in our code: the user has no code."""

    def show(message, *_, **__):
        _say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield
