"""Rules of layers that do what the layer inside them does."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import KerasTensor, layers, ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call, named_weights
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.rules.base import Axes, Rule
from keras_greedy.graph.rules.configs import changed_config
from keras_greedy.graph.rules.register import public_key, register_rule, rule_for
from keras_greedy.graph.space import ByAxis, ChannelSpace


@register_rule(layers.SpectralNormalization)
class WrapperRule(Rule):
    """Carries channels as the layer inside does: it has the rule of that.

    A SpectralNormalization divides the kernel by a norm in training alone.

    Attributes:
        inner: The rule of the layer inside.
    """

    inner: Rule

    def specialised(self, operation: keras.Operation) -> Rule | None:
        inner = rule_for(public_key(operation.layer), operation.layer)
        if inner is None:
            return None
        rule = type(self)()
        rule.inner = inner
        rule.produces = inner.produces
        rule.consumes = inner.consumes
        rule.normalizes = inner.normalizes
        rule.read_axis = inner.read_axis
        rule.made_axis = inner.made_axis
        rule.weight_axes = _weight_axes(inner, operation)
        return rule

    def inside(self, call: Call) -> Call:
        """Returns the call of the layer inside that a call of the wrapper makes."""
        return dataclasses.replace(
            call,
            operation=call.operation.layer,
            args=tuple(keras.tree.map_structure(self.seen_inside, call.args[:1])),
            kwargs={},
            outputs=tuple(map(self.seen_inside, call.outputs)),
            rule=self.inner,
        )

    def seen_inside(self, tensor: KerasTensor) -> KerasTensor:
        """Returns the tensor that the layer inside has in place of the wrapper's."""
        return tensor

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        return self.inner.carry_axes(self.inside(call), channels, space)

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        inside = self.inside(call)
        outside = (*call.inputs, *call.outputs)
        stand_ins = dict(zip((*inside.inputs, *inside.outputs), outside, strict=True))
        return self.inner.changes(inside, kept.seen_by(stand_ins))

    def with_bias(self, call: Call) -> dict[str, Any]:
        return self.inner.with_bias(self.inside(call))

    def nested(
        self,
        operation: keras.Operation,
        changes: dict[str, Any],
    ) -> dict[str, Any]:
        inside = self.inner.nested(operation.layer, changes)
        return {"layer": changed_config(operation.layer, inside)}

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        return self.inner.over_kept(layer.layer, x, mask)

    def is_cut(self, call: Call) -> bool:
        return self.inner.is_cut(self.inside(call))


@register_rule(layers.TimeDistributed)
class TimeDistributedRule(WrapperRule):
    """Calls the layer inside at each step."""

    def seen_inside(self, tensor: KerasTensor) -> KerasTensor:
        return step_of(tensor)

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        if len(mask.shape) == len(x.shape):
            # The mask of an example is that of each of its steps.
            examples, steps, *_ = ops.shape(x)
            shape = (examples, steps, *ops.shape(mask)[2:])
            mask = steps_as_batch(ops.broadcast_to(mask, shape))
        made = self.inner.over_kept(layer.layer, steps_as_batch(x), mask)
        return batch_as_steps(made, x)


def steps_as_batch(x: Tensor) -> Tensor:
    """Returns `(n * steps, ...)` of `(n, steps, ...)`."""
    _, _, *others = ops.shape(x)
    return ops.reshape(x, (-1, *others))


def batch_as_steps(x: Tensor, like: Tensor) -> Tensor:
    """Returns `(n, steps, ...)` of `(n * steps, ...)`, with the steps of another."""
    _, *others = ops.shape(x)
    return ops.reshape(x, (-1, ops.shape(like)[1], *others))


def step_of(tensor: KerasTensor) -> KerasTensor:
    """Returns a tensor like one step of a sequence."""
    examples, _, *others = tensor.shape
    return KerasTensor((examples, *others), tensor.dtype)


def names_outside(wrapper: keras.Layer) -> dict[str, str]:
    """Returns name of a weight of the layer inside -> its name in the wrapper."""
    names = {}
    for name, weight in named_weights(wrapper).items():
        names[id(weight)] = name
    outside = {}
    for name, weight in named_weights(wrapper.layer).items():
        outside[name] = names[id(weight)]
    return outside


def _weight_axes(inner: Rule, wrapper: keras.Layer) -> dict[str, Axes]:
    """Returns the axes of a wrapper's weights, most of which are the inner layer's."""
    outside = names_outside(wrapper)
    axes: dict[str, Axes] = {}
    for name, own in inner.weight_axes.items():
        # It has no bias yet, if it is to get one.
        axes[outside.get(name, name)] = own
    if isinstance(wrapper, layers.SpectralNormalization) and wrapper.built:
        for name, weight in named_weights(wrapper.layer).items():
            # A singular vector of the kernel: (1, its columns).
            if weight is wrapper.kernel:
                *_, last = inner.axes_of(name, len(weight.shape))
                axes["vector_u"] = (last,)
    return axes
