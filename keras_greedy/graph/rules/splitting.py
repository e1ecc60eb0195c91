"""Rules of operations that part an axis into several tensors, or into halves.

Each part of the channels is of a group of its own, so that it keeps one at least.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_greedy.graph.axes import axis_from_end, rearranged
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import Rule, Unprunable
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.rules.slicing import require_positions
from keras_greedy.graph.space import ByAxis, ChannelSpace


@register_rule(ops.split)
class SplitRule(Rule):
    """Parts an axis: the channels along it, or the positions of all channels."""

    def positions_of(self, call: Call) -> Collection[int]:
        return [axis_from_end(call.operation.axis, call.inputs[0])]

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        along = axis_from_end(call.operation.axis, call.inputs[0])
        if along not in channels[0]:
            return [channels[0]] * len(call.outputs)
        ids = channels[0][along]
        parts = np.split(ids, self.bounds(call, ids, space))
        return [channels[0] | {along: part} for part in parts]

    def bounds(
        self,
        call: Call,
        ids: np.ndarray,
        space: ChannelSpace,
    ) -> Sequence[int]:
        """Returns where the `(C,)` channels are parted."""
        given = call.operation.indices_or_sections
        if not isinstance(given, int):
            return given
        return [len(ids) // given * part for part in range(1, given)]

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        (read,) = call.inputs
        along = axis_from_end(call.operation.axis, read)
        if along not in kept.axes(read):
            return {}
        widths = [int(kept(made, along).sum()) for made in call.outputs]
        given = call.operation.indices_or_sections
        if isinstance(given, int) and len(set(widths)) == 1:
            return {}
        bounds = np.cumsum(widths[:-1])
        return {"indices_or_sections": tuple(bounds.tolist())}


@register_rule(ops.array_split)
class ArraySplitRule(SplitRule):
    """Parts an axis into so many parts, which must be equal to stay so."""

    def bounds(
        self,
        call: Call,
        ids: np.ndarray,
        space: ChannelSpace,
    ) -> Sequence[int]:
        sections = call.operation.indices_or_sections
        if len(ids) % sections:
            raise Unprunable(f"its {sections} parts have unequal widths")
        space.unify_groups(ids, sections)
        return super().bounds(call, ids, space)

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        return {}


class GatedLinearUnitRule(Rule):
    """Multiplies the first half by a gate for each, which is the second."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        if axis_from_end(call.operation.axis, call.inputs[0]) != -1:
            raise Unprunable(f"its halves are along axis {call.operation.axis}")
        (ids,) = channels
        space.unify_groups(ids, 2)
        return ids[: len(ids) // 2]


# It is not in every version of Keras.
if hasattr(ops, "glu"):
    register_rule(ops.glu)(GatedLinearUnitRule)


@register_rule(ops.unstack)
class UnstackRule(Rule):
    """Takes an axis of positions away."""

    def positions_of(self, call: Call) -> Collection[int]:
        return [axis_from_end(call.operation.axis, call.inputs[0])]

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        (read,) = call.inputs
        rank = len(read.shape)
        along = axis_from_end(call.operation.axis, read)
        require_positions(channels[0], along, "unstacks", space)
        sources = [axis for axis in range(rank) if axis != along + rank]
        made = []
        for tensor in call.outputs:
            made.append(rearranged(channels[0], rank, sources, tensor, space))
        return made
