"""Rules of recurrent layers: they read channels, and their own units stay."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from keras_greedy.graph.calls import Call, named_weights
from keras_greedy.graph.rules.base import IN, Axes, Rule, require_channels_last
from keras_greedy.graph.rules.configs import changed_config
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ChannelSpace

CONV_LSTM = (
    layers.ConvLSTM1D,
    layers.ConvLSTM2D,
    layers.ConvLSTM3D,
)
RECURRENT = (
    layers.LSTM,
    layers.GRU,
    layers.SimpleRNN,
    *CONV_LSTM,
)


@register_rule(*RECURRENT, layers.Bidirectional)
class RecurrentRule(Rule):
    """The input's kernel reads channels; the recurrent one reads the layer's units.

    A unit cannot be cut: all of them read it at the next step.
    """

    produces = True
    consumes = True
    takes_several = True

    def specialised(self, operation: keras.Operation) -> Rule | None:
        if any(type(own) not in RECURRENT for own in directions(operation)):
            return None
        rule = RecurrentRule()
        rule.weight_axes = _weight_axes(operation)
        return rule

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> list[np.ndarray]:
        for own in directions(call.operation):
            require_channels_last(dataclasses.replace(call, operation=own))
        for ids in channels[1:]:
            reason = "the channels of its initial state are its units, which stay"
            space.pin(ids, call.name, reason)
        made = []
        for tensor in call.outputs:
            units = space.fresh(tensor.shape[-1])
            reason = "the units of a recurrent layer feed back into all of them"
            space.pin(units, call.name, reason)
            made.append(units)
        return made

    def tied(self, call: Call) -> list[KerasTensor]:
        # It may have an initial state at one call, and none at another.
        return [call.inputs[0], *call.outputs]

    def nested(
        self,
        operation: keras.Operation,
        changes: dict[str, Any],
    ) -> dict[str, Any]:
        if not isinstance(operation, layers.Bidirectional):
            return changes
        return {
            "layer": changed_config(operation.forward_layer, changes),
            "backward_layer": changed_config(operation.backward_layer, changes),
        }


def directions(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the layers that run over a sequence: of a Bidirectional two."""
    if isinstance(layer, layers.Bidirectional):
        return [layer.forward_layer, layer.backward_layer]
    return [layer]


def _weight_axes(layer: keras.Layer) -> dict[str, Axes]:
    """Returns the axes of all weights: those of the input's kernels have channels."""
    kernels = {id(getattr(own.cell, "kernel", None)) for own in directions(layer)}
    axes: dict[str, Axes] = {}
    for name, weight in named_weights(layer).items():
        # (..., channels, units): of a convolution, with the size of the kernel before.
        axes[name] = (IN, None) if id(weight) in kernels else ()
    return axes
