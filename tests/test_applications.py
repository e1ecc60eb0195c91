"""Every model of keras.applications, and of other kinds: some in the fast tests."""

import keras
import pytest
from applications import FAMILIES, MODELS, examine
from keras.src.applications.densenet import DenseNet
from keras.src.applications.nasnet import NASNet
from kinds import KINDS


@pytest.fixture(autouse=True)
def forget_the_model():
    yield
    # It collects garbage too.
    keras.backend.clear_session()


def shallow_nasnet(**options):
    """NASNetMobile with one normal cell between its reductions instead of four."""
    return NASNet(
        penultimate_filters=1056,
        num_blocks=1,
        stem_block_filters=32,
        skip_reduction=False,
        filter_multiplier=2,
        default_size=224,
        **options,
    )


def shallow_densenet(**options):
    """DenseNet121 with fewer layers in each of its four blocks."""
    return DenseNet([2, 3, 3, 2], **options)


# The first of these families take as long as many others together. The fast tests have
# networks of the same layers and joins, of which there are fewer in a row.
SHALLOW = {"DenseNet121": shallow_densenet, "NASNetMobile": shallow_nasnet}
# What these are made of is in the others, and in the topologies of `models`.
LIKE_OTHERS = {"EfficientNetV2B0", "InceptionV3", "ResNet50"}
FAST = {family[0] for family in FAMILIES} - SHALLOW.keys() - LIKE_OTHERS
FAST |= {"YOLO's C2f", "decoder"}


def case(name):
    marks = [] if name in FAST else [pytest.mark.slow]
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [case(name) for name in (*MODELS, *KINDS)])
def test_a_model_is_pruned_rebuilt_saved_and_converted(name):
    row = examine(name)
    assert row.passes, row


@pytest.mark.parametrize("name", SHALLOW)
def test_a_shallow_model_of_a_deep_family_is_too(name, monkeypatch):
    monkeypatch.setattr(keras.applications, name, SHALLOW[name])
    row = examine(name)
    assert row.passes, row


def test_these_are_all_models_of_keras_applications():
    constructors = {
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    }
    assert {*MODELS} == constructors
