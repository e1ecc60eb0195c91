"""Measured output divergence: the loss of the network's output by cutting one group."""

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, compiled
from keras_greedy.devices import split, summed
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.outputs import Output, outputs_of
from keras_greedy.processes import total_of_processes
from keras_greedy.records import NO_RECORD, Record
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.reconstruction import Reconstruct
from keras_greedy.selection.segments import NO_CUT, Segments, cuts_of

RELATIVE_FLOOR = 1e-9
"""Errors below this share of the largest one are rounding, and all count as it."""

SMALLEST_DIVERGENCE = 1e-12
"""Added to the divergences, so that a measured 0 has a logarithm."""

FREE = 1e-6
"""A measured divergence up to this is none: it may be rounding alone."""

DIVERGENCE_OF_ALL = 1.0
"""Taken for the loss of a whole group where nothing tells it: a nat per example."""

FEWEST_STEPS = 8
"""A group is looked into at no fewer widths than this, to find where cuts cost."""

NO_ERROR = 1e-6
"""Up to this share of the largest error, the selection says that none is left."""

LOST = "lost"
"""The key of what each group loses, in the record of a pass."""

Lost: TypeAlias = tuple[str, np.ndarray]
"""The name of a group, and the `(k,)` divergences of its cuts, summed over examples."""


@dataclasses.dataclass(frozen=True, eq=False)
class Divergence:
    """The measured divergence of one group at a few widths.

    Attributes:
        widths: `(k,)` increasing, below the group's size; none for one channel. The
            first is 0 where the group's branch may go.
        values: `(k,)` mean divergence per example.
    """

    widths: np.ndarray
    values: np.ndarray

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
        if falling[0] <= FREE:
            # In proportion to nothing, nothing would ever cost anything.
            narrower = slice(0, self.widths[0])
            share = errors[narrower] / largest
            curve[narrower] = np.maximum(curve[narrower], DIVERGENCE_OF_ALL * share)
        free = self.widths[falling <= FREE]
        if len(free):
            # The selection may see no difference between these and a narrower width.
            known = falling[falling <= FREE][0] + SMALLEST_DIVERGENCE
            curve[free[0] :] = np.minimum(curve[free[0] :], known)
            # And where cuts begin to cost is known to the next width that costs: up to
            # there all may.
            costly = falling[falling > FREE]
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
        return Divergence(widths[order], values[order])

    def widths_in_doubt(
        self,
        errors: np.ndarray,
        count: int,
        round_to: int,
    ) -> np.ndarray:
        """Returns the widths to measure next, to know where a cut begins to cost.

        A width that costs nothing says nothing of the narrower ones. The narrowest of
        those is to be known as exactly as budgets are: whatever the divergence is next
        to it, no curve through a 0 tells it.

        Args:
            errors: The path's `(N + 1,)` errors.
            count: As for `widths_to_measure`.
            round_to: Likewise.

        Returns:
            Widths that are not measured yet; none when there is no doubt.
        """
        falling = self._falling()
        free = self.widths[falling <= FREE]
        costly = self.widths[falling > FREE]
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
        # Without one that costs, the least width may be the first, or none is.
        place = len(unknown) // 2 if len(costly) else 0
        return unknown[place : place + 1]

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


