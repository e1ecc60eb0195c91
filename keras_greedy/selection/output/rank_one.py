"""A consumer's output for many candidates, each a rank-one term away from a mixture.

A linear consumer is affine in the scales of the channels. So after a step of size g
from the mixture a towards channel i its output is

    (1 - g) linear(N a) + g linear(N e_i),

and the output of one channel alone is that without any and its contribution: the
product of a column of the input and a row of the kernel, at each position. A layer
behind that is linear and looks at one position alone, as a 1x1 convolution, is part
of this: pushed through it, the term has the row times that layer's kernel. None of
the two layers is then computed for a candidate.
"""

import keras
import numpy as np
from keras import layers, ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.selection.output.mixed_consumer import MixedConsumer

POINTWISE = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
"""Exactly these: one derived from them may compute something else."""


class RankOne:
    """A consumer, and the pointwise layer behind it, for many candidates.

    Args:
        call: The consumer.
        consumer: The same, as a function of the scales.
        graph: The traced model.
        group: The group whose channels are scaled.

    Attributes:
        call: As given.
        behind: The call of the pointwise layer; `None` where there is none.
    """

    def __init__(
        self,
        call: Call,
        consumer: MixedConsumer,
        graph: ChannelGraph,
        group: ChannelGroup,
    ):
        self.call = call
        self.behind = pointwise_behind(graph, group, call)
        self._consumer = consumer
        self._channels = group.size
        self._terms = consumer
        if self.behind is not None:
            kernel = ops.convert_to_numpy(self.behind.operation.kernel)
            self._terms = consumer.pushed_through(kernel.reshape(kernel.shape[-2:]))

    def bases(self, x: Tensor, scale: Tensor) -> list[Tensor]:
        """Returns the output without any channel, and at a mixture.

        Args:
            x: The consumer's input, `(n, ..., C)`.
            scale: `(N,)` the scales of the mixture.

        Returns:
            `(n, ..., O)` each, before the activation.
        """
        nothing = ops.zeros((1, self._channels))
        made = [self._consumer.linear(x, own) for own in (nothing, scale[None])]
        if self.behind is not None:
            made = [self.behind.compute(own) for own in made]
        return made

    def mixed(
        self,
        x: Tensor,
        bases: list[Tensor],
        channels: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        """Returns the `(K n, ..., O)` output before the activation, after K steps.

        Args:
            x: The consumer's input, `(n, ..., C)`.
            bases: From `bases`.
            channels: `(K,)` the channel of each step.
            sizes: `(K,)` the size of each step.
        """
        without, at_mixture = bases
        contributions = self._terms.contributions(x, channels)
        with_one = without + self._channels * contributions
        ones = [1] * len(without.shape)
        g = ops.reshape(sizes, (-1, *ones))
        mixed = (1 - g) * at_mixture + g * with_one
        return ops.reshape(mixed, (-1, *without.shape[1:]))


def pointwise_behind(
    graph: ChannelGraph,
    group: ChannelGroup,
    call: Call,
) -> Call | None:
    """Returns the call behind a consumer that its rank-one term is pushed through.

    Args:
        graph: The traced model.
        group: The group that the consumer reads.
        call: The consumer.
    """
    if not _is_pointwise(call):
        return None
    (made,) = call.outputs
    is_output = any(made is output for output in graph.outputs)
    readers = graph.calls_reading(made)
    if is_output or len(readers) != 1:
        return None
    (reader,) = readers
    is_free = reader not in group.readers and not reader.kwargs
    return reader if is_free and _is_pointwise(reader) else None


def _is_pointwise(call: Call) -> bool:
    """Returns whether a call is linear and makes each position of one position."""
    layer = call.operation
    if type(layer) not in POINTWISE or call.rule is None:
        return False
    if layer.activation is not keras.activations.linear:
        return False
    if layer.compute_dtype != "float32":
        return False
    if type(layer) is layers.Dense:
        return True
    sizes = np.array([*layer.kernel_size, *layer.strides, layer.groups])
    return layer.data_format == "channels_last" and bool((sizes == 1).all())
