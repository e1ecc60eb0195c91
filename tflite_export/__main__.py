"""The command line: `python -m tflite_export`, and a command."""

import argparse
import sys
from collections.abc import Sequence

from tflite_export.commands import (
    add_android,
    add_benchmark,
    add_inspect,
    add_run,
    add_verify,
)
from tflite_export.quantize_command import add_quantize
from tflite_export.quiet import quiet_tensorflow

USER_ERROR = 2
INTERRUPTED = 130
"""As shells report a process that Ctrl-C has ended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m tflite_export`.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0; 1 when `verify` finds the file to be off; 2 for an error
        that the user can put right; 130 when interrupted.

    Example:

    ```python
    import keras
    import tflite_export
    from tflite_export.__main__ import main

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    tflite_export.convert(model, "model.tflite")
    assert main(["benchmark", "model.tflite", "--runs", "100"]) == 0
    ```
    """
    options = vars(_parser().parse_args(argv))
    command = options.pop("command")
    try:
        with quiet_tensorflow():
            return command(**options)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        # One line, however the message is broken.
        print("tflite_export:", *str(error).split(), file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tflite_export",
        description="Checks, runs and times .tflite files. Needs NumPy and a runtime.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    add_benchmark(commands.add_parser("benchmark", help="time files, in turns"))
    add_inspect(commands.add_parser("inspect", help="list the operations of a file"))
    add_verify(
        commands.add_parser(
            "verify",
            help="compare with what the model gave (exit code 1 if it is off)",
        )
    )
    add_run(commands.add_parser("run", help="compute the outputs of samples"))
    add_quantize(
        commands.add_parser(
            "quantize",
            help="write a float file with numbers of fewer bits",
        )
    )
    add_android(commands.add_parser("android", help="time a file on a phone, by adb"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
