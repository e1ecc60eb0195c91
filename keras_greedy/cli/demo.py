"""`keras-greedy demo`."""

from typing import Any

from keras_greedy.cli.results import SUCCESS


def demo(**options: Any) -> int:
    """Runs the demo, which prints as it goes."""
    from keras_greedy import demo as program

    program.run(**options)
    return SUCCESS
