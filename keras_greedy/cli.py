"""The command line: `keras-greedy demo`."""

import argparse
import contextlib
import faulthandler
import os
import sys


def main(argv=None) -> int:
    """Runs `keras-greedy`.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0, 2 for what the user can put right, 130 when interrupted.

    Example:

    ```python
    from keras_greedy.cli import main

    main(["demo", "--output", "demo_output"])
    ```
    """
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    try:
        with _quiet_tensorflow():
            command(**options)
    except ImportError as error:
        return _failed(f"{error}. To have it all: pip install 'keras_greedy[demo]'")
    except (OSError, RuntimeError, ValueError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 130
    return 0


def _failed(error) -> int:
    print("keras-greedy:", *str(error).split(), file=sys.stderr)
    return 2


def _demo(**options):
    from keras_greedy import demo

    demo.run(**options)


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-greedy", description="Structured pruning for Keras 3."
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="prune a small network, export it, check and time it",
        description="Trains a small MobileNetV2 on handwritten digits, takes half of "
        "its multiply-accumulates away, fine-tunes, exports and times it.",
        argument_default=argparse.SUPPRESS,
    )
    demo.add_argument("--output", metavar="FOLDER", help="default: demo_output")
    demo.add_argument("--epochs", type=int, help="training of the full model")
    demo.add_argument("--seed", type=int, help="of everything random")
    demo.set_defaults(command=_demo)
    return parser


@contextlib.contextmanager
def _quiet_tensorflow():
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


if __name__ == "__main__":
    sys.exit(main())
