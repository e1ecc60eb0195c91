"""Layers of random weights that learn which of them to prune: edge-popup.

Reference: Ramanujan, Wortsman, Kembhavi, Farhadi, Rastegari, What's Hidden in a
Randomly Weighted Neural Network?, CVPR 2020, section 3.
"""

import math
from numbers import Real

import keras
from keras import ops

from keras_greedy.lottery.layers import (
    Masked,
    MaskedConv2D,
    MaskedDense,
    RandomNeurons,
    register,
)


class EdgePopup(Masked):
    """A masked layer whose mask is learned, by a score for each weight.

    The weights of the highest scores are left, of equal ones all. Gradients pass the
    choice as if it were not there: a score goes up when the loss would fall with more
    of its weight.

    Args:
        share: The share of the weights that are left, above 0 and at most 1.
        kernel_initializer: Of the random weights, which are never trained. By default
            a normal distribution of variance 2 by the inputs of a neuron.
        score_initializer: Of the scores, which are.

    Attributes:
        kernel: Random weights.
        scores: As many.
    """

    def __init__(
        self,
        *args,
        share: float = 0.5,
        kernel_initializer="he_normal",
        score_initializer="he_uniform",
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if not isinstance(share, Real) or not 0 < share <= 1:
            raise ValueError(
                "Expected `share`, of the weights that are left, to be above 0 and at "
                f"most 1. Received: share={share!r}"
            )
        self.share = share
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.score_initializer = keras.initializers.get(score_initializer)

    def add_kernel(self, shape):
        self.kernel = self.add_weight(
            shape, self.kernel_initializer, trainable=False, name="kernel"
        )
        self.scores = self.add_weight(shape, self.score_initializer, name="scores")

    @property
    def mask(self):
        """True for the weights of the highest scores."""
        scores = ops.convert_to_tensor(self.scores)
        left = max(1, round(self.share * math.prod(self.kernel.shape)))
        lowest = ops.sort(ops.ravel(scores))[-left]
        return scores >= lowest

    @property
    def connections(self):
        scores = ops.cast(self.scores, self.compute_dtype)
        chosen = ops.cast(self.mask, self.compute_dtype)
        # In this order exactly 0 and 1.
        return chosen + (scores - ops.stop_gradient(scores))

    def get_config(self):
        initializers = {
            name: keras.initializers.serialize(getattr(self, name))
            for name in ("kernel_initializer", "score_initializer")
        }
        return super().get_config() | {"share": self.share} | initializers


@register
class PopupNeurons(EdgePopup, RandomNeurons):
    """`RandomNeurons` whose mask is learned; see `EdgePopup`."""

    def __init__(self, *args, kernel_initializer=None, **kwargs):
        # He's, for the one input that a neuron has.
        initializer = kernel_initializer or keras.initializers.RandomNormal(0, 2**0.5)
        super().__init__(*args, kernel_initializer=initializer, **kwargs)


@register
class PopupDense(EdgePopup, MaskedDense):
    """`MaskedDense` whose mask is learned; see `EdgePopup`."""


@register
class PopupConv2D(EdgePopup, MaskedConv2D):
    """`MaskedConv2D` whose mask is learned; see `EdgePopup`."""
