"""Real data that are there after the install, without a download."""

from typing import TypeAlias

import numpy as np
from scipy import ndimage

from tflite_export.checks import check_count

# Images `(n, size, size, 1)` and their labels `(n,)`.
Labelled: TypeAlias = tuple[np.ndarray, np.ndarray]

TEST_IMAGES = 360
# Of the images as scikit-learn has them.
OWN_SIZE = 8
BRIGHTEST = 16
SPLIT_SEED = 0


def digits(size: int = 32) -> tuple[Labelled, Labelled]:
    """Returns handwritten digits: 1,437 to train on and 360 to test, always the same.

    They are the test set of the UCI handwritten digits (Alpaydin and Kaynak, 1998),
    which comes with scikit-learn, enlarged from 8x8 pixels by linear interpolation.

    Args:
        size: Height and width of the images in pixels, at least 8.

    Returns:
        `(x_train, y_train), (x_test, y_test)`: images `(n, size, size, 1)`, float32
        from 0 to 1, and labels `(n,)`, integers from 0 to 9.

    Raises:
        ImportError: When scikit-learn is not installed; says how to install it.
        ValueError: When `size` is no integer of at least 8.

    Example:

    ```python
    from keras_greedy.datasets import digits

    (x_train, y_train), (x_test, y_test) = digits(32)
    ```
    """
    size = check_count("size", size, minimum=OWN_SIZE)
    small, labels = _load()
    factor = size / OWN_SIZE
    images = ndimage.zoom(
        small / BRIGHTEST,
        (1, factor, factor),
        order=1,
        mode="nearest",
        # Pixels are areas: by their centres, those at the border would get less room.
        grid_mode=True,
    )
    images = images[..., None].astype("float32")
    # The order of the file is not random: its digits come in sequences, 0 to 9.
    order = np.random.default_rng(SPLIT_SEED).permutation(len(images))
    test = order[:TEST_IMAGES]
    train = order[TEST_IMAGES:]
    return (images[train], labels[train]), (images[test], labels[test])


def _load() -> Labelled:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed: "
            "pip install 'keras_greedy[datasets]'"
        ) from error
    bunch = load_digits()
    return bunch.images, bunch.target
