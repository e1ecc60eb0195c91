"""The rules of calls without one, as probes find what they do to the channels."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_greedy.graph.calls import Call
from keras_greedy.graph.probing import (
    Found,
    Mixing,
    Reading,
    Subject,
    Weighted,
    fitting_output_shape,
    weighted,
)
from keras_greedy.graph.rules.base import (
    OUT,
    RULES,
    Axes,
    Rule,
    Tensor,
    Unprunable,
    is_follower,
)
from keras_greedy.graph.rules.statistics import StatisticRule, ids_of_statistic
from keras_greedy.graph.space import ChannelSpace


class DeclaredRule(Rule):
    """The rule of a Lambda whose function has one: it acts on each channel alone."""

    has_own_state = True

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        return fitting_output_shape(call.operation, int(kept_out.sum()))

    def is_cut(self, call: Call) -> bool:
        return bool(fitting_output_shape(call.operation, 1))

    def axes_of(self, weight_name: str, rank: int) -> Axes:
        # What weights there are have no entries for channels.
        return (None,) * rank


class ProbedRule(DeclaredRule):
    """Follows the channels of the inputs to the places where a probe found them.

    Args:
        found: What the probe found.
    """

    def __init__(self, found: Found):
        self._found = found

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        of_tensors = dict(zip(call.channel_inputs, channels, strict=True))
        for ids, is_shared in zip(
            of_tensors.values(), self._found.is_broadcast, strict=True
        ):
            if is_shared:
                space.pin(ids, None, "its one channel is broadcast over many")
        in_a_row = np.concatenate([*of_tensors.values()])
        carried = []
        for sources in self._found.sources:
            if not sources:
                constant = space.fresh(1)
                space.pin(constant, call.name, "it makes a constant channel")
                carried.append(constant)
                continue
            ids = in_a_row[sources]
            space.unify_groups(ids, len(ids))
            carried.append(ids[:1])
        ids = np.concatenate(carried)
        space.probes.trust(call.name, type(call.operation).__name__, ids)
        return ids


class WeightedRule(Rule):
    """Follows each channel through a layer with weights, which are cut with them.

    Args:
        found: What the layer is like.
    """

    def __init__(self, found: Weighted):
        self._entries = found.entries
        self.weight_axes = {}
        for name, axes in found.axes.items():
            self.weight_axes[name] = tuple(OUT if is_cut else None for is_cut in axes)

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        ids = channels[0]
        space.probes.trust(call.name, type(call.operation).__name__, ids)
        return ids

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        return dict.fromkeys(self._entries, int(kept_out.sum()))


class ReadingRule(DeclaredRule):
    """Reads all channels, in a way that a probe has found.

    Args:
        reading: That way.
    """

    def __init__(self, reading: Reading):
        self._reading = reading
        self.consumes = reading.statistic is None and not reading.follows
        self.normalizes = not self.consumes

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        statistic = self._reading.statistic
        does = statistic.__name__ if statistic else "zeros add nothing"
        kind = f"{type(call.operation).__name__} over all channels: {does}"
        space.probes.trust(call.name, kind, channels[0])
        return channels[0] if self._reading.follows else ids_of_statistic(call, space)

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        if self._reading.statistic is None:
            return layer(x * mask)
        rule = RULES[self._reading.statistic]
        assert isinstance(rule, StatisticRule)
        last = len(x.shape) - 1
        return rule.over_axes(x, mask, [last], self._reading.keeps_axis)


def rule_without_one(call: Call, space: ChannelSpace) -> Rule:
    """Returns the rule of a call that has none, if a probe finds what it does.

    Raises:
        Unprunable: When it does not; says why.
    """
    reason = f"no channel rule for {_kind(call.operation)}"
    if _has_layers_inside(call.operation) and call.weights:
        raise Unprunable(reason)
    if _makes_mask(call.operation):
        raise Unprunable(f"{reason}, and it makes a mask")
    subject = Subject(
        function=call.operation,
        args=call.args,
        kwargs=call.kwargs,
        tensors=list(dict.fromkeys(call.channel_inputs)),
        output=call.outputs[0],
    )
    if _has_weights_of_channels(call):
        try:
            return WeightedRule(weighted(subject))
        except Mixing as finding:
            raise Unprunable(f"{reason}, and {finding}") from finding
    is_lambda = isinstance(call.operation, keras.layers.Lambda)
    if is_lambda and is_follower(call.operation.function):
        return DeclaredRule()
    try:
        found = space.probes.find(subject)
    except Mixing as finding:
        raise Unprunable(f"{reason}, and a probe finds: {finding}") from finding
    return ReadingRule(found) if isinstance(found, Reading) else ProbedRule(found)


def _has_weights_of_channels(call: Call) -> bool:
    """Returns whether a weight may have entries for channels."""
    widths = {tensor.shape[-1] for tensor in (*call.inputs, *call.outputs)}
    return any(not widths.isdisjoint(own.shape) for own in call.weights.values())


def _has_layers_inside(operation: keras.Operation) -> bool:
    is_layer = isinstance(operation, keras.Layer)
    return is_layer and bool(operation._flatten_layers(include_self=False))


def _makes_mask(operation: keras.Operation) -> bool:
    """Returns whether a layer has a mask that may tell of all channels."""
    if isinstance(operation, keras.layers.Lambda):
        return operation.mask is not None
    is_layer = isinstance(operation, keras.Layer)
    return is_layer and type(operation).compute_mask is not keras.Layer.compute_mask


def _kind(operation: keras.Operation) -> str:
    """Returns the class of an operation, of a wrapper with that of the layer inside."""
    kind = type(operation).__name__
    for attribute in ("layer", "forward_layer", "cell"):
        inside = getattr(operation, attribute, None)
        if isinstance(inside, keras.Layer):
            return f"{kind} of {_kind(inside)}"
    return kind
