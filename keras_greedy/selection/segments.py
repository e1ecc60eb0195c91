"""A network in segments that are compiled once and run with the weights of any cut."""

import dataclasses
import itertools
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_greedy.backend import Tensor, compiled, float32
from keras_greedy.graph.calls import Call, one_by_one
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.reconstruction import Reconstruct

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


def cut_of(
    graph: ChannelGraph,
    consumers: dict[str, Consumer],
    moments: Moments,
    group: ChannelGroup,
    scale: np.ndarray,
    reconstruct: Reconstruct,
) -> Cut:
    """Returns the tensors that change when one group is scaled.

    Args:
        graph: The traced model.
        consumers: Name -> `Consumer`.
        moments: From `observe`.
        group: The group.
        scale: `(N,)` the factor of each channel, 0 for those that are cut.
        reconstruct: `least_squares` or `rescaled`.
    """
    scales = graph.scales({group.name: scale})
    weights = {}
    for name in group.consumer_names:
        consumer = consumers[name]
        own = scales[consumer.features]
        kernel, bias = reconstruct(consumer, moments.scatters[name], own)
        weights[name] = (float32(kernel), float32(bias))
    masks = {}
    for call in group.normalizers:
        channels = graph.channels_read(call)
        masks[call.index] = float32(scales[channels] != 0)
    return Cut(weights, masks)


class Segment:
    """Consecutive calls compiled as one function of all that a cut can change.

    That is the kernel and bias of the consumers, and the mask of the normalisers over
    the channels: with these as arguments, one compiled function does for all cuts.

    Args:
        graph: The traced model.
        calls: The calls of the segment.
        groups: The groups whose first reader is the first call of the segment.
        consumers: Name -> `Consumer`, for those of the whole model.
        before: The tensors that the segment is given.
        after: The tensors that it makes.

    Attributes:
        groups: As given.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        calls: list[Call],
        groups: list[ChannelGroup],
        consumers: dict[str, Consumer],
        before: list[keras.KerasTensor],
        after: list[keras.KerasTensor],
    ):
        self.groups = groups
        self._graph = graph
        self._calls = calls
        self._before = before
        self._after = after
        self._consumers: dict[str, Consumer] = {}
        # The layers' own weights, and masks of all channels.
        self._weights: dict[str, Weights] = {}
        self._masks: dict[int, Tensor] = {}
        normalizers: set[Call] = set()
        for group in graph.groups:
            normalizers.update(group.normalizers)
        for call in calls:
            if call.name in consumers:
                consumer = consumers[call.name]
                kernel = consumer.kernel(consumer.matrix())
                bias = consumer.bias()
                self._consumers[call.name] = consumer
                self._weights[call.name] = (float32(kernel), float32(bias))
            elif call in normalizers:
                channels = graph.channels_read(call)
                everything = np.ones(channels.shape)
                self._masks[call.index] = float32(everything)
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


def segments_of(
    graph: ChannelGraph,
    consumers: dict[str, Consumer],
    groups: list[ChannelGroup],
) -> list[Segment]:
    """Splits the network before the first reader of each group."""
    starts: dict[int, list[ChannelGroup]] = {0: []}
    for group in groups:
        same_start = starts.setdefault(group.first_reader, [])
        same_start.append(group)
    bounds = [*sorted(starts), len(graph.calls)]
    segments = []
    for start, end in itertools.pairwise(bounds):
        segment = Segment(
            graph,
            graph.calls[start:end],
            starts[start],
            consumers,
            before=graph.live_before(start),
            after=graph.live_before(end),
        )
        segments.append(segment)
    return segments


def run_segments(
    segments: list[Segment],
    live: list[Tensor],
    cut: Cut,
) -> list[Tensor]:
    """Returns the tensors after consecutive segments."""
    for segment in segments:
        live = segment.run(live, cut)
    return live
