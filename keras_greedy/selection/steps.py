"""The step rules: what a step of the selection does to the consumers' weights."""

from collections.abc import Callable
from typing import NamedTuple

from keras_greedy.selection.moments.corrective import Problem, forward_path
from keras_greedy.selection.moments.mixture import (
    gram,
    imitation_path,
    line_search,
    uniform,
)
from keras_greedy.selection.weights import least_squares, rescaled


class StepRule(NamedTuple):
    """A step rule.

    Attributes:
        path: From `[(covariance, weights)]`, one pair per consumer, and the number
            of channels, the path of least imitation error.
        reconstruct: What weights the consumers get; see `least_squares`.
    """

    path: Callable
    reconstruct: Callable


def _corrective(consumers, channels):
    return forward_path([Problem(*consumer, channels) for consumer in consumers])


def _mixing(step_sizes):
    def path(consumers, channels):
        grams = [gram(*consumer, channels) for consumer in consumers]
        return imitation_path(sum(grams), step_sizes)

    return path


STEP_RULES = {
    "corrective": StepRule(_corrective, least_squares),
    "line_search": StepRule(_mixing(line_search), rescaled),
    "uniform": StepRule(_mixing(uniform), rescaled),
}
