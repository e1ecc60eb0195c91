"""The zeros around the images that a convolution of the target reads."""

from collections.abc import Collection
from typing import TypeAlias

import keras

# ((top, bottom), (left, right)) numbers of zeros, or none at all.
Padding: TypeAlias = tuple[tuple[int, int], ...]


def padding_of(
    name: str,
    layer: keras.Layer,
    shapes: Collection[tuple[int | None, ...]],
) -> Padding:
    """Returns the zeros that padding="same" adds.

    A layer of their own adds them: the input of the bias, which comes behind, is 1 at
    the border, too.

    Args:
        name: Of the layer.
        layer: A Dense or Conv2D layer.
        shapes: Of the tensors that it reads.

    Raises:
        ValueError: When the zeros depend on an image's size, which is not known or
            not the same in all calls.
    """
    if isinstance(layer, keras.layers.Dense) or layer.padding == "valid":
        return ()
    found = {_of_images(layer, shape[1:3]) for shape in shapes}
    padding = found.pop()
    if found or padding is None:
        raise ValueError(
            f"Expected the images that layer '{name}', padding='same' with "
            f"strides, reads to have one known size. Received: shapes "
            f"{sorted(shapes, key=str)}"
        )
    return padding


def _of_images(layer: keras.Layer, sizes: tuple[int | None, ...]) -> Padding | None:
    """Returns the zeros around images of these sizes, `None` where that depends."""
    padding = []
    for axis, size in enumerate(sizes):
        own = _of_axis(
            size,
            layer.kernel_size[axis],
            layer.strides[axis],
            layer.dilation_rate[axis],
        )
        if own is None:
            return None
        padding.append(own)
    return tuple(padding)


def _of_axis(
    size: int | None,
    kernel: int,
    stride: int,
    dilation: int,
) -> tuple[int, int] | None:
    """Returns the zeros in front and behind, `None` where that depends on the size."""
    # From the first to the last pixel that one output reads.
    reach = (kernel - 1) * dilation
    if stride == 1:
        total = reach
    elif size is None:
        return None
    else:
        # There are ceil(size / stride) outputs; the last one reads beyond the image.
        outputs = -(-size // stride)
        last_read = (outputs - 1) * stride + reach
        total = max(last_read + 1 - size, 0)
    front = total // 2
    return (front, total - front)
