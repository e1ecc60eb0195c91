"""Real data that are there after the install, without a download."""

import numpy as np
from scipy import ndimage

TEST_IMAGES = 360


def digits(size: int = 32):
    """Handwritten digits: 1,437 to train on and 360 to test, always the same ones.

    They are the test set of the UCI handwritten digits (Alpaydin and Kaynak, 1998),
    which comes with scikit-learn, enlarged from 8x8 pixels by linear interpolation.

    Args:
        size: Height and width of the images, at least 8.

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
    if not isinstance(size, int) or size < 8:
        raise ValueError(
            f"Expected `size` to be an integer of at least 8. Received: size={size!r}"
        )
    images, labels = _load()
    images = ndimage.zoom(
        images / 16, (1, size / 8, size / 8), order=1, mode="nearest", grid_mode=True
    )
    images = images[..., None].astype("float32")
    order = np.random.default_rng(0).permutation(len(images))
    test, train = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return (images[train], labels[train]), (images[test], labels[test])


def _load():
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed: "
            "pip install 'keras_greedy[datasets]'"
        ) from error
    bunch = load_digits()
    return bunch.images, bunch.target
