"""How often a `.tflite` classifier is right."""

import numpy as np

from tflite_export.data import read_batches
from tflite_export.runtime import TfliteFile


def accuracy(path, data, threads=1):
    """Measures the top-1 accuracy of a `.tflite` file, quantized or not.

    The data are read batch by batch, all of them.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    images, labels = np.random.default_rng(0).random((20, 8)), np.arange(20) % 3
    assert 0 <= tflite_export.accuracy(path, (images, labels)) <= 1
    ```

    Args:
        path: the file, with one output of shape `(batch, classes)`.
        data: a tuple `(x, y)`, or an iterable of batches `(x, y)`: x as for `run`, y
            the classes, integers of shape `(n,)` or `(n, 1)`, or one-hot
            `(n, classes)`.
        threads: how many threads the kernels may use.

    Returns:
        The share of samples whose largest output is that of their class.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no classifier's `.tflite` file, or `data` does not fit it
            or has no labels.
    """
    file = TfliteFile(path, threads)
    name, classes = _classes(file)
    right = total = 0
    for inputs, labels in read_batches(data, file.sample_shapes):
        count = len(next(iter(inputs.values())))
        labels = _class_numbers(labels, count, classes)
        if count:
            right += int((file.run(inputs)[name].argmax(axis=-1) == labels).sum())
        total += count
    if not total:
        raise ValueError(f"Expected `data` to hold samples. Received: data={data!r}")
    return right / total


def _classes(file):
    shapes = {port.name: port.shape for port in file.outputs}
    if len(shapes) != 1 or len(file.outputs[0].shape) != 2:
        raise ValueError(
            "Expected a file with one output of shape (batch, classes). Received: "
            f"path={file.path!r}, with outputs of shape {shapes}"
        )
    return file.outputs[0].name, file.outputs[0].shape[1]


def _class_numbers(labels, count, classes):
    labels = np.asarray(labels)
    if labels.shape == (count, classes) and classes > 1:
        return labels.argmax(axis=-1)
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected `data` to give batches (x, y) with y the classes of {count} "
            f"samples, integers or one-hot. Received: y of shape {labels.shape} and "
            f"dtype {labels.dtype}"
        )
    return labels.reshape(count)
