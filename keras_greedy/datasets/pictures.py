"""Pictures, fitted to the size that a model takes."""

from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Number of channels -> Pillow's name of such pictures."""


def check_channels(channels: int) -> None:
    """Raises a ValueError unless there are pictures of so many channels."""
    if channels not in MODES:
        raise ValueError(
            f"Expected `channels` to be one of {[*MODES]}. Received: "
            f"channels={channels!r}"
        )


def read_picture(path: Path, size: Size, channels: int) -> np.ndarray:
    """Returns a picture file as `(height, width, channels)` integers from 0 to 255.

    It is turned as its camera says, scaled until it covers the size, and the middle of
    it is cut out, so that nothing in it is squeezed.

    Args:
        path: The file.
        size: Height and width of the result.
        channels: Of the result: 1 for grey, 3 for colours, 4 with transparency.

    Raises:
        ImportError: When Pillow is not installed; says how to install it.
        ValueError: When the file is no picture that can be read.
    """
    pillow = _import_pillow()
    try:
        with pillow.Image.open(path) as picture:
            turned = pillow.ImageOps.exif_transpose(picture)
            return _fitted(turned, size, channels)
    # A file that is cut off is an OSError too, as one that cannot be opened.
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(
            "Expected pictures that can be read; remove this one, or repair it. "
            f"Received: {str(path)!r}: {error}"
        ) from None


def fit_picture(pixels: np.ndarray, size: Size, channels: int) -> np.ndarray:
    """Returns a picture in another size, as `read_picture` does.

    Args:
        pixels: `(height, width, channels)`, integers from 0 to 255.
        size: As for `read_picture`.
        channels: As for `read_picture`.
    """
    pillow = _import_pillow()
    # Pillow has no pictures with an axis of one channel.
    is_grey = pixels.shape[-1] == 1
    picture = pillow.Image.fromarray(pixels[..., 0] if is_grey else pixels)
    return _fitted(picture, size, channels)


def _fitted(picture: Any, size: Size, channels: int) -> np.ndarray:
    pillow = _import_pillow()
    height, width = size
    converted = picture.convert(MODES[channels])
    fitted = pillow.ImageOps.fit(
        converted, (width, height), pillow.Image.Resampling.BILINEAR
    )
    return np.asarray(fitted).reshape(height, width, channels)


def _import_pillow() -> ModuleType:
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise ImportError(
            "Pictures are read by Pillow, which is not installed: "
            "pip install 'keras_greedy[datasets]'"
        ) from error
    return PIL
