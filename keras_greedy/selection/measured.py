"""Measured output divergence: what the network loses when one group is cut."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable

import numpy as np
from keras import ops

from keras_greedy.backend import compiled, float32
from keras_greedy.graph.channels import Call, ChannelGraph, ChannelGroup
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.path import SelectionPath


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
        """`(N + 1,)` divergence at every width.

        Between the measured widths it follows the selection's own error: the
        divergence is taken as a power of it.

        Args:
            errors: The path's `(N + 1,)` errors.
        """
        if not len(self.widths):
            return np.zeros(len(errors))
        floor = max(errors[0], np.finfo(float).tiny) * 1e-9
        known = np.log(np.maximum(errors[self.widths], floor))
        wanted = np.log(np.maximum(errors, floor))
        narrower_is_worse = np.maximum.accumulate(self.values[::-1])[::-1]
        values = np.log(np.maximum(narrower_is_worse, 0) + 1e-12)
        inside = np.interp(wanted, known[::-1], values[::-1])
        beyond = inside + wanted - np.clip(wanted, known[-1], known[0])
        curve = np.exp(beyond)
        curve[-1] = 0.0
        return np.minimum.accumulate(curve)


def widths_to_measure(size: int, count: int, round_to: int) -> np.ndarray:
    """At most `count` widths below `size`, spread evenly, multiples of `round_to`."""
    step = min(round_to, max(1, size // 2))
    spread = size * np.arange(1, count + 1) / (count + 1)
    rounded = np.maximum(step, np.round(spread / step) * step).astype(int)
    return np.unique(rounded[rounded < size])


def measure(
    graph: ChannelGraph,
    moments: Moments,
    paths: dict[str, SelectionPath],
    batches: Iterable,
    widths: dict[str, np.ndarray],
    reconstruct: Callable,
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
    reads = consumers_of(graph)
    cuts = {
        g.name: [
            _weights_of_cut(graph, reads, moments, g, scale, reconstruct)
            for scale in map(paths[g.name].scale, widths[g.name])
        ]
        for g in groups
    }
    totals = {g.name: np.zeros(len(widths[g.name])) for g in graph.groups}
    segments, count = _segments(graph, reads, groups), 0
    kinds = outputs_of(graph)
    for batch in batches:
        live = [ops.convert_to_tensor(x) for x in batch]
        full = _run(segments, live, {})
        for i, segment in enumerate(segments):
            for group in segment.groups:
                for j, cut in enumerate(cuts[group.name]):
                    outputs = _run(segments[i:], live, cut)
                    totals[group.name][j] += sum(
                        float(ops.sum(kind.divergence(f, o)))
                        for kind, f, o in zip(kinds, full, outputs, strict=True)
                    )
            live = segment.run(live, {})
        count += len(batch[0])
    return {n: Divergence(widths[n], total / count) for n, total in totals.items()}


class _Segment:
    """Consecutive calls compiled as one function, what a cut changes left free.

    That is the kernel and bias of consumers, and of normalisations over the channels
    the mask of those that are there.
    """

    def __init__(self, graph, calls: list[Call], groups, reads, before, after):
        self.groups = groups
        self._reads = {c.name: reads[c.name] for c in calls if c.name in reads}
        self._own = {
            name: [float32(read.kernel(read.matrix())), float32(read.bias())]
            for name, read in self._reads.items()
        }
        norms = {norm for group in graph.groups for norm in group.normalizers}
        self._own |= {
            call.index: [float32(np.ones(len(graph.channels_of(call.inputs[0]))))]
            for call in calls
            if call in norms
        }
        self._function = compiled(self._make(graph, calls, before, after))

    def run(self, live, cut):
        weights = [cut.get(name, own) for name, own in self._own.items()]
        return self._function(live, weights)

    def _make(self, graph, calls, before, after):
        def function(live, weights):
            replaced = dict(zip(self._own, weights, strict=True))

            def apply(call, *args, **kwargs):
                if call.name in self._reads:
                    return self._reads[call.name].apply(args[0], *replaced[call.name])
                if call.index in replaced:
                    (mask,) = replaced[call.index]
                    return call.rule.over_kept(call.operation, args[0], mask)
                return call.operation(*args, **kwargs)

            values = graph.run(dict(zip(before, live, strict=True)), calls, apply)
            return [values[key] for key in after]

        return function


def _segments(graph: ChannelGraph, reads, groups) -> list[_Segment]:
    """Splits the network before the first consumer of each group."""
    starts = {0: []}
    for group in groups:
        starts.setdefault(group.first_reader, []).append(group)
    bounds = [*sorted(starts), len(graph.calls)]
    live = [graph.live_before(index) for index in bounds]
    return [
        _Segment(graph, graph.calls[a:b], starts[a], reads, live[i], live[i + 1])
        for i, (a, b) in enumerate(itertools.pairwise(bounds))
    ]


def _run(segments, live, cut):
    for segment in segments:
        live = segment.run(live, cut)
    return live


def _weights_of_cut(
    graph, reads, moments: Moments, group: ChannelGroup, scale, reconstruct
):
    """What a `_Segment` leaves free, when one group is scaled.

    By the name of the layer for weights, which a layer called again shares, and by the
    index of the call for masks, which it need not.
    """
    scales, cut = graph.scales({group.name: scale}), {}
    for name in group.consumer_names:
        new = reconstruct(
            reads[name], moments.scatters[name], scales[reads[name].features]
        )
        cut[name] = [*map(float32, new)]
    for call in group.normalizers:
        cut[call.index] = [float32(scales[graph.channels_of(call.inputs[0])] != 0)]
    return cut
