"""Top-1 accuracy of `.tflite` classifiers."""

from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.data import Data, check_not_empty, count_samples, read_batches
from tflite_export.runtime import TfliteFile

INTEGER_KINDS = "iu"
"""NumPy's letters for the dtypes int and unsigned int."""


def accuracy(path: str | Path, data: Data, threads: int = 1) -> float:
    """Measures the top-1 accuracy of a `.tflite` file, quantized or not.

    The data are read batch by batch, all of them.

    Args:
        path: The file, with one output of shape `(batch, classes)`.
        data: A tuple `(x, y)`, or an iterable of batches `(x, y)`: x as for `run`, y
            the classes, integers of shape `(n,)` or `(n, 1)`, or one-hot
            `(n, classes)`.
        threads: Number of threads that the kernels may use.

    Returns:
        The share of samples whose largest output is that of their class.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is no classifier's `.tflite` file, or `data` does not fit
            it or has no labels.

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
    for inputs, y in read_batches(data, file.sample_shapes):
        count = count_samples(inputs)
        labels = _class_numbers(y, count, classes)
        # The runtime has no empty batch; data may.
        if count:
            outputs = file.run(inputs)[output_name]
            answers = outputs.argmax(axis=-1)
            right += int((answers == labels).sum())
        total += count
    check_not_empty(total, data)
    return right / total


def _classes(file: TfliteFile) -> tuple[str, int]:
    """Returns the name and the number of classes of a classifier's only output."""
    shapes = {port.name: port.shape for port in file.outputs}
    if len(shapes) != 1 or len(file.outputs[0].shape) != 2:
        raise ValueError(
            "Expected a file with one output of shape (batch, classes). Received: "
            f"path={file.path!r}, with outputs of shape {shapes}"
        )
    output = file.outputs[0]
    return output.name, output.shape[1]


def _class_numbers(y: Any, count: int, classes: int) -> np.ndarray:
    """Returns the class of each sample, `(count,)`, from numbers or one-hot rows."""
    labels = np.asarray(y)
    # With one class, `(count, 1)` holds class numbers, not one-hot rows.
    if labels.shape == (count, classes) and classes > 1:
        return labels.argmax(axis=-1)
    is_listed = labels.shape in ((count,), (count, 1))
    if not is_listed or labels.dtype.kind not in INTEGER_KINDS:
        raise ValueError(
            f"Expected `data` to give batches (x, y) with y the classes of {count} "
            f"samples, integers or one-hot. Received: y of shape {labels.shape} and "
            f"dtype {labels.dtype}"
        )
    return labels.reshape(count)
