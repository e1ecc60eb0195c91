"""The results of commands, as text or as JSON."""

import contextlib
import dataclasses
import functools
import json as json_format
import sys
from collections.abc import Callable
from typing import Any

SUCCESS = 0
OFF = 1
"""What was checked is not as it should be."""


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of a command.

    Attributes:
        text: For a reader.
        facts: For a program.
        code: The exit code.
    """

    text: str
    facts: dict[str, Any]
    code: int = SUCCESS


def printed(command: Callable[..., Result]) -> Callable[..., int]:
    """Returns a command that prints its result, and returns its exit code.

    All that the work says goes to stderr, so that a pipe gets the result alone.

    Args:
        command: Computes the result.
    """

    @functools.wraps(command)
    def run(*, json: bool, **options: Any) -> int:
        with contextlib.redirect_stdout(sys.stderr):
            result = command(**options)
        print(json_format.dumps(result.facts) if json else result.text)
        return result.code

    return run


def say(line: str) -> None:
    """Prints a line about the work to stderr."""
    print(line, file=sys.stderr, flush=True)
