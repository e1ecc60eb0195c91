"""The full model with channels multiplied by 0 where they are read.

The gate points of a group are the inputs of its consumers. Everywhere else in
the group a BatchNorm beta or an activation with f(0) != 0 would leak a constant
behind the gate; at the consumers, multiplying by 0 equals removing. This holds
for residual streams as well: a gate on what every consumer reads is a gate on
every branch that adds into the stream.
"""

import keras

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.rebuild import Cutter, replay


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
        if call.rule and call.rule.consumes:
            mask = kept[graph.channels_of(call.inputs[0])].astype(float).tolist()
            gate = keras.layers.Rescaling(
                mask,
                name=f"gate_{call.index}_of_{call.name}",
                dtype=call.operation.dtype_policy,
            )
            args = (gate(args[0]), *args[1:])
        return whole.apply(call, *args, **kwargs)

    model = replay(graph, apply)
    whole.copy_weights()
    return model
