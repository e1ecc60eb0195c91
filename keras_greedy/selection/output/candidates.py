"""Chooses the channels that a step of a search on the output evaluates."""

import dataclasses
from collections.abc import Callable

import numpy as np

from tflite_export.checks import is_count

EXACT = 16
"""Channels that a screened step evaluates exactly: half by rank, half at random."""

EXACT_AT_FIRST = 64
"""Likewise in the first step; it falls to `EXACT` as the steps get smaller."""

SMALL_STEPS = 32
"""From so many steps on, steps of 1 / n are small enough for the rank alone."""

WORDS = ("screened", "ranked", "all")
"""The candidates that are no number."""


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The channels evaluated exactly at each step, and how many of them are added.

    Attributes:
        which: A number of channels drawn at random (50, as published), `"all"`, or
            `"screened"`: the best 8 of all channels by the second-order expansion
            and 8 others at random, since it favours channels that do nothing while
            the steps are large; up to 64 in the first steps. Once uniform steps
            of one channel are small, none are drawn. The very first has nothing to
            expand around and goes by the imitation error. `"ranked"`: the best by
            that expansion, none being evaluated.
        per_step: How many channels one step adds, the best of those evaluated.

    Raises:
        ValueError: When they are not as described.
    """

    which: int | str = "screened"
    per_step: int = 1

    def __post_init__(self) -> None:
        if self.which not in WORDS and not is_count(self.which):
            raise ValueError(
                f"Expected `candidates` to be one of {[*WORDS]} or a positive integer. "
                f"Received: candidates={self.which!r}"
            )
        if not is_count(self.per_step):
            raise ValueError(
                "Expected `channels_per_step` to be a positive integer. "
                f"Received: channels_per_step={self.per_step!r}"
            )

    @property
    def is_screened(self) -> bool:
        """Whether the channels are ranked before some are evaluated."""
        return self.which == "screened"

    @property
    def is_ranked(self) -> bool:
        """Whether the channels are ranked and none is evaluated."""
        return self.which == "ranked"

    def chosen(
        self,
        allowed: np.ndarray,
        predicted: Callable[[], np.ndarray],
        steps: int,
        rng: np.random.Generator,
        may_go_by_rank: bool = False,
    ) -> np.ndarray:
        """Returns the channels to evaluate.

        Args:
            allowed: Channels that may be picked.
            predicted: Gives the `(N,)` loss expected after a step to each channel.
            steps: How many steps were taken.
            rng: Source of the draw.
            may_go_by_rank: Whether none are to be drawn once the steps are small.
        """
        if self.is_screened:
            is_small = may_go_by_rank and steps >= SMALL_STEPS
            return self._screened(allowed, predicted(), steps, rng, is_small)
        if isinstance(self.which, str) or self.which >= len(allowed):
            return allowed
        return np.sort(rng.choice(allowed, self.which, replace=False))

    def _screened(
        self,
        allowed: np.ndarray,
        predicted: np.ndarray,
        steps: int,
        rng: np.random.Generator,
        is_small: bool,
    ) -> np.ndarray:
        count = max(EXACT, EXACT_AT_FIRST // max(steps, 1), 2 * self.per_step)
        # Stable: of channels that are alike the first comes first, on every machine.
        order = np.argsort(predicted[allowed], kind="stable")
        ranked = allowed[order]
        if is_small:
            return ranked[: EXACT // 2]
        best, others = np.split(ranked, [(count + 1) // 2])
        drawn = rng.permutation(others)[: count // 2]
        return np.concatenate([best, drawn])
