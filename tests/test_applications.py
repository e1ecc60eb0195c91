import gc

import keras
import pytest
from applications import MODELS, examine

ONE_PER_FAMILY = [
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "Xception",
]


def slow(names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(autouse=True)
def forget_the_model():
    yield
    keras.backend.clear_session()
    gc.collect()


OTHERS = [name for name in MODELS.split() if name not in ONE_PER_FAMILY]


@pytest.mark.parametrize("name", [*ONE_PER_FAMILY, *slow(OTHERS)])
def test_a_model_of_keras_applications_is_pruned_rebuilt_saved_and_converted(name):
    row = examine(name)
    assert row.passes, row


def test_these_are_all_models_of_keras_applications():
    constructors = {
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    }
    assert {*MODELS.split()} == constructors
