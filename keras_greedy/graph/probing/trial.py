"""Calls on numbers: what an operation without weights makes of random inputs."""

import contextlib
import dataclasses
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_greedy.backend import without_gradients
from keras_greedy.graph.remake import made_anew

# Sizes in place of those that a tensor leaves open: of the batch of vectors, of any
# other batch, and of all other axes.
VECTORS = 16
EXAMPLES = 2
POSITIONS = 8

# A tensor of more entries is tried with fewer positions, and what is found then is
# checked in full.
MANY_ENTRIES = 2**17
MOST_ENTRIES_CHECKED = 2**25
# Where few positions do not do, one of up to so many entries is tried in full.
MOST_ENTRIES = 2**23

# The magnitudes of random numbers are drawn between these powers of 10.
POWERS = (-3.0, 5.0)
POWERS_OF_HALF = (-3.0, 3.0)
# Shares of entries, and of positions with all of their channels, that are 0.
ZEROS = 0.1


class Mixing(Exception):
    """Raised where channels cannot be told apart; says what a probe found."""


class Depending(Mixing):
    """Raised where an output depends on many channels, whatever the positions are."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A call to be tried.

    Attributes:
        function: A layer or an operation, without weights of the channels, or a
            function of a tensor.
        args: Positional arguments, symbolic tensors included.
        kwargs: Keyword arguments, symbolic tensors included.
        tensors: Those of them that carry channels.
        output: The symbolic tensor that it makes.
    """

    function: Callable[..., Any]
    args: tuple
    kwargs: dict[str, Any]
    tensors: list[KerasTensor]
    output: KerasTensor

    @property
    def widths(self) -> list[int]:
        """Returns the number of channels of each of `tensors`."""
        return [tensor.shape[-1] for tensor in self.tensors]

    @property
    def is_half(self) -> bool:
        """Returns whether the output is of half precision."""
        return "16" in keras.backend.standardize_dtype(self.output.dtype)

    def anew(self, width: int) -> Callable[..., Any]:
        """Returns the function as a cut model has it, to make `width` channels."""
        if not isinstance(self.function, keras.Layer):
            return self.function
        changes = fitting_output_shape(self.function, width)
        return made_anew(self.function, changes)

    def output_of(self, function: Callable[..., Any], widths: list[int]) -> KerasTensor:
        """Returns the symbolic tensor that `function` makes of so many channels."""
        narrow = {}
        for tensor, width in zip(self.tensors, widths, strict=True):
            narrow[tensor] = KerasTensor((*tensor.shape[:-1], width), tensor.dtype)

        def value(leaf: Any) -> Any:
            return narrow.get(leaf, leaf) if isinstance(leaf, KerasTensor) else leaf

        args, kwargs = keras.tree.map_structure(value, (self.args, self.kwargs))
        return function.compute_output_spec(*args, **kwargs)  # type: ignore[attr-defined]


def fitting_output_shape(operation: keras.Operation, width: int) -> dict[str, Any]:
    """Returns the config entry of a Lambda's given output shape with other channels."""
    if not isinstance(operation, keras.layers.Lambda):
        return {}
    shape = operation.get_config().get("output_shape")
    is_given = isinstance(shape, (tuple, list)) and len(shape) > 0
    if not is_given or not all(isinstance(size, int | None) for size in shape):
        return {}
    return {"output_shape": (*shape[:-1], width)}


def positions_that_fit(subject: Subject) -> int:
    """Returns how many positions along each axis of its tensors are not too many."""
    fitting = MANY_ENTRIES
    for tensor in subject.tensors:
        axes = max(1, len(tensor.shape) - 2)
        places = MANY_ENTRIES / (EXAMPLES * tensor.shape[-1])
        fitting = min(fitting, int(places ** (1 / axes)))
    return max(fitting, POSITIONS)


