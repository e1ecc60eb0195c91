"""Rules of operations that reduce axes: positions, or the channels themselves.

A statistic over the channels is another one over the kept ones. The compact model takes
it of those alone, and so do the gated one and the measurements.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import Rule, Tensor, Unprunable
from keras_greedy.graph.rules.normalization import mean_of_kept
from keras_greedy.graph.rules.reducing import ReduceRule
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ByAxis, ChannelSpace

# Norms to which a channel of zeros adds nothing.
NORMS = (None, "fro", "euclidean", 1, 2, np.inf)


class ReductionRule(Rule):
    """Reduces positions, or the channels to a single one that stays."""

    def of_call(self, call: Call) -> Rule:
        rank = len(call.inputs[0].shape)
        if rank - 1 in _axes(call.operation, rank):
            return self
        return ReduceRule()

    def positions_of(self, call: Call) -> Collection[int]:
        return ReduceRule().positions_of(call)

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        if space.is_whole(channels[0][-1]):
            # Positions, with the channels on another axis.
            return ReduceRule().carry_axes(call, channels, space)
        return super().carry_axes(call, channels, space)

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        _check_batch(call)
        return ids_of_statistic(call, space)


@register_rule(ops.sum)
class SumRule(ReductionRule):
    """Adds the channels up: one that is 0 adds nothing."""

    consumes = True


@register_rule(ops.norm)
class NormRule(ReductionRule):
    """Takes a norm, to which a channel that is 0 adds nothing."""

    consumes = True

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        order = call.operation.ord
        if order not in NORMS:
            raise Unprunable(f"it takes the norm of order {order} of all channels")
        return super().carry(call, channels, space)


class StatisticRule(ReductionRule):
    """Takes a statistic over the channels, in which zeros count like any value."""

    normalizes = True

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        initial = getattr(call.operation, "initial", None)
        if initial is not None:
            raise Unprunable(f"it compares all channels with initial={initial}")
        return super().carry(call, channels, space)

    def over_kept(
        self,
        layer: keras.Operation,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        axes = _axes(layer, len(x.shape))
        return self.over_axes(x, mask, axes, layer.keepdims)

    def over_axes(
        self,
        x: Tensor,
        mask: Tensor,
        axes: Sequence[int],
        keepdims: bool,
    ) -> Tensor:
        """Returns the statistic over axes, the channels' among them.

        Args:
            x: The operation's input.
            mask: As of `over_kept`.
            axes: The axes.
            keepdims: Whether they stay, of size 1.
        """
        statistic = self.of_kept(x, mask, axes)
        # Of no channel at all it is 0.
        is_any_kept = ops.any(mask > 0, axis=-1, keepdims=True)
        statistic = ops.where(is_any_kept, statistic, ops.zeros_like(statistic))
        return statistic if keepdims else ops.squeeze(statistic, axes)

    def of_kept(
        self,
        x: Tensor,
        mask: Tensor,
        axes: Sequence[int],
    ) -> Tensor:
        """Returns the statistic over the kept channels; the axes have size 1.

        Args:
            x: The operation's input.
            mask: As of `over_kept`.
            axes: The axes that are reduced.
        """
        raise NotImplementedError


@register_rule(ops.mean)
class MeanRule(StatisticRule):
    """Takes the mean."""

    def of_kept(self, x: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
        return mean_of_kept(x, mask, axes)


@register_rule(ops.var)
class VarianceRule(StatisticRule):
    """Takes the variance."""

    def of_kept(self, x: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
        mean = mean_of_kept(x, mask, axes)
        return mean_of_kept(ops.square(x - mean), mask, axes)


@register_rule(ops.std)
class DeviationRule(VarianceRule):
    """Takes the standard deviation."""

    def of_kept(self, x: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
        return ops.sqrt(super().of_kept(x, mask, axes))


@register_rule(ops.max, ops.amax)
class MaximumRule(StatisticRule):
    """Takes the greatest."""

    def of_kept(self, x: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
        return _extreme(ops.max, -np.inf, x, mask, axes)


@register_rule(ops.min, ops.amin)
class MinimumRule(StatisticRule):
    """Takes the least."""

    def of_kept(self, x: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
        return _extreme(ops.min, np.inf, x, mask, axes)


@register_rule(ops.logsumexp)
class LogSumExpRule(StatisticRule):
    """Takes the logarithm of the sum of exponentials."""

    def of_kept(self, x: Tensor, mask: Tensor, axes: Sequence[int]) -> Tensor:
        return _extreme(ops.logsumexp, -np.inf, x, mask, axes)


def ids_of_statistic(call: Call, space: ChannelSpace) -> np.ndarray:
    """Returns the numbers of what a call makes of all channels: it stays."""
    (made,) = call.outputs
    width = made.shape[-1] if len(made.shape) > 1 else 1
    # Where the axis of the channels has gone, the last one is of positions.
    ids = np.repeat(space.fresh(1), width or 1)
    space.pin(ids, call.name, "it is a statistic of all channels")
    return ids


def _extreme(
    reduced: Callable[..., Tensor],
    nothing: float,
    x: Tensor,
    mask: Tensor,
    axes: Sequence[int],
) -> Tensor:
    """Reduces `x` with `nothing` in place of the channels that are gone."""
    kept = ops.where(mask > 0, x, ops.full_like(x, nothing))
    return reduced(kept, axis=axes, keepdims=True)


def _axes(operation: keras.Operation, rank: int) -> tuple[int, ...]:
    """Returns the axes that an operation reduces, none of them negative."""
    axes: Any = operation.axis
    if axes is None:
        return tuple(range(rank))
    return tuple(sorted(axis % rank for axis in keras.tree.flatten(axes)))


def _check_batch(call: Call) -> None:
    """Raises `Unprunable` for a statistic of several examples."""
    if 0 in _axes(call.operation, len(call.inputs[0].shape)):
        raise Unprunable(f"it reduces axis {call.operation.axis}, the batch's as well")
