"""A network in segments that are compiled once and run with the weights of any cut.

The network is entered before the first reader of each group, so there are as many
segments as groups, and the way to its end may be hundreds of calls of small functions.
So it is compiled in stretches of several segments, too: from any place, segments lead
to the next stretch, and stretches to the end.
"""

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from keras_greedy.backend import Tensor, compiled, float32
from keras_greedy.graph.calls import Call, one_by_one
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.nested import reconstructions
from keras_greedy.selection.reconstruction import KernelAndBias, Reconstruct
from keras_greedy.threads import in_parallel

Weights: TypeAlias = tuple[Tensor, Tensor]
"""A consumer's kernel and bias, float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cut:
    """The tensors that change when one group is cut.

    Attributes:
        weights: Name of a consumer -> its kernel and bias. A layer that is called
            again shares them, so they go by the layer.
        masks: Index of the call of a normaliser -> `(C,)` 1 for the channels that are
            there, 0 for the others. These go by the call: a layer that is called again
            may normalise other channels.
    """

    weights: dict[str, Weights]
    masks: dict[int, Tensor]


NO_CUT = Cut({}, {})


def cuts_of(
    graph: ChannelGraph,
    consumers: dict[str, Consumer],
    moments: Moments,
    group: ChannelGroup,
    scales: Sequence[np.ndarray],
    reconstruct: Reconstruct,
) -> Iterator[Cut]:
    """Yields the tensors that change when one group is scaled, for some scales.

    Args:
        graph: The traced model.
        consumers: Name -> `Consumer`.
        moments: From `observe`.
        group: The group.
        scales: `(N,)` each, the factor of each channel, 0 for those that are cut.
        reconstruct: `least_squares` or `rescaled`.
    """
    cuts = kernels_of_cuts(
        graph,
        consumers,
        moments,
        group,
        scales,
        reconstruct,
        in_parallel if len(group.consumer_names) > 1 else map,
    )
    for scale, made in zip(scales, cuts, strict=True):
        weights = {}
        for name, (kernel, bias) in made.items():
            weights[name] = (float32(kernel), float32(bias))
        masks = {}
        of_all = graph.scales({group.name: scale})
        for call in group.normalizers:
            channels = graph.channels_read(call)
            masks[call.index] = float32(of_all[channels] != 0)
        yield Cut(weights, masks)


def kernels_of_cuts(
    graph: ChannelGraph,
    consumers: dict[str, Consumer],
    moments: Moments,
    group: ChannelGroup,
    scales: Sequence[np.ndarray],
    reconstruct: Reconstruct,
    mapped: Callable[..., Iterable[Any]] = map,
) -> Iterator[dict[str, KernelAndBias]]:
    """Yields the weights that each consumer of a group gets, for some scales of it.

    Arguments are those of `cuts_of`, and `map` for the consumers, or `in_parallel`.
    Nothing but NumPy and SciPy is at work.
    """
    of_all = [graph.scales({group.name: scale}) for scale in scales]
    of_consumers = {}
    for name in group.consumer_names:
        consumer = consumers[name]
        own = [scale[consumer.features] for scale in of_all]
        scatter = moments.scatters[name]
        of_consumers[name] = reconstructions(reconstruct, consumer, scatter, own)
    for _ in scales:
        found = mapped(next, of_consumers.values())
        yield dict(zip(of_consumers, found, strict=True))


class OwnTensors:
    """The tensors of a whole network that a cut can change, as they are without one.

    Args:
        graph: The traced model.
        consumers: Name -> `Consumer`, for those of the whole model.

    Attributes:
        weights: Name of a consumer -> its kernel and bias.
        masks: Index of the call of a normaliser -> `(C,)` ones.
    """

    def __init__(self, graph: ChannelGraph, consumers: dict[str, Consumer]):
        self.weights: dict[str, Weights] = {}
        self.masks: dict[int, Tensor] = {}
        for name, consumer in consumers.items():
            kernel = consumer.kernel(consumer.matrix())
            self.weights[name] = (float32(kernel), float32(consumer.bias()))
        for group in graph.groups:
            for call in group.normalizers:
                everything = np.ones(graph.channels_read(call).shape)
                self.masks[call.index] = float32(everything)


class Segment:
    """Consecutive calls compiled as one function of all that a cut can change.

    That is the kernel and bias of the consumers, and the mask of the normalisers over
    the channels: with these as arguments, one compiled function does for all cuts.

    Args:
        graph: The traced model.
        start: Index of the first call of the segment.
        end: That of the first call behind it.
        consumers: Name -> `Consumer`, for those of the whole model.
        own: The tensors of the whole model without a cut.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        start: int,
        end: int,
        consumers: dict[str, Consumer],
        own: OwnTensors,
    ):
        self._graph = graph
        self._calls = graph.calls[start:end]
        self._before = graph.live_before(start)
        self._after = graph.live_before(end)
        self._consumers = consumers
        self._weights: dict[str, Weights] = {}
        self._masks: dict[int, Tensor] = {}
        for call in self._calls:
            if call.name in own.weights:
                self._weights[call.name] = own.weights[call.name]
            elif call.index in own.masks:
                self._masks[call.index] = own.masks[call.index]
        self._function = compiled(self._run)

    def run(self, live: list[Tensor], cut: Cut) -> list[Tensor]:
        """Returns the tensors after the segment.

        Args:
            live: The tensors before it.
            cut: The tensors that take the place of the segment's own.
        """
        weights = []
        for name, own_weights in self._weights.items():
            weights.append(cut.weights.get(name, own_weights))
        masks = []
        for index, own_mask in self._masks.items():
            masks.append(cut.masks.get(index, own_mask))
        return self._function(live, weights, masks)

    def _run(
        self,
        live: list[Tensor],
        weights: list[Weights],
        masks: list[Tensor],
    ) -> list[Tensor]:
        weights_of = dict(zip(self._weights, weights, strict=True))
        mask_of = dict(zip(self._masks, masks, strict=True))

        def apply(call: Call, *args: Any, **kwargs: Any) -> Tensor:
            if call.name in weights_of:
                consumer = self._consumers[call.name]
                kernel, bias = weights_of[call.name]
                read, *others = one_by_one(args)
                return consumer.apply(read, kernel, bias, *others, **kwargs)
            if call.index in mask_of:
                mask = mask_of[call.index]
                assert call.rule is not None, "a call without a rule is no normaliser"
                return call.rule.over_kept(call.operation, args[0], mask)
            return call.compute(*args, **kwargs)

        values = dict(zip(self._before, live, strict=True))
        values = self._graph.run(values, self._calls, apply)
        return [values[tensor] for tensor in self._after]


