"""Examples by the word for them that a command line is given."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_greedy.datasets.arrays import from_arrays
from keras_greedy.datasets.examples import Examples
from keras_greedy.datasets.folder import from_folder
from keras_greedy.datasets.handwritten import digits
from keras_greedy.datasets.named import from_tfds
from keras_greedy.datasets.pictures import Size
from keras_greedy.datasets.preprocessing import FAMILIES, PREPROCESSINGS, preprocess
from tflite_export.checks import check_choice

DIGITS = "digits"
TFDS = "tfds"
TRAIN = "train"
TEST = "test"
FILES = (".npy", ".npz")
# Height, width and channels.
PICTURE_AXES = 3


def load(
    source: str | Path,
    shapes: Mapping[str, tuple[int | None, ...]],
    preprocessing: str | None = None,
    count: int | None = None,
    skip: int = 0,
    seed: int = 0,
) -> Examples:
    """Reads the examples of any source, as a model takes them.

    | `source` | examples |
    |---|---|
    | `"digits"`, `"digits:test"` | `digits`, in the size of the model, from 0 to 1 |
    | `"tfds:NAME"`, `"tfds:NAME:SPLIT"` | `from_tfds` |
    | a file ending in `.npy` or `.npz` | `from_arrays`, as the model takes them |
    | a folder | `from_folder` |

    Args:
        source: See the table.
        shapes: Name of an input of the model -> the shape of one example.
        preprocessing: As for `preprocess`; pictures of folders and of tfds need it.
        count: Most examples to read; by default all.
        skip: The number of examples to leave out before.
        seed: Of the order of the files of a folder.

    Returns:
        The `Examples`; there may be none left behind `skip`.

    Raises:
        FileNotFoundError: When there is no such file or folder.
        ImportError: When a package is missing; says how to install it.
        ValueError: When an argument is not as described, or the examples do not fit.

    Example:

    ```python
    from keras_greedy.datasets import load

    examples = load("digits", {"image": (16, 16, 1)}, count=100)
    assert examples.x.shape == (100, 16, 16, 1)
    ```
    """
    source = str(source)
    kind, _, rest = source.partition(":")
    stop = None if count is None else skip + count
    if kind == DIGITS and rest in ("", TRAIN, TEST):
        return _digits(rest or TRAIN, shapes).part(skip, stop)
    if Path(source).suffix in FILES:
        examples = from_arrays(source, shapes).part(skip, stop)
        if preprocessing is None:
            return examples
        return examples.map_inputs(lambda x: preprocess(x, preprocessing))
    if kind == TFDS and rest:
        name, _, split = rest.partition(":")
        size, channels = _picture_of(shapes)
        told = _told(preprocessing)
        found = from_tfds(name, split or TRAIN, size, channels, count, skip)
    elif Path(source).is_dir():
        size, channels = _picture_of(shapes)
        told = _told(preprocessing)
        found = from_folder(source, size, channels, count, skip, seed)
    else:
        raise FileNotFoundError(
            "Expected `source` to be a folder of pictures, an .npz or .npy file, "
            "tfds:NAME, tfds:NAME:SPLIT or digits. Received: "
            f"source={source!r}, which does not exist"
        )
    return found.map_inputs(lambda x: preprocess(x, told))


def _digits(split: str, shapes: Mapping[str, tuple[int | None, ...]]) -> Examples:
    (height, width), channels = _picture_of(shapes)
    if height != width:
        raise ValueError(
            "Expected a model of square pictures for the digits. Received: one of "
            f"{height} x {width}"
        )
    train, test = digits(height)
    x, y = train if split == TRAIN else test
    return Examples(np.repeat(x, channels, axis=-1), y)


def _picture_of(shapes: Mapping[str, tuple[int | None, ...]]) -> tuple[Size, int]:
    """Returns the size and the channels of the pictures that a model takes."""
    shape = next(iter(shapes.values())) if len(shapes) == 1 else ()
    if len(shape) != PICTURE_AXES or None in shape:
        raise ValueError(
            "Expected a model with one input of pictures, of shape (height, width, "
            f"channels), all known. Received: inputs of shape {dict(shapes)}. Give the "
            "examples as the model takes them, in an .npz file"
        )
    height, width, channels = (int(size or 0) for size in shape)
    return (height, width), channels


def _told(preprocessing: str | None) -> str:
    if preprocessing is None:
        families = ", ".join(FAMILIES)
        raise ValueError(
            "Expected `preprocessing` to say how pictures are scaled for the model, "
            "which does not tell itself: 'none' leaves them from 0 to 255, 'unit' "
            f"makes them 0 to 1, others are of keras.applications: {families}. "
            "Received: preprocessing=None"
        )
    check_choice("preprocessing", preprocessing, PREPROCESSINGS)
    return preprocessing
