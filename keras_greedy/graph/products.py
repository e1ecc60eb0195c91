"""Multiply-accumulates of raw operations, by the shapes of their tensors."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

Shape: TypeAlias = tuple[int, ...]


class Uncounted(Exception):
    """Raised where multiply-accumulates cannot be counted; says why."""


def fixed(shape: Sequence[int | None]) -> Shape:
    """Returns a shape, all of whose sizes have to be known."""
    sizes = []
    for size in shape:
        if size is None:
            raise Uncounted(f"a tensor of shape {tuple(shape)} has no fixed size")
        sizes.append(size)
    return tuple(sizes)


def shapes_of(values: Any) -> list[Shape]:
    """Returns the shapes of all tensors and weights among values."""
    shapes = []
    for leaf in keras.tree.flatten(values):
        if hasattr(leaf, "shape"):
            shapes.append(fixed(leaf.shape))
    return shapes


def _matmul(operation: Any, read: list[Shape], made: Shape) -> int:
    return math.prod(made) * (read[0][-1] if read[0] else 0)


def _contraction(operation: Any, read: list[Shape], made: Shape) -> int:
    # Of m k, k n and m n entries: the root of their product is m k n.
    sizes = [math.prod(shape) for shape in (*read[:2], made)]
    return math.isqrt(math.prod(sizes))


def _einsum(operation: Any, read: list[Shape], made: Shape) -> int:
    if len(read) < 2:
        return 0
    indices = operation.subscripts.replace(" ", "").split("->")[0].split(",")
    sizes: dict[Any, int] = {}
    for names, shape in zip(indices, read, strict=True):
        before, dots, behind = names.partition("...")
        spread = len(shape) - len(before) - len(behind) if dots else 0
        # The axes of an ellipsis are counted from its end.
        middle = [str(-place) for place in range(spread, 0, -1)]
        for name, size in zip([*before, *middle, *behind], shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return math.prod(sizes.values())


def _conv(operation: Any, read: list[Shape], made: Shape) -> int:
    return math.prod(made) * math.prod(read[1][:-1])


def _depthwise(operation: Any, read: list[Shape], made: Shape) -> int:
    return math.prod(made) * math.prod(read[1][:-2])


def _separable(operation: Any, read: list[Shape], made: Shape) -> int:
    _, depthwise, pointwise = read
    outputs = pointwise[-1]
    entries = math.prod(depthwise) + math.prod(pointwise)
    return math.prod(made) // outputs * entries


def _transposed(operation: Any, read: list[Shape], made: Shape) -> int:
    return math.prod(read[0]) * math.prod(read[1][:-1])


def _attention(operation: Any, read: list[Shape], made: Shape) -> int:
    # Queries (n, T, heads, size) by keys (n, S, ...), and then by the values.
    query, key = read[:2]
    return 2 * math.prod(query) * key[1]


# By name: their classes have no public one.
RAW: dict[str, Callable[[Any, list[Shape], Shape], int]] = {
    "Matmul": _matmul,
    "Dot": _matmul,
    "Tensordot": _contraction,
    "Inner": _contraction,
    "Vdot": _contraction,
    "Einsum": _einsum,
    "Conv": _conv,
    "DepthwiseConv": _depthwise,
    "SeparableConv": _separable,
    "ConvTranspose": _transposed,
    "DotProductAttention": _attention,
}
