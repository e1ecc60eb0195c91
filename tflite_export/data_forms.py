"""The forms that data come in: which part of them is a batch, and its inputs."""

import dataclasses
import itertools
import numbers
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from tflite_export.checks import shown
from tflite_export.user_warnings import warn_user

Data: TypeAlias = Any
"""An array, a dict of arrays, a tuple `(x, y)`, or an iterable of batches."""

ENDLESS = -1
"""The cardinality of a `tf.data.Dataset` that repeats for ever."""

MANY_BATCHES = 1024
"""After so many of data that do not tell their length, they may be endless."""

MOST_PARTS = 3
"""Of a batch: x, y and the sample weights."""


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The inputs of a model or a file, which samples are to fit.

    Attributes:
        shapes: Name of an input -> the shape of one sample, without the batch axis.
        keys: Name of an input -> the other keys that it may have in a dict of data.
        is_ordered: Whether a list of arrays is in the order of `shapes`. A file does
            not tell the order that its model had: there the shapes have to.
    """

    shapes: Mapping[str, tuple[int, ...]]
    keys: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    is_ordered: bool = False


def batches_of(
    data: Data,
    inputs: Inputs,
    name: str = "data",
    is_limited: bool = False,
) -> Iterable[Any]:
    """Returns the batches of the data; arrays are a single one.

    Args:
        data: An array, a dict of arrays by the names of the inputs, a list of them, a
            tuple `(x, y)`, or an iterable of batches of these forms.
        inputs: The inputs that the samples are for.
        name: The caller's name for `data`, for errors.
        is_limited: Whether the caller stops by itself, so that data may be endless.

    Raises:
        ValueError: When they are none of these, or tell that they are endless. Of data
            that do not tell, a warning says so where they go on and on.
    """
    if _is_array(data) or isinstance(data, (tuple, Mapping)):
        return [data]
    # Other lists are of batches.
    if isinstance(data, list) and is_x(data, inputs):
        return [data]
    if isinstance(data, (str, bytes, os.PathLike)):
        raise ValueError(
            f"Expected `{name}` to be an array or an iterable of batches. Received: "
            f"{name}={shown(data)}. Names of files are not read: a folder of images is "
            "by `keras.utils.image_dataset_from_directory`."
        )
    indices = _indices(data)
    if indices is None and not isinstance(data, Iterable):
        raise ValueError(
            f"Expected `{name}` to be an array or an iterable of batches. "
            f"Received: {name}={shown(data)}"
        )
    is_endless = isinstance(indices, itertools.count)
    if hasattr(data, "cardinality"):
        is_endless = int(data.cardinality()) == ENDLESS
    if is_endless and not is_limited:
        raise ValueError(
            f"Expected `{name}` to be finite. Received: {name}={shown(data)}, which "
            "repeats for ever; limit it, with `dataset.take(n)` for example"
        )
    if indices is not None:
        return (data[index] for index in indices)
    return data if is_limited or _tells_its_length(data) else _watched(data, name)


def _tells_its_length(data: Data) -> bool:
    if hasattr(data, "cardinality"):
        return int(data.cardinality()) >= 0
    return hasattr(data, "__len__")


def _watched(data: Data, name: str) -> Iterator[Any]:
    """Yields the batches; warns once, after many, that there may be no end to them."""
    for number, batch in enumerate(data):
        if number == MANY_BATCHES:
            warn_user(
                f"`{name}` has given {number} batches and does not tell its length. If "
                "it is endless, stop this and limit it, as by `itertools.islice` or "
                "`dataset.take(n)`."
            )
        yield batch


def _indices(data: Data) -> Iterable[int] | None:
    """Returns the indices of the batches of data that have a length, or `None`.

    Such data may iterate for ever, as those of `ImageDataGenerator.flow` do.
    """
    if not hasattr(data, "__getitem__") or isinstance(data, list):
        return None
    if hasattr(data, "num_batches"):  # A `PyDataset`, which is endless without one.
        count = data.num_batches
        return itertools.count() if count is None else range(count)
    is_iterated = isinstance(data, Iterable) and not isinstance(data, Iterator)
    if is_iterated or not hasattr(data, "__len__"):
        return None
    return range(len(data))


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")


def _rank(value: Any) -> int | None:
    """Returns the number of axes of an array or of nested lists, `None` of others."""
    if _is_array(value):
        return len(value.shape) if hasattr(value, "shape") else np.ndim(value)
    if isinstance(value, numbers.Number):
        return 0
    if not isinstance(value, (list, tuple)) or not value:
        return None
    inner = _rank(value[0])
    return None if inner is None else 1 + inner


def is_x(value: Any, inputs: Inputs) -> bool:
    """Returns whether a value is the inputs of a batch by its form.

    Args:
        value: A batch or a part of it.
        inputs: The inputs.
    """
    if isinstance(value, Mapping):
        return True
    ranks = [1 + len(shape) for shape in inputs.shapes.values()]
    if len(ranks) == 1:
        return _rank(value) == ranks[0]
    if not isinstance(value, (list, tuple)) or len(value) != len(ranks):
        return False
    # In another order the list may be, see `_names_by_shape`.
    return sorted(str(_rank(each)) for each in value) == sorted(map(str, ranks))


def split_labels(batch: Any, inputs: Inputs) -> tuple[Any, Any]:
    """Returns x and y of a batch; y is `None` when it has none.

    Args:
        batch: The batch, as the data give it.
        inputs: The inputs that x is for.
    """
    is_split = isinstance(batch, tuple)
    # The loaders of torch make lists of x and y, where a list may also be x.
    if isinstance(batch, list) and not is_x(batch, inputs):
        is_split = 0 < len(batch) <= MOST_PARTS and is_x(batch[0], inputs)
    if not is_split:
        return batch, None
    # Keras accepts a third item, the sample weights: of no use here.
    x = batch[0] if batch else None
    y = batch[1] if len(batch) > 1 else None
    return x, y
