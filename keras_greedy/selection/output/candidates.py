"""Which channels a step of the search on the loss evaluates, and how many it adds."""

import dataclasses
import numbers

import numpy as np

EXACT = 16
EXACT_AT_FIRST = 64


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Which channels are evaluated exactly at each step, and how many are added.

    Attributes:
        which: A number of channels drawn at random (50, as published), `"all"`, or
            `"screened"`: the best 8 of all channels by the second-order expansion
            and 8 others at random, since it favours channels that do nothing while
            the steps are large; up to 64 in the first steps. The very first has
            nothing to expand around and goes by the imitation error.
        per_step: How many channels one step adds, the best of those evaluated.

    Raises:
        ValueError: When they are not as described.
    """

    which: int | str = "screened"
    per_step: int = 1

    def __post_init__(self):
        if self.which not in ("all", "screened") and not _is_count(self.which):
            raise ValueError(
                "Expected `candidates` to be 'screened', 'all' or a positive integer. "
                f"Received: candidates={self.which!r}"
            )
        if not _is_count(self.per_step):
            raise ValueError(
                "Expected `channels_per_step` to be a positive integer. "
                f"Received: channels_per_step={self.per_step!r}"
            )

    def chosen(self, allowed, predicted, steps: int, rng) -> np.ndarray:
        """The channels to evaluate.

        Args:
            allowed: Channels that may be picked.
            predicted: A function that gives `(N,)` expected loss.
            steps: How many were taken.
            rng: Source of the draw.
        """
        if self.which == "screened":
            count = max(EXACT, EXACT_AT_FIRST // max(steps, 1), 2 * self.per_step)
            ranked = allowed[np.argsort(predicted()[allowed], kind="stable")]
            best, others = np.split(ranked, [(count + 1) // 2])
            return np.concatenate([best, rng.permutation(others)[: count // 2]])
        if _is_count(self.which) and self.which < len(allowed):
            return np.sort(rng.choice(allowed, self.which, replace=False))
        return allowed


def _is_count(value) -> bool:
    return (
        isinstance(value, numbers.Integral)
        and not isinstance(value, bool)
        and value > 0
    )
