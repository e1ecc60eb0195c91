"""For all tests."""

import gc

import keras
import models
import pytest
import tensorflow as tf


def pytest_configure(config):
    """Lets the fast tests run graphs as they are traced.

    They run a few times each: to optimize them takes longer. With the slow tests all is
    as users have it.
    """
    if config.option.markexpr == "not slow":
        options = {"disable_meta_optimizer": True}
        tf.config.optimizer.set_experimental_options(options)


def pytest_collection_finish():
    """Lets Python look for garbage among what the tests make alone.

    The million objects that TensorFlow and the tests are made of stay to the end; to
    look through them again and again would take a third of the time.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def shared_models_stay_as_they_were():
    yield
    for name, state in models.STATES.items():
        models.assert_state(models.shared(name), state)


@pytest.fixture
def half_precision():
    """Layers built in the test compute in float16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)
