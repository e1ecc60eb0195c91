"""The forms that data come in, made into arrays or into batches that can be read again.

Nothing here knows the model: `batches` compares what comes out with its inputs.
"""

import itertools
import numbers
import os
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import keras
import numpy as np

from tflite_export.checks import shown

ENDLESS = -1
UNKNOWN = -2
"""The cardinalities of `tf.data` for a dataset that repeats, and for one uncounted."""

MOST_BATCHES = 1024
"""Batches that are read of data that do not say how many they are.

Pruning takes a few hundred examples: what is not at its end by then may never be.
"""

MOST_BYTES = 2**31
"""Of a one-shot iterator, whose batches are kept in memory."""

Data: TypeAlias = Any
"""Arrays, `(x, y)`, a dict, a `tf.data.Dataset`, `PyDataset` or batches."""


class ByIndex:
    """The batches of an object with a length and items, whatever its iterator does.

    Args:
        data: The object, as the flow of an `ImageDataGenerator`: it iterates for ever.
        length: How many there are; by default its `len`.
    """

    def __init__(self, data: Any, length: int | None = None):
        self._data = data
        self._length = length

    def __len__(self) -> int:
        return len(self._data) if self._length is None else self._length

    def __iter__(self) -> Iterator[Any]:
        return (self._data[i] for i in range(len(self)))


def repeatable(data: Data, name: str = "data") -> Data:
    """Returns data that can be read again, lists of numbers being arrays.

    Args:
        data: As the user gave them.
        name: Of the argument, for the errors.

    Returns:
        Arrays, a `tf.data.Dataset`, a `PyDataset`, or an iterable of batches; of a
        one-shot iterator the list of its batches.

    Raises:
        ValueError: When they are the name of a file or a folder, no data at all, or an
            iterator that is not at its end after 1024 batches or 2 GiB.
    """
    _check_no_name(data, name)
    if isinstance(data, keras.utils.PyDataset) or hasattr(data, "cardinality"):
        return data
    if is_array_like(data) or _is_whole(data) or _is_nested_list(data):
        return with_arrays(data, name)
    has_items = hasattr(data, "__len__") and hasattr(data, "__getitem__")
    if isinstance(data, list | tuple):
        return data
    if has_items and (isinstance(data, Iterator) or not isinstance(data, Iterable)):
        return ByIndex(data)
    if not isinstance(data, Iterable):
        raise ValueError(
            f"Expected `{name}` to be arrays, a tf.data.Dataset, a PyDataset or an "
            f"iterable of batches. Received: {name}={shown(data)} of type "
            f"{type(data).__name__}"
        )
    iterator = iter(data)
    # An object that hands out the same iterator each time can be read once only.
    return _kept(iterator, name) if iterator is iter(data) else data


def is_arrays(data: Data) -> bool:
    """Returns whether `data` is the whole data set in memory: x, (x, y) or a dict."""
    return is_array_like(data) or _is_whole(data)


def is_array_like(value: Any) -> bool:
    """Returns whether a value is an array, a tensor, or as a pandas Series is one."""
    if isinstance(value, np.ndarray) or keras.ops.is_tensor(value):
        return True
    return hasattr(value, "__array__") and hasattr(value, "shape")


def with_arrays(structure: Any, name: str = "data") -> Any:
    """Returns a structure in which what is like an array is one.

    Args:
        structure: Arrays, array-likes or lists of numbers, in tuples, lists or dicts.
        name: Of the argument, for the errors.

    Raises:
        ValueError: When a list of numbers is no array.
    """
    if isinstance(structure, np.ndarray) or keras.ops.is_tensor(structure):
        return structure
    if is_array_like(structure):
        return np.asarray(structure)
    if _is_nested_list(structure):
        return _array_of_lists(structure, name)
    if isinstance(structure, dict):
        return {key: with_arrays(value, name) for key, value in structure.items()}
    if isinstance(structure, list):
        return [with_arrays(value, name) for value in structure]
    if isinstance(structure, tuple):
        return tuple(with_arrays(value, name) for value in structure)
    return structure


def with_tuples(structure: Any) -> Any:
    """Returns a structure with tuples for its lists, which `fit` takes for tensors."""
    if isinstance(structure, dict):
        return {key: with_tuples(value) for key, value in structure.items()}
    if isinstance(structure, list | tuple):
        return tuple(with_tuples(value) for value in structure)
    return structure


def to_numpy(leaf: Any) -> np.ndarray:
    """Returns an array or tensor as a NumPy array."""
    if isinstance(leaf, np.ndarray):
        return leaf
    if keras.ops.is_tensor(leaf):
        return keras.ops.convert_to_numpy(leaf)
    return np.asarray(leaf)


def first_of(data: Data, name: str = "data") -> Any:
    """Returns the first batch of data from `repeatable`, or all of whole arrays.

    Raises:
        ValueError: When there is none.
    """
    whole = (data,) if is_array_like(data) else data
    first = next(Source(whole, name)(), None)
    if first is None:
        raise ValueError(
            f"Expected `{name}` to hold at least one batch. Received none."
        )
    return first


