"""Raw operations of Keras 3 that tf_keras has as layers, which is what TF-MOT reads.

A finder gets the arguments of an operation by the names that its function of
`keras.ops` has for them. It returns the layer's class, its config and what it is
called with, or `None` when no layer does the same.
"""

import math

import keras
import numpy as np
from keras import ops

FINDERS = {}

_MERGES = {
    ops.add: "Add",
    ops.maximum: "Maximum",
    ops.minimum: "Minimum",
    ops.multiply: "Multiply",
    ops.subtract: "Subtract",
}
# By what a tensor is multiplied, and what is added, when `c` is the second argument
# or the first.
_SECOND = {
    ops.add: lambda c: (1.0, c),
    ops.divide: lambda c: (1 / c, 0.0),
    ops.multiply: lambda c: (c, 0.0),
    ops.subtract: lambda c: (1.0, -c),
    ops.true_divide: lambda c: (1 / c, 0.0),
}
_FIRST = {
    ops.add: lambda c: (1.0, c),
    ops.multiply: lambda c: (c, 0.0),
    ops.subtract: lambda c: (-1.0, c),
}
_POOLS = {ops.mean: "GlobalAveragePooling", ops.max: "GlobalMaxPooling"}


def as_layer(function, given: dict):
    """Class name, config and inputs of the layer for a raw operation, or `None`."""
    return FINDERS[function](function, **given) if function in FINDERS else None


def _finds(*functions):
    def register(finder):
        FINDERS.update(dict.fromkeys(functions, finder))
        return finder

    return register


def _is_symbol(value) -> bool:
    return isinstance(value, keras.KerasTensor)


@_finds(*_MERGES, *_SECOND)
def _arithmetic(function, x1, x2):
    if _is_symbol(x1) and _is_symbol(x2):
        if function not in _MERGES or not _can_be_merged([x1, x2]):
            return None
        return _MERGES[function], {}, [x1, x2]
    x, constant, tables = (x1, x2, _SECOND) if _is_symbol(x1) else (x2, x1, _FIRST)
    if function not in tables or not _is_per_channel(x, constant):
        return None
    scale, offset = tables[function](np.asarray(constant, "float64"))
    return "Rescaling", {"scale": _listed(scale), "offset": _listed(offset)}, x


def _can_be_merged(tensors) -> bool:
    """Merging layers align axes from the front, and check the size of the batch."""
    return len({(len(t.shape), t.shape[0], t.dtype) for t in tensors}) == 1


def _is_per_channel(x, constant) -> bool:
    known = isinstance(constant, (int, float, np.ndarray, np.number))
    channels = known and np.shape(constant) in ((), x.shape[-1:])
    return channels and "float" in x.dtype


def _listed(value):
    return np.asarray(value).tolist()


@_finds(ops.negative)
def _negative(function, x):
    return ("Rescaling", {"scale": -1.0}, x) if "float" in x.dtype else None


@_finds(ops.concatenate)
def _concatenate(function, xs, axis):
    if not all(map(_is_symbol, xs)) or not _can_be_merged(xs) or axis == 0:
        return None
    return "Concatenate", {"axis": axis}, list(xs)


@_finds(
    *(ops.elu, ops.hard_sigmoid, ops.hard_silu, ops.relu, ops.relu6, ops.selu),
    *(ops.sigmoid, ops.silu, ops.softplus, ops.softsign, ops.tanh),
)
def _activation(function, x, alpha=1.0):
    return ("Activation", {"activation": function.__name__}, x) if alpha == 1 else None


@_finds(ops.gelu)
def _gelu(function, x, approximate):
    return None if approximate else ("Activation", {"activation": "gelu"}, x)


@_finds(ops.softmax)
def _softmax(function, x, axis):
    return "Softmax", {"axis": axis}, x


@_finds(ops.leaky_relu)
def _leaky_relu(function, x, negative_slope):
    return "LeakyReLU", {"alpha": negative_slope}, x


@_finds(*_POOLS)
def _pool(function, x, axis, keepdims, **_):
    spatial = range(1, len(x.shape) - 1)
    axes = [] if axis is None else np.unique(np.atleast_1d(axis) % len(x.shape))
    if list(axes) != list(spatial) or not 1 <= len(spatial) <= 3:
        return None
    return f"{_POOLS[function]}{len(spatial)}D", {"keepdims": keepdims}, x


@_finds(ops.reshape)
def _reshape(function, x, newshape):
    sizes, own = newshape[1:], x.shape[1:]
    whole = newshape[0] in (-1, x.shape[0]) and None not in own and -1 not in sizes
    if not whole or math.prod(sizes) != math.prod(own):
        return None
    return "Reshape", {"target_shape": tuple(sizes)}, x


@_finds(ops.transpose)
def _transpose(function, x, axes):
    if axes is None or axes[0] != 0:
        return None
    return "Permute", {"dims": tuple(axes[1:])}, x
