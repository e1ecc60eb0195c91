import keras
import pytest
from applications import FAMILIES, MODELS, examine


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def forget_the_model():
    yield
    # It collects garbage too.
    keras.backend.clear_session()


FIRST_OF_FAMILIES = [family[0] for family in FAMILIES]
OTHERS = [name for name in MODELS if name not in FIRST_OF_FAMILIES]


@pytest.mark.parametrize("name", [*FIRST_OF_FAMILIES, *map(slow, OTHERS)])
def test_a_model_of_keras_applications_is_pruned_rebuilt_saved_and_converted(name):
    row = examine(name)
    assert row.passes, row


def test_these_are_all_models_of_keras_applications():
    constructors = {
        name
        for name in dir(keras.applications)
        if name[0].isupper() and callable(getattr(keras.applications, name))
    }
    assert {*MODELS} == constructors
