"""Random views of images, so that a few of them teach as many.

Reference: Beyer et al., Knowledge distillation: A good teacher is patient and
consistent, CVPR 2022: teacher and student see the same crops, mixed with others.
"""

from collections.abc import Sequence

import numpy as np
from keras import KerasTensor, ops

from keras_greedy.backend import Tensor, compiled_for_host
from keras_greedy.batches import Arrays
from keras_greedy.graph.masks import is_real

LEAST_AREA = 0.25
"""Of an image, in a view of it."""

LEAST_SIDE = 16
"""Of images, in pixels: crops of smaller ones leave too little."""

MIXED = 0.5
"""The share of views that another one shines through."""

LEAST_OWN = 0.5
"""The least weight of the image itself in a mixed view."""

SHRINKING = 5 / 7
"""Of the sides of large images, in their views, about: 160 pixels of 224, which take
half the time and teach as much."""

MULTIPLE = 32
"""Of which shrunk sides are multiples: blocks of a network halve them so often."""

FIRST_SHRUNK = 128
"""The least side of images whose views are shrunk, in pixels."""


def has_views(inputs: list[KerasTensor]) -> bool:
    """Returns whether a model's inputs are images of which there are views.

    Args:
        inputs: Its symbolic inputs.
    """
    if len(inputs) != 1:
        return False
    shape = inputs[0].shape
    is_picture = len(shape) == 4 and shape[-1] in (1, 3) and is_real(inputs[0].dtype)
    return is_picture and all(side is None or side >= LEAST_SIDE for side in shape[1:3])


def shrunk_size(inputs: list[KerasTensor]) -> tuple[int, int] | None:
    """Returns the height and width of smaller views; none of small or unknown sizes.

    Args:
        inputs: The symbolic inputs of a model that has views.
    """
    height, width = inputs[0].shape[1:3]
    if height is None or width is None or min(height, width) < FIRST_SHRUNK:
        return None
    return _shrunk(height), _shrunk(width)


def _shrunk(side: int) -> int:
    return MULTIPLE * round(SHRINKING * side / MULTIPLE)


class Views:
    """Random crops of images, resized, half of them mirrored, half of them mixed.

    Args:
        rng: Source of everything random.
        size: Height and width of the views, at most those of the images; by default
            theirs.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int] | None = None):
        self._rng = rng
        self._size = size
        self._view = compiled_for_host(_view)

    def of(self, batch: Arrays) -> list[Tensor]:
        """Returns a view of each image of a batch.

        Args:
            batch: One array `(n, height, width, channels)`.
        """
        (images,) = batch
        count, *size = images.shape[:3]
        seen = self._size or tuple(size)
        transforms = self._transforms(count, size, seen)
        views = self._view(images, transforms, self._shares(count))
        return [views[:, : seen[0], : seen[1]]]

    def _transforms(
        self, count: int, size: Sequence[int], seen: Sequence[int]
    ) -> np.ndarray:
        """Returns `(n, 8)` the affine maps from places in a view to those in an image.

        Each is `(a0, a1, a2, b0, b1, b2, 0, 0)`: what is at `(x, y)` in the view is at
        `(a0 x + a1 y + a2, b0 x + b1 y + b2)` in the image.

        Args:
            count: How many.
            size: Height and width of the images.
            seen: Those of the views.
        """
        rng = self._rng
        height, width = size
        side = np.sqrt(rng.uniform(LEAST_AREA, 1.0, count))
        left = rng.uniform(0, 1 - side) * (width - 1)
        top = rng.uniform(0, 1 - side) * (height - 1)
        is_mirrored = rng.random(count) < 0.5
        # A mirrored view runs from the right side of the crop to the left.
        right = left + side * (width - 1)
        start = np.where(is_mirrored, right, left)
        down = side * (height - 1) / (seen[0] - 1)
        across = side * (width - 1) / (seen[1] - 1)
        across = np.where(is_mirrored, -across, across)
        zero = np.zeros(count)
        columns = [across, zero, start, zero, down, top, zero, zero]
        return np.stack(columns, axis=1).astype("float32")

    def _shares(self, count: int) -> np.ndarray:
        """Returns `(n, 1, 1, 1)` the weights of the images in their own views."""
        share = self._rng.uniform(LEAST_OWN, 1.0, count)
        is_mixed = self._rng.random(count) < MIXED
        share = np.where(is_mixed, share, 1.0).astype("float32")
        return share[:, None, None, None]


def _view(images: Tensor, transforms: Tensor, shares: Tensor) -> Tensor:
    dtype = images.dtype
    crops = ops.image.affine_transform(
        ops.cast(images, "float32"),
        transforms,
        interpolation="bilinear",
        fill_mode="nearest",
        data_format="channels_last",
    )
    mixed = shares * crops + (1 - shares) * ops.flip(crops, axis=0)
    return ops.cast(mixed, dtype)
