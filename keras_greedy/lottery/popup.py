"""Layers of random weights that learn which of them to prune: edge-popup.

Reference: Ramanujan, Wortsman, Kembhavi, Farhadi, Rastegari, What's Hidden in a
Randomly Weighted Neural Network?, CVPR 2020, section 3.
"""

import math
from typing import Any, TypeAlias

import keras
from keras import ops

from keras_greedy.lottery.layers import (
    Masked,
    MaskedConv2D,
    MaskedDense,
    RandomNeurons,
    Tensor,
    register,
)
from tflite_export.checks import check_number, is_number

# An initializer, or the name or config of one.
Initializer: TypeAlias = Any

# He's initialization has variance 2 / inputs, and a neuron of `RandomNeurons` has one.
DEVIATION_OF_NEURONS = 2**0.5


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
        *args: Any,
        share: float = 0.5,
        kernel_initializer: Initializer = "he_normal",
        score_initializer: Initializer = "he_uniform",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        check_number(
            "share",
            share,
            "above 0 and at most 1, a share of the weights",
            is_number(share) and 0 < share <= 1,
        )
        self.share: float = share
        self.kernel_initializer: keras.initializers.Initializer = (
            keras.initializers.get(kernel_initializer)
        )
        self.score_initializer: keras.initializers.Initializer = keras.initializers.get(
            score_initializer
        )

    def add_kernel(self, shape: tuple[int, ...]) -> None:
        """Makes the weights of the layer.

        Args:
            shape: Of the kernel, and of the scores.
        """
        self.kernel = self.add_weight(
            shape,
            self.kernel_initializer,
            trainable=False,
            name="kernel",
        )
        self.scores = self.add_weight(
            shape,
            self.score_initializer,
            name="scores",
        )

    @property
    def mask(self) -> Tensor:
        """Returns True for the weights of the highest scores."""
        scores = ops.convert_to_tensor(self.scores)
        size = math.prod(self.kernel.shape)
        left = max(1, round(self.share * size))
        lowest = ops.sort(ops.ravel(scores))[-left]
        return scores >= lowest

    @property
    def connections(self) -> Tensor:
        """Returns 1 for the weights that are left, 0 for the others.

        Its derivative by the scores is 1 for all.
        """
        scores = ops.cast(self.scores, self.compute_dtype)
        chosen = ops.cast(self.mask, self.compute_dtype)
        # The mask is a step function, whose gradient is 0: the scores less themselves
        # bring one. Subtracted first they are 0 exactly, and connections 0 or 1.
        return chosen + (scores - ops.stop_gradient(scores))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        serialize = keras.initializers.serialize
        config["share"] = self.share
        config["kernel_initializer"] = serialize(self.kernel_initializer)
        config["score_initializer"] = serialize(self.score_initializer)
        return config


@register
class PopupNeurons(EdgePopup, RandomNeurons):
    """`RandomNeurons` whose mask is learned; see `EdgePopup`."""

    def __init__(
        self,
        *args: Any,
        kernel_initializer: Initializer = None,
        **kwargs: Any,
    ):
        if not kernel_initializer:
            kernel_initializer = keras.initializers.RandomNormal(
                0,
                DEVIATION_OF_NEURONS,
            )
        super().__init__(*args, kernel_initializer=kernel_initializer, **kwargs)


@register
class PopupDense(EdgePopup, MaskedDense):
    """`MaskedDense` whose mask is learned; see `EdgePopup`."""


@register
class PopupConv2D(EdgePopup, MaskedConv2D):
    """`MaskedConv2D` whose mask is learned; see `EdgePopup`."""
