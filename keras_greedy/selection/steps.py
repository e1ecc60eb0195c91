"""The step rules: how a step of the selection changes the consumers' weights."""

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import numpy as np

from keras_greedy.selection.moments.corrective import Problem, forward_path
from keras_greedy.selection.moments.mixture import (
    StepSizes,
    gram,
    imitation_path,
    line_search,
    uniform,
)
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.reconstruction import Reconstruct, least_squares, rescaled

MomentsAndKernels: TypeAlias = Iterable[tuple[np.ndarray, np.ndarray]]
"""For each consumer its rows' `(F, F)` covariance and its `(F, columns)` kernel.

Features are those of the group's channels only, channel by channel."""

FindPath: TypeAlias = Callable[[MomentsAndKernels, int], SelectionPath]
"""A function of the consumers and the number of channels."""


class StepRule(NamedTuple):
    """A step rule.

    Attributes:
        path: Finds the path of least imitation error, from the covariance and kernel
            of each consumer and the number of channels.
        reconstruct: Makes the consumers' new weights; see `least_squares`.
    """

    path: FindPath
    reconstruct: Reconstruct


def _corrective_path(
    consumers: MomentsAndKernels,
    channels: int,
) -> SelectionPath:
    problems = []
    for covariance, kernel in consumers:
        problems.append(Problem(covariance, kernel, channels))
    return forward_path(problems)


def _mixing_path(step_sizes: StepSizes) -> FindPath:
    def path(
        consumers: MomentsAndKernels,
        channels: int,
    ) -> SelectionPath:
        # The errors of several consumers add up, and so do their quadratic forms.
        total = np.zeros((channels, channels))
        for covariance, kernel in consumers:
            total += gram(covariance, kernel, channels)
        return imitation_path(total, step_sizes)

    return path


STEP_RULES = {
    "corrective": StepRule(_corrective_path, least_squares),
    "line_search": StepRule(_mixing_path(line_search), rescaled),
    "uniform": StepRule(_mixing_path(uniform), rescaled),
}
