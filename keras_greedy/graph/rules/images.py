"""Rules of layers and operations that move the pixels of images, each channel alone."""

from collections.abc import Sequence

import numpy as np
from keras import layers, ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.rules.base import Rule, require_channels_last
from keras_greedy.graph.rules.register import register_rule
from keras_greedy.graph.space import ChannelSpace

# By name: a few are not in every version of Keras. Layers that know of colours are not
# among them: they expect three channels.
LAYERS = """
    Resizing CenterCrop RandomBrightness RandomContrast RandomCrop
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomPerspective
    RandomRotation RandomShear RandomTranslation RandomZoom
"""
OPERATIONS = """
    affine_transform crop_images elastic_transform gaussian_blur pad_images
    perspective_transform resize
"""


class ImageRule(Rule):
    """Follows the channels of the image; other tensors say where its pixels go."""

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray:
        require_channels_last(call)
        image, *others = channels
        for ids in others:
            space.pin(ids, call.name, "it moves the pixels of an image by them")
        return image


for name in LAYERS.split():
    if hasattr(layers, name):
        register_rule(getattr(layers, name))(ImageRule)

for name in OPERATIONS.split():
    if hasattr(ops.image, name):
        register_rule(getattr(ops.image, name))(ImageRule)
