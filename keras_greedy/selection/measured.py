"""Measured output divergence: the loss of the network's output by cutting one group."""

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
from keras_greedy.selection.divergence import FREE, Divergence
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.reconstruction import Reconstruct
from keras_greedy.selection.segments import NO_CUT, Cut, Segments, cuts_of

LOST = "lost"
"""The key of what each group loses, in the record of a pass."""

Lost: TypeAlias = tuple[str, np.ndarray]
"""The name of a group, and the `(k,)` divergences of its cuts, summed over examples."""


class Measurement:
    """The evaluation of a network of which one group alone is cut.

    The network is compiled once, for any widths, and the sums stay on the device until
    all cuts of a group are measured.

    Args:
        graph: The traced model.
        moments: From `observe`.
        reconstruct: `least_squares` or `rescaled`.

    Attributes:
        looks_at_once: At how many widths to look next for where a cut begins to cost.
        free: Up to this a divergence may be rounding alone.
    """

    looks_at_once = 1
    free = FREE

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
                divergences[group.name] = Divergence(own, total / examples, self.free)
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
        totals = []
        for cut in self._cuts(group, path, widths):
            for one, outputs in zip(live, full, strict=True):
                found = self._segments.outputs(number, one, cut)
                totals.append(summed(self._total(outputs, found)))
        # All at once: the host waits for the device here, and nowhere before.
        of_batches = ops.convert_to_numpy(ops.stack(totals)).astype(float)
        return of_batches.reshape(len(widths), -1).sum(axis=1)

    def _cuts(
        self,
        group: ChannelGroup,
        path: SelectionPath,
        widths: np.ndarray,
    ) -> Iterator[Cut]:
        """Yields the tensors that change when a group is cut to each of some widths."""
        return cuts_of(
            self._graph,
            self._consumers,
            self._moments,
            group,
            [path.scale(width) for width in widths],
            self._reconstruct,
        )


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
