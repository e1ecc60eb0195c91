"""Top-1 accuracy of `.tflite` classifiers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.checks import check_finite
from tflite_export.data import (
    NUMERIC_KINDS,
    check_not_empty,
    count_samples,
    read_batches,
)
from tflite_export.data_forms import Data
from tflite_export.runtime import TfliteFile

INTEGER_KINDS = "iu"
"""NumPy's letters for the dtypes int and unsigned int."""


def accuracy(path: str | Path, data: Data, threads: int = 1) -> float:
    """Measures the top-1 accuracy of a `.tflite` file, quantized or not.

    The data are read batch by batch, all of them.

    Args:
        path: The file, with one output of shape `(batch, classes)`.
        data: A tuple `(x, y)`, or an iterable of batches `(x, y)`: x as for `run`, y
            the classes, integers from 0 of shape `(n,)` or `(n, 1)`, or one-hot
            `(n, classes)`.
        threads: Number of threads that the kernels may use.

    Returns:
        The share of samples whose largest output is that of their class.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is no classifier's `.tflite` file; or when `data` does not
            fit it, is not finite, or has no labels that are classes.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    images = np.random.default_rng(0).random((20, 8))
    labels = np.arange(20) % 3
    assert 0 <= tflite_export.accuracy(path, (images, labels)) <= 1
    ```
    """
    file = TfliteFile(path, threads)
    output_name, classes = _classes(file)
    right = 0
    total = 0
    for inputs, y in read_batches(data, file.samples):
        count = count_samples(inputs)
        labels = _class_numbers(y, count, classes)
        # The runtime has no empty batch; data may.
        if count:
            for array in inputs.values():
                check_finite("`data`", array)
            outputs = file.run(inputs)[output_name]
            check_finite("the outputs of the file", outputs)
            answers = outputs.argmax(axis=-1)
            right += int((answers == labels).sum())
        total += count
    check_not_empty(total, data)
    return right / total


def _classes(file: TfliteFile) -> tuple[str, int]:
    """Returns the name and the number of classes of a classifier's only output."""
    shapes = {port.name: port.shape for port in file.outputs}
    output = file.outputs[0]
    # The largest of a single output is always the same.
    if len(shapes) != 1 or len(file.outputs[0].shape) != 2 or output.shape[1] < 2:
        raise ValueError(
            "Expected a file with one output of shape (batch, classes), of 2 classes "
            "or more. Received: "
            f"path={file.path!r}, with outputs of shape {shapes}"
        )
    return output.name, output.shape[1]


def _class_numbers(y: Any, count: int, classes: int) -> np.ndarray:
    """Returns the class of each sample, `(count,)`, from numbers or one-hot rows."""
    # By the name of the only output.
    if isinstance(y, Mapping) and len(y) == 1:
        (y,) = y.values()
    labels = np.asarray(y)
    if labels.shape == (count, classes) and labels.dtype.kind in NUMERIC_KINDS:
        # Of a row of zeros, or of several ones, the first would be taken.
        rows = labels.astype(float)
        largest = rows.max(axis=-1, keepdims=True, initial=0)
        if not ((rows == largest).sum(axis=-1) == 1).all():
            raise ValueError(
                "Expected `data` to give labels with one class for each sample. "
                "Received: rows of y without a largest number, or with NaN"
            )
        return rows.argmax(axis=-1)
    is_listed = labels.shape in ((count,), (count, 1))
    if not is_listed or labels.dtype.kind not in INTEGER_KINDS:
        raise ValueError(
            f"Expected `data` to give batches (x, y) with y the classes of {count} "
            f"samples, integers or one-hot. Received: y of shape {labels.shape} and "
            f"dtype {labels.dtype}"
        )
    labels = labels.reshape(count)
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise ValueError(
            f"Expected `data` to give labels from 0 to {classes - 1}, the classes of "
            f"the file. Received: {len(outside)} others of {count}, {outside[0]} for "
            "one"
        )
    return labels
