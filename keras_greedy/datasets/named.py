"""The data sets of TensorFlow Datasets."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from keras_greedy.datasets.examples import Examples
from keras_greedy.datasets.pictures import Size, check_channels, fit_picture
from tflite_export.checks import check_count

KEYS = ("image", "label")
"""Of inputs and labels in the dictionaries of data sets of pictures."""

PICTURE_AXES = 3


def from_tfds(
    dataset: Any,
    split: str = "train",
    size: Size | None = None,
    channels: int = 3,
    count: int | None = None,
    skip: int = 0,
    keys: tuple[str, str] | None = None,
) -> Examples:
    """Reads examples of TensorFlow Datasets.

    A name is loaded by `tfds.load`, which downloads it the first time. Its inputs and
    labels are those that the data set itself names for supervised learning, else
    `"image"` and `"label"`.

    Args:
        dataset: The name, as `"beans"` or `"cifar10:3.0.2"`; or what `tfds.load` gave:
            of dictionaries, or of pairs (`as_supervised=True`), not batched.
        split: The split of a name, as `"train[:10%]"`.
        size: Height and width of the pictures that the model takes; by default they
            stay as they are. They are cut as by `from_folder`.
        channels: Channels of pictures that the model takes: 1, 3 or 4.
        count: Most examples to read; by default all.
        skip: The number of examples to leave out before.
        keys: Of the inputs and of the labels in dictionaries, where they are others.

    Returns:
        The `Examples`, pictures as integers from 0 to 255: see `preprocess`. There may
        be none left behind `skip`.

    Raises:
        ImportError: When tensorflow_datasets is not installed; says how to install it.
        ValueError: When there is no such data set or split, or it has other keys.

    Example:

    ```python
    import numpy as np
    import tensorflow as tf
    from keras_greedy.datasets import from_tfds

    # Of a name: from_tfds("beans", "train[:20%]", size=(32, 32))
    loaded = {"image": np.zeros((4, 40, 60, 3), "uint8"), "label": range(4)}
    examples = from_tfds(tf.data.Dataset.from_tensor_slices(loaded), size=(32, 32))
    assert examples.x.shape == (4, 32, 32, 3)
    ```
    """
    check_channels(channels)
    skip = check_count("skip", skip, minimum=0)
    if count is not None:
        count = check_count("count", count, minimum=1)
    names: tuple[str, ...] = ()
    if isinstance(dataset, str):
        dataset, info = _loaded(dataset, split)
        keys = keys or _supervised_keys(info)
        names = _class_names(info, (keys or KEYS)[1])
    inputs = []
    labels = []
    for example in itertools.islice(_numpy(dataset, skip), count):
        x, y = _pair(example, keys or KEYS)
        if size is not None and x.ndim == PICTURE_AXES:
            x = fit_picture(x, size, channels)
        inputs.append(x)
        labels.append(y)
    if not inputs and not skip:
        raise ValueError(
            f"Expected `dataset` to hold examples. Received: {dataset!r}, with none"
        )
    if not inputs:
        return Examples(np.empty((0, *(size or ()), channels), "uint8"), None, names)
    has_labels = all(y is not None for y in labels)
    return Examples(np.stack(inputs), np.stack(labels) if has_labels else None, names)


def _loaded(name: str, split: str) -> tuple[Any, Any]:
    tfds = _import_tfds()
    try:
        return tfds.load(name, split=split, with_info=True)
    # Its text lists all that there are.
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            "Expected `dataset` to be a name in the catalogue of tensorflow_datasets, "
            f"or of a data set in its folder. Received: dataset={name!r}"
        ) from None


def _import_tfds() -> ModuleType:
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "The data sets are those of tensorflow_datasets, which is not installed: "
            "pip install 'keras_greedy[datasets]'"
        ) from error
    return tensorflow_datasets


def _supervised_keys(info: Any) -> tuple[str, str] | None:
    """Returns the keys that a data set names, unless they are nested or none."""
    keys = info.supervised_keys
    is_plain = keys is not None and all(isinstance(key, str) for key in keys[:2])
    return tuple(keys[:2]) if is_plain else None


def _class_names(info: Any, key: str) -> tuple[str, ...]:
    features = info.features
    has_keys = hasattr(features, "keys") and key in features
    names = getattr(features[key], "names", None) if has_keys else None
    return tuple(names or ())


def _numpy(dataset: Any, skip: int) -> Iterator[Any]:
    """Yields the examples behind the first ones, as NumPy arrays."""
    # A `tf.data.Dataset` skips without decoding.
    if hasattr(dataset, "as_numpy_iterator"):
        return iter(dataset.skip(skip).as_numpy_iterator())
    examples: Iterable[Any] = dataset
    return itertools.islice(iter(examples), skip, None)


def _pair(example: Any, keys: tuple[str, str]) -> tuple[np.ndarray, Any]:
    if isinstance(example, tuple):
        x, y = example
        return np.asarray(x), y
    x_key, y_key = keys
    if not isinstance(example, Mapping):
        return np.asarray(example), None
    if x_key not in example:
        raise ValueError(
            f"Expected the examples to have {x_key!r}; tell their keys by `keys`, as "
            f"keys=('x', 'y'). Received: examples with {[*example]}"
        )
    return np.asarray(example[x_key]), example.get(y_key)
