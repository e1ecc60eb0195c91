"""Layers made anew begin with zeros, and keep what they would have drawn from."""

import keras
import numpy as np
import pytest
from keras import layers
from models import TOPOLOGIES

from keras_greedy.graph.clone import copied
from keras_greedy.graph.remake import made_anew


def test_a_layer_made_anew_draws_no_numbers():
    layer = layers.Conv2D(4, 3, bias_initializer="ones")
    layer.build((None, 8, 8, 3))
    new = made_anew(layer)
    new(np.ones((1, 8, 8, 3), "float32"))
    kernel, bias = new.weights
    assert not np.any(keras.ops.convert_to_numpy(kernel))
    # What is not drawn is as it would be.
    assert np.all(keras.ops.convert_to_numpy(bias) == 1)


def test_a_layer_made_anew_keeps_its_initializers():
    layer = layers.Dense(4, kernel_initializer="orthogonal", name="own")
    layer.build((None, 3))
    new = made_anew(layer)
    new.build((None, 3))
    assert isinstance(new.kernel_initializer, keras.initializers.Orthogonal)
    assert new.get_config() == layer.get_config()
    again = type(new).from_config(new.get_config())
    again.build((None, 3))
    assert np.any(keras.ops.convert_to_numpy(again.kernel))


def test_a_layer_that_cannot_be_built_keeps_its_initializers_too():
    layer = layers.Dense(4)
    layer.build((None, 3))
    new = made_anew(layer)
    with pytest.raises(ValueError):
        new(np.ones(3, "float32")[0])
    assert isinstance(new.kernel_initializer, keras.initializers.GlorotUniform)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_no_weight_of_a_copy_is_left_at_zero(name):
    model = TOPOLOGIES[name]()
    for weight, copy in zip(model.weights, copied(model).weights, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(copy), keras.ops.convert_to_numpy(weight)
        )