class Trial:
    """Runs a call on arrays of fixed sizes.

    Args:
        subject: The call.
        positions: The most positions along an axis; by default as many as there are.
    """

    def __init__(self, subject: Subject, positions: int | None = None):
        self.subject = subject
        self._positions = positions
        self._examples = VECTORS
        if any(len(tensor.shape) > 2 for tensor in subject.tensors):
            self._examples = EXAMPLES
        if positions is None and self.entries > MANY_ENTRIES:
            self._examples = 1
        self._given: dict[str, Any] = {}
        if isinstance(subject.function, keras.Layer):
            parameters = inspect.signature(subject.function.call).parameters
            if "training" in parameters and "training" not in subject.kwargs:
                self._given = {"training": False}

    @property
    def entries(self) -> int:
        """Returns the number of entries of the largest tensor."""
        return max(math.prod(self._shape(tensor)) for tensor in self.subject.tensors)

    def draw(
        self,
        rng: np.random.Generator,
        scale: float | None = None,
    ) -> list[np.ndarray]:
        """Returns a random array for each of the subject's tensors.

        Args:
            rng: Source of the numbers.
            scale: Their standard deviation; by default they are of all magnitudes.
        """
        arrays = []
        for tensor in self.subject.tensors:
            shape = self._shape(tensor)
            dtype = keras.backend.standardize_dtype(tensor.dtype)
            arrays.append(_random(rng, shape, dtype, scale))
        return arrays

    def run(
        self,
        arrays: list[np.ndarray],
        function: Callable[..., Any] | None = None,
    ) -> np.ndarray:
        """Returns what the call makes of arrays, its channels on the last axis.

        Args:
            arrays: One for each of the subject's tensors.
            function: In place of the subject's.
        """
        given = {id(t): a for t, a in zip(self.subject.tensors, arrays, strict=True)}

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, KerasTensor):
                return leaf
            # A tensor without channels is a mask: nothing is masked.
            array = given.get(id(leaf))
            if array is None:
                array = np.ones(self._shape(leaf))
            return ops.convert_to_tensor(array, leaf.dtype)

        arguments = (self.subject.args, self.subject.kwargs | self._given)
        args, kwargs = keras.tree.map_structure(value, arguments)
        function = function or self.subject.function
        own = self.subject.function
        if isinstance(own, keras.Layer) and isinstance(function, keras.Layer):
            if not function.built:
                function(*args, **kwargs)
            if function is not own:
                function.set_weights(own.get_weights())
        made = keras.tree.flatten(function(*args, **kwargs))
        if len(made) != 1:
            raise Mixing(f"it makes {len(made)} tensors")
        array = ops.convert_to_numpy(ops.cast(made[0], "float32"))
        if array.ndim < 2 or not array.size:
            raise Mixing(f"it makes a tensor of shape {array.shape}")
        return array

    def _shape(self, tensor: KerasTensor) -> tuple[int, ...]:
        batch, *rest = tensor.shape
        shape = [self._examples if batch is None else batch]
        for axis, size in enumerate(rest, start=1):
            is_position = axis < len(tensor.shape) - 1
            if size is None:
                size = POSITIONS
            elif is_position and self._positions:
                size = min(size, self._positions)
            shape.append(size)
        return tuple(shape)


def _random(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    dtype: str,
    scale: float | None,
) -> np.ndarray:
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        return rng.integers(0 if dtype.startswith("u") else -99, 100, shape)
    numbers = rng.standard_normal(shape, "float32")
    if scale is not None:
        return numbers * np.float32(scale)
    low, high = POWERS_OF_HALF if "16" in dtype else POWERS
    power = low + (high - low) * rng.random(shape, "float32")
    is_zero = rng.random(shape, "float32") < ZEROS
    is_zero |= rng.random((*shape[:-1], 1)) < ZEROS
    return np.where(is_zero, 0, numbers * np.float32(10) ** power)


@contextlib.contextmanager
def leaving_no_trace() -> Iterator[None]:
    """Lets operations run without a lasting change of Keras' state, or a warning."""
    with (
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        keras.StatelessScope(),
        without_gradients(),
    ):
        warnings.simplefilter("ignore")
        yield