class Segments:
    """A network that can be entered before the first reader of each group.

    Args:
        graph: The traced model.
        consumers: Name -> `Consumer`, for those of the whole model.
        groups: The groups.

    Attributes:
        own: The tensors of the network without a cut.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        consumers: dict[str, Consumer],
        groups: list[ChannelGroup],
    ):
        starts: dict[int, list[ChannelGroup]] = {0: []}
        for group in groups:
            same_start = starts.setdefault(group.first_reader, [])
            same_start.append(group)
        self.own = OwnTensors(graph, consumers)

        def segments(bounds: list[int]) -> list[Segment]:
            return [
                Segment(graph, start, end, consumers, self.own)
                for start, end in itertools.pairwise([*bounds, len(graph.calls)])
            ]

        bounds = sorted(starts)
        self._bounds = bounds
        # As many segments in a stretch as stretches: from a place in the middle, half
        # of both are to be called.
        self._in_stretch = math.isqrt(len(bounds))
        self._groups = [starts[bound] for bound in bounds]
        self._segments = segments(bounds)
        self._stretches = segments(bounds[:: self._in_stretch])

    def __iter__(self) -> Iterator[tuple[int, list[ChannelGroup]]]:
        """Yields the number of each segment, and the groups first read at its start."""
        return enumerate(self._groups)

    def number_of(self, call: Call) -> int:
        """Returns the number of the segment that a call is in."""
        return bisect.bisect_right(self._bounds, call.index) - 1

    def step(self, number: int, live: list[Tensor]) -> list[Tensor]:
        """Returns the tensors behind one segment of the network as it is.

        Args:
            number: Of the segment.
            live: The tensors before it.
        """
        return self._segments[number].run(live, NO_CUT)

    def outputs(self, number: int, live: list[Tensor], cut: Cut) -> list[Tensor]:
        """Returns the outputs of the network, cut, from a segment on.

        Args:
            number: Of the segment.
            live: The tensors before it.
            cut: The tensors that take the place of the network's own.
        """
        stretch = -(-number // self._in_stretch)
        between = self._segments[number : stretch * self._in_stretch]
        for segment in (*between, *self._stretches[stretch:]):
            live = segment.run(live, cut)
        return live
