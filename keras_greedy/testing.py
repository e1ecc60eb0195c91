"""The full model with channels multiplied by 0 where they are read.

The gate points of a group are the inputs of its consumers. Everywhere else in
the group a BatchNorm beta or an activation with f(0) != 0 would leak a constant
behind the gate; at the consumers, multiplying by 0 equals removing. This holds
for residual streams as well: a gate on what every consumer reads is a gate on
every branch that adds into the stream.

A normalisation over the channels is another function of the kept ones: the compact
model takes its statistics over those alone, and so does the gated one.
"""

import keras
from keras import ops

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.clone import replay_flat
from keras_greedy.graph.rebuild import Cutter


def gated(graph: ChannelGraph, selection: dict) -> keras.Model:
    """Builds the full-size model with the channels not selected gated to 0.

    It is the oracle of `rebuild`: both must compute the same function.

    Args:
        graph: The traced model, which is left as it is.
        selection: Group name -> indices of its kept channels.

    Returns:
        A functional model of the full size, with its own copy of the weights.
    """
    kept = graph.kept_mask(selection)
    whole = Cutter(graph, graph.kept_mask({}), {})

    def apply(call, *args, **kwargs):
        operation = whole.operation(call.operation)
        operation.name = f"call_{call.index}.{call.operation.name}"
        if call.rule and call.rule.normalizes:
            mask = kept[graph.channels_of(call.inputs[0])]
            return OverKept(call.rule, operation, mask)(args[0])
        if call.rule and call.rule.consumes:
            mask = kept[graph.channels_of(call.inputs[0])].astype(float).tolist()
            gate = keras.layers.Rescaling(
                mask, name=f"gate_{call.index}", dtype=call.operation.dtype_policy
            )
            args = (gate(args[0]), *args[1:])
        return whole.apply(call, *args, **kwargs)

    model = replay_flat(graph, apply)
    whole.copy_weights()
    return model


class OverKept(keras.layers.Layer):
    """A normalisation whose statistics are over the kept channels only."""

    def __init__(self, rule, layer, mask):
        super().__init__(dtype=layer.dtype_policy)
        self._rule, self._layer = rule, layer
        self._mask = mask.astype("float32")

    def build(self, shape):
        if not self._layer.built:
            self._layer.build(shape)

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        mask = ops.cast(self._mask, x.dtype)
        return self._rule.over_kept(self._layer, x, mask)
