"""Measured output divergence: the loss of the network's output by cutting one group."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.outputs import Output, outputs_of
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.reconstruction import Reconstruct
from keras_greedy.selection.segments import (
    NO_CUT,
    Cut,
    cut_of,
    run_segments,
    segments_of,
)

RELATIVE_FLOOR = 1e-9
"""Errors below this share of the largest one are rounding, and all count as it."""

SMALLEST_DIVERGENCE = 1e-12
"""Added to the divergences, so that a measured 0 has a logarithm."""


@dataclasses.dataclass(frozen=True, eq=False)
class Divergence:
    """The measured divergence of one group at a few widths.

    Attributes:
        widths: `(k,)` increasing, below the group's size; none for one channel.
        values: `(k,)` mean divergence per example.
    """

    widths: np.ndarray
    values: np.ndarray

    def curve(self, errors: np.ndarray) -> np.ndarray:
        """Returns the `(N + 1,)` divergence at every width.

        Between two measured widths the divergence is taken as a power of the
        selection's own error, the one that fits both. Beyond the measured widths it
        is taken as proportional to that error: a power fitted to two small numbers
        would be noise.

        Args:
            errors: The path's `(N + 1,)` errors, which fall with the width.
        """
        if not len(self.widths):
            return np.zeros(len(errors))
        largest = max(errors[0], np.finfo(float).tiny)
        floor = largest * RELATIVE_FLOOR
        measured = np.log(np.maximum(errors[self.widths], floor))
        wanted = np.log(np.maximum(errors, floor))

        # Divergences are measured with noise. A narrower width cannot be better than
        # a wider one, so each value is at least that of the widths above it.
        falling = np.maximum.accumulate(self.values[::-1])[::-1]
        values = np.log(np.maximum(falling, 0) + SMALLEST_DIVERGENCE)

        # A power is a straight line between logarithms. `interp` needs them
        # increasing, and continues them as constants at both ends, to which the way
        # beyond the measured errors is added: a line of slope 1.
        inside = np.interp(wanted, measured[::-1], values[::-1])
        nearest = np.clip(wanted, measured[-1], measured[0])
        curve = np.exp(inside + wanted - nearest)
        curve[-1] = 0.0
        return np.minimum.accumulate(curve)


def widths_to_measure(
    size: int,
    count: int,
    round_to: int,
) -> np.ndarray:
    """Returns at most `count` widths below `size`, spread evenly.

    Args:
        size: The group's number of channels.
        count: How many widths to measure at most.
        round_to: The widths are multiples of it, or of half the size if that is less.
    """
    half = max(1, size // 2)
    step = min(round_to, half)
    parts = count + 1
    spread = size * np.arange(1, parts) / parts
    rounded = np.round(spread / step) * step
    widths = np.maximum(step, rounded).astype(int)
    return np.unique(widths[widths < size])


def measure(
    graph: ChannelGraph,
    moments: Moments,
    paths: Mapping[str, SelectionPath],
    batches: Iterable[list[np.ndarray]],
    widths: Mapping[str, np.ndarray],
    reconstruct: Reconstruct,
) -> dict[str, Divergence]:
    """Cuts each group alone, weights reconstructed, and compares the outputs.

    Only the part of the network behind the group is evaluated.

    Args:
        graph: The traced model.
        moments: From `observe`.
        paths: Group name -> its selection path.
        batches: Lists of arrays, one per model input.
        widths: Group name -> the widths to measure it at.
        reconstruct: `least_squares` or `rescaled`.

    Returns:
        Group name -> its `Divergence`.
    """
    groups = [group for group in graph.groups if len(widths[group.name])]
    consumers = consumers_of(graph)
    cuts: dict[str, list[Cut]] = {}
    for group in groups:
        cuts[group.name] = []
        for width in widths[group.name]:
            scale = paths[group.name].scale(width)
            cut = cut_of(graph, consumers, moments, group, scale, reconstruct)
            cuts[group.name].append(cut)

    totals = {}
    for group in graph.groups:
        count = len(widths[group.name])
        totals[group.name] = np.zeros(count)
    segments = segments_of(graph, consumers, groups)
    outputs = outputs_of(graph)
    examples = 0
    for batch in batches:
        live = [ops.convert_to_tensor(x) for x in batch]
        full = run_segments(segments, live, NO_CUT)
        for i, segment in enumerate(segments):
            rest = segments[i:]
            for group in segment.groups:
                for j, cut in enumerate(cuts[group.name]):
                    found = run_segments(rest, live, cut)
                    lost = _total_divergence(outputs, full, found)
                    totals[group.name][j] += lost
            # All later cuts leave this segment as it is: it is run once.
            live = segment.run(live, NO_CUT)
        examples += len(batch[0])

    divergences = {}
    for name, total in totals.items():
        divergences[name] = Divergence(widths[name], total / examples)
    return divergences


def _total_divergence(
    outputs: Sequence[Output],
    full: list[Tensor],
    found: list[Tensor],
) -> float:
    """Returns the divergence summed over the examples and the model's outputs."""
    total = 0.0
    for output, one, other in zip(outputs, full, found, strict=True):
        divergence = output.divergence(one, other)
        total += float(ops.sum(divergence))
    return total
