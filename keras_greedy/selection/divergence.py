"""The divergence of the output that cutting one group brings, by its width."""

import dataclasses

import numpy as np

RELATIVE_FLOOR = 1e-9
"""Errors below this share of the largest one are rounding, and all count as it."""

SMALLEST_DIVERGENCE = 1e-12
"""Added to the divergences, so that a measured 0 has a logarithm."""

FREE = 1e-6
"""A measured divergence up to this is none: it may be rounding alone."""

FREE_TO_SECOND_ORDER = 1e-12
"""Likewise one to second order: it is a square, and no difference of large numbers."""

DIVERGENCE_OF_ALL = 1.0
"""Taken for the loss of a whole group where nothing tells it: a nat per example."""

FEWEST_STEPS = 8
"""A group is looked into at no fewer widths than this, to find where cuts cost."""

NO_ERROR = 1e-6
"""Up to this share of the largest error, the selection says that none is left."""


@dataclasses.dataclass(frozen=True, eq=False)
class Divergence:
    """The measured divergence of one group at a few widths.

    Attributes:
        widths: `(k,)` increasing, below the group's size; none for one channel. The
            first is 0 where the group's branch may go.
        values: `(k,)` mean divergence per example.
        free: Up to this a value may be rounding alone, and counts as none.
    """

    widths: np.ndarray
    values: np.ndarray
    free: float = FREE

    def __repr__(self) -> str:
        return f"<Divergence at {len(self.widths)} widths>"

    def curve(self, errors: np.ndarray) -> np.ndarray:
        """Returns the `(N + 1,)` divergence at every width, infinite at 0.

        At 0 it is finite where it has been measured: no curve tells what a whole
        branch is worth.

        Between two measured widths the divergence is taken as a power of the
        selection's own error, the one that fits both. Beyond the measured widths it
        is taken as proportional to that error: a power fitted to two small numbers
        would be noise.

        Args:
            errors: The path's `(N + 1,)` errors, which fall with the width.
        """
        if not len(self.widths):
            curve = np.zeros(len(errors))
            curve[0] = np.inf
            return curve
        largest = max(errors[0], np.finfo(float).tiny)
        floor = largest * RELATIVE_FLOOR
        measured = np.log(np.maximum(errors[self.widths], floor))
        wanted = np.log(np.maximum(errors, floor))

        falling = self._falling()
        values = np.log(falling + SMALLEST_DIVERGENCE)

        # A power is a straight line between logarithms. `interp` needs them
        # increasing, and continues them as constants at both ends, to which the way
        # beyond the measured errors is added: a line of slope 1.
        inside = np.interp(wanted, measured[::-1], values[::-1])
        nearest = np.clip(wanted, measured[-1], measured[0])
        curve = np.exp(inside + wanted - nearest)
        if falling[0] <= self.free:
            # In proportion to nothing, nothing would ever cost anything.
            narrower = slice(0, self.widths[0])
            share = errors[narrower] / largest
            curve[narrower] = np.maximum(curve[narrower], DIVERGENCE_OF_ALL * share)
        free = self.widths[falling <= self.free]
        if len(free):
            # The selection may see no difference between these and a narrower width.
            known = falling[falling <= self.free][0] + SMALLEST_DIVERGENCE
            curve[free[0] :] = np.minimum(curve[free[0] :], known)
            # And where cuts begin to cost is known to the next width that costs: up to
            # there all may.
            costly = falling[falling > self.free]
            if len(costly):
                unknown = slice(self.widths[len(costly) - 1], free[0])
                curve[unknown] = np.maximum(curve[unknown], costly[-1])
        curve[-1] = 0.0
        curve = np.minimum.accumulate(curve)
        if self.widths[0] > 0:
            curve[0] = np.inf
        return curve

    def with_more(self, other: "Divergence") -> "Divergence":
        """Returns the divergence at the widths of both, which are different ones."""
        widths = np.concatenate([self.widths, other.widths])
        values = np.concatenate([self.values, other.values])
        order = np.argsort(widths)
        return Divergence(widths[order], values[order], self.free)

    def widths_in_doubt(
        self,
        errors: np.ndarray,
        count: int,
        round_to: int,
        at_once: int = 1,
    ) -> np.ndarray:
        """Returns the widths to measure next, to know where a cut begins to cost.

        A width that costs nothing says nothing of the narrower ones. The narrowest of
        those is to be known as exactly as budgets are: whatever the divergence is next
        to it, no curve through a 0 tells it.

        Args:
            errors: The path's `(N + 1,)` errors.
            count: As for `widths_to_measure`.
            round_to: Likewise.
            at_once: How many widths to look at between one that costs and one that
                does not.

        Returns:
            Widths that are not measured yet; none when there is no doubt.
        """
        falling = self._falling()
        free = self.widths[falling <= self.free]
        costly = self.widths[falling > self.free]
        if not len(free):
            return free
        narrowest = int(free[0])
        widest = int(costly[-1]) if len(costly) else 0
        without_error = errors <= NO_ERROR * errors[0]
        knee = int(np.argmax(without_error))
        if widest < knee <= narrowest:
            # The selection's own errors say where to look first: at the least width
            # that leaves none, next to it, and at the next one that budgets go to.
            beneath = (knee - 1) // round_to * round_to
            wanted = {beneath, knee - 1, knee}
            if not len(costly):
                # What is narrower is a group of its own, of which nothing is known.
                wanted.update(widths_to_measure(knee, count, round_to).tolist())
            between = wanted & set(range(widest + 1, narrowest))
            return np.array(sorted(between), int)
        # A small group has finer widths.
        step = max(1, min(round_to, (len(errors) - 1) // FEWEST_STEPS))
        unknown = np.arange(widest // step * step + step, narrowest, step)
        parts = np.arange(1, at_once + 1) / (at_once + 1)
        places = (len(unknown) * parts).astype(int)
        if not len(costly):
            # The least width may be the first one that costs nothing.
            places = np.append(0, places[1:])
        return unknown[np.unique(places)] if len(unknown) else unknown

    def _falling(self) -> np.ndarray:
        """Returns the `(k,)` values without their noise.

        A narrower width cannot be better than a wider one, so each value is at least
        that of the widths above it, and at least 0: by rounding alone is one below.
        """
        falling = np.maximum.accumulate(self.values[::-1])[::-1]
        return np.maximum(falling, 0)


def widths_to_measure(
    size: int,
    count: int,
    round_to: int,
) -> np.ndarray:
    """Returns at most `count` widths below `size`, spread evenly.

    Args:
        size: The group's number of channels.
        count: How many widths to measure at most.
        round_to: The widths are multiples of it, or of less in a small group, where no
            two would be left: one alone does not tell how steep the curve is.
    """
    parts = count + 1
    spread = size * np.arange(1, parts) / parts
    least = min(2, count, size - 1)
    step = round_to
    widths = _rounded(spread, step, size)
    while len(widths) < least:
        step = step // 2
        widths = _rounded(spread, step, size)
    return widths


def _rounded(spread: np.ndarray, step: int, size: int) -> np.ndarray:
    """Returns the multiples of a step next to some widths, of those below `size`."""
    rounded = np.round(spread / step) * step
    widths = np.maximum(step, rounded).astype(int)
    return np.unique(widths[widths < size])