class Source:
    """Reads data from their beginning, as often as asked.

    Args:
        data: From `repeatable`.
        name: Of the argument, for the errors.

    Attributes:
        length: The number of batches, if the data tell it.

    Raises:
        ValueError: When the data say that they never end.
    """

    def __init__(self, data: Data, name: str = "data"):
        self._data = data
        self._name = name
        self._is_whole = is_arrays(data)
        self.length: int | None = 1 if self._is_whole else _length(data, name)
        self._ends = self.length is not None

    def __call__(self) -> Iterator[Any]:
        """Starts reading; data without a length are an error if they do not end."""
        if self._is_whole:
            return iter([self._data])
        if isinstance(self._data, keras.utils.PyDataset):
            return iter(ByIndex(self._data, self.length))
        if self.length is not None and not hasattr(self._data, "cardinality"):
            # Some iterate for ever, whatever their length is.
            return itertools.islice(iter(self._data), self.length)
        return iter(self._data) if self._ends else self._counted()

    def check_ends(self) -> None:
        """Raises a ValueError when data without a length go on and on.

        They are read for that, once, up to 1024 batches: before any long work.
        """
        if not self._ends:
            for _ in self._counted():
                pass

    def _counted(self) -> Iterator[Any]:
        """Yields the batches; raises a ValueError when there are too many."""
        for number, batch in enumerate(self._data):
            if number == MOST_BATCHES:
                self._raise_endless()
            yield batch
        self._ends = True

    def _raise_endless(self) -> None:
        is_dataset = hasattr(self._data, "cardinality")
        known = (
            "tf.data.experimental.assert_cardinality(n)" if is_dataset else "__len__"
        )
        raise ValueError(
            f"Expected `{self._name}` to be finite. Received: an object of the class "
            f"{type(self._data).__name__} that does not tell its length, and is not at "
            f"its end after {MOST_BATCHES} batches. Limit it; if it does end, tell the "
            f"number of its batches, by `{known}`."
        )


def _length(data: Data, name: str) -> int | None:
    """Returns the number of batches, or `None` where the data do not tell it."""
    if isinstance(data, keras.utils.PyDataset):
        return _finite(data.num_batches, name)
    if hasattr(data, "cardinality"):
        cardinality = int(data.cardinality())
        return None if cardinality == UNKNOWN else _finite(cardinality, name)
    try:
        return len(data)
    except TypeError:
        return None


def _finite(batches: int | None, name: str) -> int:
    if batches is None or batches == ENDLESS:
        raise ValueError(
            f"Expected `{name}` to be finite. Received: a dataset that repeats for "
            "ever; limit it, with `dataset.take(n)` for example."
        )
    return int(batches)


def _kept(iterator: Iterator, name: str) -> list:
    """Returns the batches of an iterator, if they are not too many to be kept."""
    batches = []
    size = 0
    for batch in iterator:
        batches.append(batch)
        size += sum(_bytes(leaf) for leaf in keras.tree.flatten(batch))
        if len(batches) > MOST_BATCHES or size > MOST_BYTES:
            raise ValueError(
                f"Expected `{name}` to be finite, and an iterator to be short enough "
                "to be kept in memory, as it is read more than once. Received: "
                f"{type(iterator).__name__}, not at its end after {len(batches)} "
                f"batches of {size / 2**20:.0f} MiB. Limit it, with "
                "`itertools.islice(data, n)` for example; if it does end, give "
                "`list(data)`, or an object that can be iterated again."
            )
    return batches


def _bytes(leaf: Any) -> int:
    shape = getattr(leaf, "shape", ())
    itemsize = getattr(getattr(leaf, "dtype", None), "itemsize", None)
    size = getattr(getattr(leaf, "dtype", None), "size", None)
    of_one = next((n for n in (itemsize, size) if isinstance(n, int)), 4)
    return int(np.prod(tuple(shape))) * of_one


def _check_no_name(data: Data, name: str) -> None:
    first = data
    while isinstance(first, list | tuple) and len(first):
        first = first[0]
    if isinstance(first, str | bytes | os.PathLike):
        raise ValueError(
            f"Expected `{name}` to be arrays or batches of them. Received: "
            f"{name}={_named(data)}. Names of files are not read: a folder with a "
            "folder of images for each class is read by "
            "`keras.utils.image_dataset_from_directory`."
        )


def _named(data: Data) -> str:
    return repr(os.fspath(data)) if isinstance(data, os.PathLike) else shown(data)[:200]


def _is_whole(data: Data) -> bool:
    """Returns whether a tuple or a dict holds all of x, of (x, y) or of more."""
    if isinstance(data, dict):
        return True
    if not isinstance(data, tuple) or len(data) not in (1, 2, 3):
        return False
    leaves = []
    for part in data:
        leaves += _leaves(part)
    return bool(leaves) and all(is_array_like(leaf) for leaf in leaves)


def _leaves(structure: Any) -> list[Any]:
    """Returns what is no tuple, list or dict; of a list of numbers an empty array."""
    if structure is None:
        return []
    if _is_nested_list(structure):
        return [np.empty(0)]
    if isinstance(structure, dict):
        structure = list(structure.values())
    if isinstance(structure, list | tuple):
        return [leaf for part in structure for leaf in _leaves(part)]
    return [structure]


def _is_nested_list(value: Any) -> bool:
    """Returns whether a value is a list of numbers or strings, or of such lists."""
    if not isinstance(value, list | tuple):
        return False
    # A tuple of lists is `(x, y)`.
    if isinstance(value, tuple) and value and isinstance(value[0], list | tuple):
        return False
    while isinstance(value, list | tuple) and len(value):
        value = value[0]
    # Strings may be labels.
    return isinstance(value, numbers.Number | np.generic | str)


def _array_of_lists(value: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"Expected `{name}` to be arrays or batches of them. Received: nested "
            f"lists that are not all as long, {name}={shown(value)[:200]}. Make arrays "
            "of them, with `numpy.array(...)`."
        ) from None
