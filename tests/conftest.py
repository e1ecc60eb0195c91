import keras
import pytest


@pytest.fixture
def half_precision():
    """Layers built in the test compute in float16."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)
