"""The command line: `keras-greedy demo`.

It stands outside of the package, whose import starts Keras: before that, the backend is
chosen and TensorFlow is kept quiet.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from tflite_export.quiet import quiet_tensorflow

# The exit codes of shells for a wrong call, and for the signal of Ctrl-C.
USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `keras-greedy`.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0, 2 for an error that the user can put right, 130 when
        interrupted.

    Example:

    ```sh
    keras-greedy demo --output demo_output
    ```
    """
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    try:
        with quiet_tensorflow():
            command(**options)
    except ImportError as error:
        return _failed(f"{error}. To have it all: pip install 'keras_greedy[demo]'")
    except (OSError, RuntimeError, ValueError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def _failed(error: object) -> int:
    # Split into words, so that it is one line.
    print("keras-greedy:", *str(error).split(), file=sys.stderr)
    return USAGE_ERROR


def _demo(**options: Any) -> None:
    # Starts Keras and TensorFlow, which `main` has made ready for it.
    from keras_greedy import demo

    demo.run(**options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-greedy",
        description="Structured pruning for Keras 3.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="prune a small network, export it, check and time it",
        description="Trains a small MobileNetV2 on handwritten digits, takes half of "
        "its multiply-accumulates away, exports and times it.",
        # Options that are not given are left out: their defaults are those of `run`.
        argument_default=argparse.SUPPRESS,
    )
    demo.add_argument("--output", metavar="FOLDER", help="default: demo_output")
    demo.add_argument("--epochs", type=int, help="training of the full model")
    demo.add_argument("--seed", type=int, help="of everything random")
    demo.set_defaults(command=_demo)
    return parser


if __name__ == "__main__":
    sys.exit(main())