class Measurement:
    """The evaluation of a network of which one group alone is cut.

    The network is compiled once, for any widths, and the sums stay on the device until
    all cuts of a group are measured.

    Args:
        graph: The traced model.
        moments: From `observe`.
        reconstruct: `least_squares` or `rescaled`.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        moments: Moments,
        reconstruct: Reconstruct,
    ):
        self._graph = graph
        self._moments = moments
        self._reconstruct = reconstruct
        self._consumers = consumers_of(graph)
        outputs = outputs_of(graph)

        def total(full: list[Tensor], found: list[Tensor]) -> Tensor:
            return total_divergence(outputs, full, found)

        self._total = compiled(total)
        # A group of one channel cannot be cut.
        groups = [group for group in graph.groups if group.size > 1]
        self._segments = Segments(graph, self._consumers, groups)

    def at(
        self,
        widths: Mapping[str, np.ndarray],
        paths: Mapping[str, SelectionPath],
        batches: Iterable[list[np.ndarray]],
        shown: Callable[[Iterable[Lost]], Iterable[Lost]] = iter,
        record: Record = NO_RECORD,
    ) -> dict[str, Divergence]:
        """Cuts each group alone, weights reconstructed, and compares the outputs.

        Only the part of the network behind the group is evaluated.

        Args:
            widths: Group name -> the widths to measure it at; those not named are not
                cut.
            paths: Group name -> its selection path.
            batches: Lists of arrays, one per model input.
            shown: Passes on what each group loses, and shows the progress.
            record: Keeps what each group loses, of this pass alone.

        Returns:
            Group name -> its `Divergence`.
        """
        batches = list(batches)
        examples = total_of_processes(sum(len(batch[0]) for batch in batches))
        lost: dict[str, np.ndarray] = record.get(LOST) or {}
        for name, own in shown(self._lost(widths, paths, batches, lost)):
            lost = {**lost, name: own}
            record.put(LOST, lost)
        divergences = {}
        for group in self._graph.groups:
            if group.name in widths:
                own = widths[group.name]
                total = lost.get(group.name, np.zeros(len(own)))
                total = total_of_processes(total)
                divergences[group.name] = Divergence(own, total / examples)
        return divergences

    def _lost(
        self,
        widths: Mapping[str, np.ndarray],
        paths: Mapping[str, SelectionPath],
        batches: list[list[np.ndarray]],
        known: Collection[str],
    ) -> Iterator[Lost]:
        """Yields the divergences of each group's cuts, summed over the examples.

        Group by group, so that no more than one cut is kept in memory; without the
        groups that are known.
        """
        left = {name for name, own in widths.items() if len(own)} - set(known)
        if not left:
            return
        live = [split(batch) for batch in batches]
        full = [self._segments.outputs(0, one, NO_CUT) for one in live]
        for number, groups in self._segments:
            for group in groups:
                name = group.name
                if name not in left:
                    continue
                place = (number, live, full)
                lost = self._lost_by(group, paths[name], widths[name], *place)
                left.remove(name)
                yield name, lost
            if not left:
                return
            # All later cuts leave this segment as it is: it is run once.
            live = [self._segments.step(number, one) for one in live]

    def _lost_by(
        self,
        group: ChannelGroup,
        path: SelectionPath,
        widths: np.ndarray,
        number: int,
        live: list[list[Tensor]],
        full: list[list[Tensor]],
    ) -> np.ndarray:
        """Returns the `(k,)` divergences of a group cut to some widths.

        Args:
            group: The group.
            path: Its selection path.
            widths: `(k,)`.
            number: Of the segment that reads it first.
            live: For each batch the tensors before that segment.
            full: For each batch the outputs of the full network.
        """
        cuts = cuts_of(
            self._graph,
            self._consumers,
            self._moments,
            group,
            [path.scale(width) for width in widths],
            self._reconstruct,
        )
        totals = []
        for cut in cuts:
            for one, outputs in zip(live, full, strict=True):
                found = self._segments.outputs(number, one, cut)
                totals.append(summed(self._total(outputs, found)))
        # All at once: the host waits for the device here, and nowhere before.
        of_batches = ops.convert_to_numpy(ops.stack(totals)).astype(float)
        return of_batches.reshape(len(widths), -1).sum(axis=1)


def measure(
    graph: ChannelGraph,
    moments: Moments,
    paths: Mapping[str, SelectionPath],
    batches: Iterable[list[np.ndarray]],
    widths: Mapping[str, np.ndarray],
    reconstruct: Reconstruct,
) -> dict[str, Divergence]:
    """Returns the divergence of each group at some widths: a `Measurement` of one pass.

    Args:
        graph: As for `Measurement`, like `moments` and `reconstruct`.
        moments: See there.
        paths: As for `Measurement.at`, like `batches` and `widths`.
        batches: See there.
        widths: See there.
        reconstruct: See above.

    Returns:
        Group name -> its `Divergence`.
    """
    measurement = Measurement(graph, moments, reconstruct)
    return measurement.at(widths, paths, batches)


def total_divergence(
    outputs: Sequence[Output],
    full: list[Tensor],
    found: list[Tensor],
) -> Tensor:
    """Returns the divergence summed over the examples and the model's outputs."""
    totals = []
    for output, one, other in zip(outputs, full, found, strict=True):
        divergence = output.divergence(one, other)
        totals.append(ops.sum(divergence))
    return sum(totals)
