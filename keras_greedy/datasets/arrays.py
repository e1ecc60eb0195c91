"""Examples in files of arrays."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from keras_greedy.datasets.examples import Examples, Inputs
from tflite_export.checks import check_file
from tflite_export.files import misread, read_arrays

WRITER = "`numpy.savez`"
X = "x"
Y = "y"


def from_arrays(path: str | Path, input_names: Collection[str] = ()) -> Examples:
    """Reads the examples of an `.npy` or `.npz` file.

    An `.npy` file is the inputs. An `.npz` file has them as `x`, or, for several
    inputs, by their names in the model, and may have labels as `y`. Nothing is
    unpickled.

    Args:
        path: The file.
        input_names: The names of the model's inputs.

    Returns:
        The `Examples`, as they are in the file.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is another one, or damaged.

    Example:

    ```python
    import numpy as np
    from keras_greedy.datasets import from_arrays

    np.savez("examples.npz", x=np.zeros((10, 8)), y=np.arange(10))
    examples = from_arrays("examples.npz")
    assert len(examples) == 10 and examples.y is not None
    ```
    """
    path = check_file(path, "an existing .npy or .npz file")
    if path.suffix == ".npy":
        return Examples(_array_of(path))
    arrays = read_arrays(path, WRITER)
    y = arrays.pop(Y, None)
    examples = Examples(_inputs_of(path, arrays, input_names), y)
    counts = {np.shape(array)[:1] for array in arrays.values()}
    if y is not None:
        counts.add(np.shape(y)[:1])
    if len(counts) > 1 or () in counts or (0,) in counts:
        raise misread(path, WRITER, "its arrays are not of as many examples, or of 0")
    return examples


def _array_of(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    # NumPy's own text for a file that is none advises to unpickle.
    except (ValueError, EOFError):
        raise misread(path, "`numpy.save`", "it is no array of numbers") from None
    if not array.ndim or not len(array):
        raise misread(path, "`numpy.save`", "it has no examples")
    return array


def _inputs_of(
    path: Path,
    arrays: dict[str, np.ndarray],
    names: Collection[str],
) -> Inputs:
    if [*arrays] == [X]:
        return arrays[X]
    if arrays and set(arrays) == set(names):
        return arrays
    raise ValueError(
        f"Expected `path` to be a file of arrays `{X}` and `{Y}`"
        + (f", or by the names of the model's inputs, {[*names]}" if names else "")
        + f". Received: path={str(path)!r}, with {[*arrays]}"
    )
