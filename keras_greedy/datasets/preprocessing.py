"""The numbers that a model takes for the pixels of pictures."""

import importlib

import keras
import numpy as np

from tflite_export.checks import check_choice

NONE = "none"
UNIT = "unit"
BRIGHTEST = 255

FAMILIES = (
    "convnext",
    "densenet",
    "efficientnet",
    "efficientnet_v2",
    "inception_resnet_v2",
    "inception_v3",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v3",
    "nasnet",
    "resnet",
    "resnet_v2",
    "vgg16",
    "vgg19",
    "xception",
)
"""The modules of `keras.applications` that have a `preprocess_input`."""

PREPROCESSINGS = (NONE, UNIT, *FAMILIES)

# The names that `keras.applications` gives to models, as far as one family has them.
NAMES = {
    "densenet": "densenet",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "mobilenet_": "mobilenet",
    "mobilenetv2_": "mobilenet_v2",
    "nasnet": "nasnet",
    "resnet50v2": "resnet_v2",
    "resnet101v2": "resnet_v2",
    "resnet152v2": "resnet_v2",
    "resnet50": "resnet",
    "resnet101": "resnet",
    "resnet152": "resnet",
    "vgg16": "vgg16",
    "vgg19": "vgg19",
    "xception": "xception",
}


def preprocess(images: np.ndarray, preprocessing: str = NONE) -> np.ndarray:
    """Returns pictures as the models of a family take them.

    Args:
        images: `(n, height, width, channels)`, numbers from 0 to 255; not changed.
        preprocessing: A module of `keras.applications`, as `"mobilenet_v2"`, for its
            `preprocess_input`; `"unit"` for numbers from 0 to 1; `"none"` for those
            from 0 to 255, for models that scale them themselves.

    Returns:
        The same pictures in float32.

    Raises:
        ValueError: When `preprocessing` is none of these.

    Example:

    ```python
    import numpy as np
    from keras_greedy.datasets import preprocess

    white = np.full((1, 8, 8, 3), 255, "uint8")
    assert preprocess(white, "mobilenet_v2").max() == 1
    ```
    """
    check_choice("preprocessing", preprocessing, PREPROCESSINGS)
    numbers = np.array(images, "float32")
    if preprocessing == NONE:
        return numbers
    if preprocessing == UNIT:
        return numbers / BRIGHTEST
    family = importlib.import_module(f"keras.applications.{preprocessing}")
    return np.asarray(family.preprocess_input(numbers, data_format="channels_last"))


def guess_preprocessing(model: keras.Model) -> str | None:
    """Returns the preprocessing of a model's pictures, where the model tells it.

    It tells by a `Rescaling` or `Normalization` right behind its input, and by the name
    that `keras.applications` gave it. The models of that name which scale by themselves
    have such a layer.

    Args:
        model: The model.

    Returns:
        A value for `preprocess`, or `None` where nothing tells.

    Example:

    ```python
    import keras
    from keras_greedy.datasets import guess_preprocessing

    model = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None)
    assert guess_preprocessing(model) == "mobilenet_v2"
    ```
    """
    scalings = (keras.layers.Rescaling, keras.layers.Normalization)
    for layer in model.layers:
        if isinstance(layer, scalings):
            return NONE
        if not isinstance(layer, keras.layers.InputLayer):
            break
    for beginning, family in NAMES.items():
        if model.name.startswith(beginning):
            return family
    return None
