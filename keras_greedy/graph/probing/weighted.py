"""Layers with weights of their channels: made anew for some of these, and compared."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.calls import config_of, named_weights
from keras_greedy.graph.probing.trial import (
    EXAMPLES,
    MOST_ENTRIES,
    Mixing,
    Subject,
    leaving_no_trace,
)
from keras_greedy.graph.remake import made_anew
from keras_greedy.graph.symbols import first_line

# Relative to the largest output.
TOLERANCE = 1e-4

# Between these are the random weights: all positive, as a variance has to be.
LOW, HIGH = 0.5, 1.5


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    """A layer that acts on each channel alone, with weights of its own.

    Attributes:
        axes: Weight name -> for each axis whether its entries are the channels'.
        entries: The entries of its config that are the number of channels.
    """

    axes: dict[str, tuple[bool, ...]]
    entries: tuple[str, ...]


def weighted(subject: Subject) -> Weighted:
    """Returns how a layer is made for fewer channels, if it acts on each alone.

    It is made anew for some of the channels, from its config as it is, or with another
    number where the config has theirs. With the weights of those channels it has to
    compute what the whole one does.

    Args:
        subject: The call of a layer with one input.

    Raises:
        Mixing: When none of that does; says why.
    """
    channels = subject.output.shape[-1]
    if subject.widths != [channels] or not channels or channels < 2:
        raise Mixing("it does not make a channel of each that it reads")
    reasons = []
    for entries in _entries_of(subject.function, channels):
        try:
            with leaving_no_trace():
                return _made_for_some(subject, entries)
        except Exception as error:
            # Whatever it is: the code is the user's.
            reasons.append(first_line(error))
    raise Mixing(f"made for fewer channels it is not alike: {reasons[0]}")


def _entries_of(layer: Any, channels: int) -> Iterator[tuple[str, ...]]:
    """Yields the entries of a config that may be the number of channels: first none."""
    fitting = []
    for name, value in config_of(layer).items():
        if isinstance(value, int) and value == channels:
            fitting.append(name)
    for count in range(len(fitting) + 1):
        yield from itertools.combinations(fitting, count)


def _made_for_some(subject: Subject, entries: tuple[str, ...]) -> Weighted:
    """Returns what a layer is like, compared for some of its channels, and for others.

    Raises:
        Exception: Any that the user's code raises; `Mixing` when it is not alike.
    """
    layer: Any = subject.function
    channels = subject.output.shape[-1]
    rng = np.random.default_rng(0)
    x = _drawn(subject, rng)
    full = made_anew(layer)
    _output(subject, full, x)
    arrays = [_random_like(array, rng) for array in full.get_weights()]
    full.set_weights(arrays)
    expected = _output(subject, full, x)
    found: list[list[tuple[bool, ...]]] = []
    for width in sorted({1, (channels + 1) // 2, channels - 1}):
        chosen = np.sort(rng.choice(channels, width, replace=False))
        small = made_anew(layer, dict.fromkeys(entries, width))
        _output(subject, small, x[..., chosen])
        axes = []
        own = []
        for array, shape in zip(
            arrays, map(np.shape, small.get_weights()), strict=True
        ):
            axes.append(_axes_cut(array.shape, shape, channels, width))
            own.append(_of(array, axes[-1], chosen))
        small.set_weights(own)
        made = _output(subject, small, x[..., chosen])
        _check_alike(made, expected[..., chosen])
        found.append(axes)
    if any(axes != found[0] for axes in found):
        raise Mixing("its weights have other axes for another number of channels")
    names = named_weights(layer)
    return Weighted(dict(zip(names, found[0], strict=True)), entries)


def _drawn(subject: Subject, rng: np.random.Generator) -> np.ndarray:
    """Returns a random input: all positions, as weights may have entries for them."""
    (tensor,) = subject.tensors
    _, *sizes = tensor.shape
    if None in sizes or "float" not in str(tensor.dtype):
        raise Mixing(f"its input of shape {tensor.shape} cannot be drawn")
    if math.prod(sizes) > MOST_ENTRIES:
        raise Mixing("its input is too large to be tried")
    return rng.standard_normal((EXAMPLES, *sizes), "float32")


def _output(subject: Subject, layer: Any, x: np.ndarray) -> np.ndarray:
    """Returns what a layer makes of an array, at inference."""

    def value(leaf: Any) -> Any:
        is_symbol = isinstance(leaf, keras.KerasTensor)
        return ops.convert_to_tensor(x, leaf.dtype) if is_symbol else leaf

    args, kwargs = keras.tree.map_structure(value, (subject.args, subject.kwargs))
    if "training" in inspect.signature(layer.call).parameters:
        kwargs["training"] = False
    made = keras.tree.flatten(layer(*args, **kwargs))
    if len(made) != 1:
        raise Mixing(f"it makes {len(made)} tensors")
    return ops.convert_to_numpy(ops.cast(made[0], "float32"))


def _random_like(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns random numbers for a weight; one of integers stays as it is."""
    if array.dtype.kind in "biu":
        return array
    return rng.uniform(LOW, HIGH, array.shape).astype(array.dtype)


def _axes_cut(
    full: tuple[int, ...],
    small: tuple[int, ...],
    channels: int,
    width: int,
) -> tuple[bool, ...]:
    """Returns which axes of a weight are of channels, by the shapes in both layers."""
    if len(full) != len(small):
        raise Mixing(f"a weight has the shapes {full} and {small}")
    axes = []
    for size, left in zip(full, small, strict=True):
        if size != left and (size, left) != (channels, width):
            raise Mixing(f"a weight has the shapes {full} and {small}")
        axes.append(size != left)
    return tuple(axes)


def _of(array: np.ndarray, axes: tuple[bool, ...], channels: np.ndarray) -> np.ndarray:
    """Returns the entries of a weight that are some channels'."""
    for axis, is_cut in enumerate(axes):
        if is_cut:
            array = np.take(array, channels, axis)
    return array


def _check_alike(made: np.ndarray, expected: np.ndarray) -> None:
    """Raises `Mixing` where an output is not as expected."""
    if made.shape != expected.shape:
        raise Mixing(f"it makes {made.shape}, not {expected.shape}")
    scale = np.abs(expected).max() + np.finfo("float32").tiny
    if not np.abs(made - expected).max() <= TOLERANCE * scale:
        raise Mixing("it reads other channels, too")
