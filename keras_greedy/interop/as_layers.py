"""Raw operations of Keras 3 that tf_keras has as layers, the form that TF-MOT reads.

A finder gets the arguments of an operation by the names that its function of
`keras.ops` has for them. It returns the layer, or `None` when none does the same.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from keras import KerasTensor, ops


class LayerCall(NamedTuple):
    """A layer of tf_keras, and its inputs.

    Attributes:
        kind: The name of the layer's class.
        config: Its arguments.
        inputs: The symbolic tensor of Keras 3, or the list of them, that it reads.
    """

    kind: str
    config: dict[str, Any]
    inputs: KerasTensor | list[KerasTensor]


# A function of `keras.ops`.
Function: TypeAlias = Callable[..., Any]
Finder: TypeAlias = Callable[..., LayerCall | None]
# A number, or one for each channel.
Constant: TypeAlias = Any

FINDERS: dict[Function, Finder] = {}

MERGES = {
    ops.add: "Add",
    ops.maximum: "Maximum",
    ops.minimum: "Minimum",
    ops.multiply: "Multiply",
    ops.subtract: "Subtract",
}

# The scale and the offset of a tensor x, from the constant c.
Rescaling: TypeAlias = Callable[[np.ndarray], tuple[Constant, Constant]]
# Of x + c, x / c, x * c, x - c.
CONSTANT_SECOND: dict[Function, Rescaling] = {
    ops.add: lambda c: (1.0, c),
    ops.divide: lambda c: (1 / c, 0.0),
    ops.multiply: lambda c: (c, 0.0),
    ops.subtract: lambda c: (1.0, -c),
    ops.true_divide: lambda c: (1 / c, 0.0),
}
# Of c + x, c * x, c - x.
CONSTANT_FIRST: dict[Function, Rescaling] = {
    ops.add: lambda c: (1.0, c),
    ops.multiply: lambda c: (c, 0.0),
    ops.subtract: lambda c: (-1.0, c),
}

POOLS = {
    ops.max: "GlobalMaxPooling",
    ops.mean: "GlobalAveragePooling",
}
# There are pooling layers for sequences, images and volumes.
SPATIAL_AXES = range(1, 4)

ACTIVATION_FUNCTIONS = (
    ops.elu,
    ops.hard_sigmoid,
    ops.hard_silu,
    ops.relu,
    ops.relu6,
    ops.selu,
    ops.sigmoid,
    ops.silu,
    ops.softplus,
    ops.softsign,
    ops.tanh,
)


def as_layer(function: Function, given: dict[str, Any]) -> LayerCall | None:
    """Returns the layer for a raw operation, or `None`.

    Args:
        function: Its function of `keras.ops`.
        given: All arguments by their names.
    """
    finder = FINDERS.get(function)
    if finder is None:
        return None
    return finder(function, **given)


def _finds(*functions: Function) -> Callable[[Finder], Finder]:
    """Registers a finder for functions."""

    def register(finder: Finder) -> Finder:
        for function in functions:
            FINDERS[function] = finder
        return finder

    return register


def _is_symbol(value: object) -> bool:
    return isinstance(value, KerasTensor)


@_finds(*MERGES, *CONSTANT_SECOND)
def _arithmetic(
    function: Function,
    x1: Any,
    x2: Any,
) -> LayerCall | None:
    if not _is_symbol(x2):
        return _rescaling(x1, x2, CONSTANT_SECOND.get(function))
    if not _is_symbol(x1):
        return _rescaling(x2, x1, CONSTANT_FIRST.get(function))
    if function not in MERGES or not _can_be_merged([x1, x2]):
        return None
    return LayerCall(MERGES[function], {}, [x1, x2])


def _rescaling(
    x: KerasTensor,
    constant: Constant,
    rescaling: Rescaling | None,
) -> LayerCall | None:
    if rescaling is None or not _is_per_channel(constant, x):
        return None
    scale, offset = rescaling(np.asarray(constant, "float64"))
    config = {
        "scale": np.asarray(scale).tolist(),
        "offset": np.asarray(offset).tolist(),
    }
    return LayerCall("Rescaling", config, x)


def _can_be_merged(tensors: Sequence[KerasTensor]) -> bool:
    # Merging layers align axes from the front, and check the size of the batch.
    kinds = {(len(x.shape), x.shape[0], x.dtype) for x in tensors}
    return len(kinds) == 1


def _is_per_channel(constant: Constant, x: KerasTensor) -> bool:
    """Returns whether a constant is one that a layer can multiply x by, or add."""
    if not isinstance(constant, (int, float, np.ndarray, np.number)):
        return False
    shape = np.shape(constant)
    return "float" in x.dtype and (shape == () or shape == x.shape[-1:])


@_finds(ops.negative)
def _negative(function: Function, x: KerasTensor) -> LayerCall | None:
    # The layer computes in floats.
    if "float" not in x.dtype:
        return None
    return LayerCall("Rescaling", {"scale": -1.0}, x)


@_finds(ops.concatenate)
def _concatenate(
    function: Function,
    xs: Sequence,
    axis: int,
) -> LayerCall | None:
    are_symbols = all(_is_symbol(x) for x in xs)
    if axis == 0 or not are_symbols or not _can_be_merged(xs):
        return None
    return LayerCall("Concatenate", {"axis": axis}, list(xs))


@_finds(*ACTIVATION_FUNCTIONS)
def _activation(
    function: Function,
    x: KerasTensor,
    alpha: float = 1.0,
) -> LayerCall | None:
    # That of an ELU, which the activation by this name has not.
    if alpha != 1:
        return None
    return LayerCall("Activation", {"activation": function.__name__}, x)


@_finds(ops.gelu)
def _gelu(
    function: Function,
    x: KerasTensor,
    approximate: bool,
) -> LayerCall | None:
    if approximate:
        return None
    return LayerCall("Activation", {"activation": "gelu"}, x)


@_finds(ops.softmax)
def _softmax(
    function: Function,
    x: KerasTensor,
    axis: Any,
) -> LayerCall:
    return LayerCall("Softmax", {"axis": axis}, x)


@_finds(ops.leaky_relu)
def _leaky_relu(
    function: Function,
    x: KerasTensor,
    negative_slope: float,
) -> LayerCall:
    return LayerCall("LeakyReLU", {"alpha": negative_slope}, x)


@_finds(*POOLS)
def _pool(
    function: Function,
    x: KerasTensor,
    axis: Any,
    keepdims: bool,
    initial: Any = None,
) -> LayerCall | None:
    if initial is not None:
        return None
    rank = len(x.shape)
    # All axes but those of the batch and the channels.
    spatial = list(range(1, rank - 1))
    if axis is None or len(spatial) not in SPATIAL_AXES:
        return None
    axes = np.unique(np.atleast_1d(axis) % rank)
    if axes.tolist() != spatial:
        return None
    kind = f"{POOLS[function]}{len(spatial)}D"
    return LayerCall(kind, {"keepdims": keepdims}, x)


@_finds(ops.reshape)
def _reshape(
    function: Function,
    x: KerasTensor,
    newshape: Sequence[int],
) -> LayerCall | None:
    own = x.shape[1:]
    sizes = newshape[1:]
    # The layer leaves the batch alone: each example must keep all of its numbers.
    keeps_batch = newshape[0] in (-1, x.shape[0])
    are_known = None not in own and -1 not in sizes
    if not keeps_batch or not are_known or math.prod(sizes) != math.prod(own):
        return None
    return LayerCall("Reshape", {"target_shape": tuple(sizes)}, x)


@_finds(ops.transpose)
def _transpose(
    function: Function,
    x: KerasTensor,
    axes: Sequence[int] | None,
) -> LayerCall | None:
    # The layer permutes the axes behind the batch's.
    if axes is None or axes[0] != 0:
        return None
    return LayerCall("Permute", {"dims": tuple(axes[1:])}, x)
