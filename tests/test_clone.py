"""Tests that a copied layer has all of the state of the old one, inside of it too."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import saved_by_keras_3_13

from keras_greedy.graph.clone import copied, remake
from keras_greedy.graph.state import copy_weights

RNG = np.random.default_rng(0)
ROWS = RNG.normal(5, 3, (32, 4)).astype("float32")


def adapted(cls=layers.Normalization, **settings):
    layer = cls(**settings)
    layer.adapt(ROWS)
    return layer


@keras.saving.register_keras_serializable("test_clone")
class Holder(layers.Layer):
    """Holds layers in an attribute, a list, a dict and a layer in one of these."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.Normalization()
        self.bins = layers.Discretization(num_bins=4)
        self.listed = [layers.Normalization(), layers.Dense(4)]
        self.named = {"norm": layers.TimeDistributed(layers.Normalization())}

    def build(self, shape):
        for layer in (self.norm, *self.listed):
            layer.build(shape)
        self.named["norm"].build((None, 1, shape[-1]))

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        y = self.norm(x) + ops.cast(self.bins(x), "float32")
        for layer in self.listed:
            y = layer(y)
        each = self.named["norm"](ops.expand_dims(x, 1))
        return y + ops.squeeze(each, 1)


@keras.saving.register_keras_serializable("test_clone")
class Noisy(layers.Layer):
    """Draws anew at each call, at inference too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator()

    def call(self, x):
        return x + keras.random.normal(ops.shape(x), seed=self.seed)


def assert_copied(layer, x):
    """Asserts that a remade layer computes the same, alone and in a copied model."""
    expected = ops.convert_to_numpy(layer(x))
    new = remake(layer)
    new.build(x.shape)
    copy_weights(layer, new)
    np.testing.assert_array_equal(ops.convert_to_numpy(new(x)), expected)
    inputs = keras.Input(x.shape[1:], dtype=x.dtype)
    model = copied(keras.Model(inputs, layer(inputs)))
    np.testing.assert_array_equal(ops.convert_to_numpy(model(x)), expected)


def in_sequential():
    return keras.Sequential([keras.Input((4,)), adapted(), layers.Dense(3)])


@pytest.mark.parametrize(
    "inner",
    [
        adapted,
        in_sequential,
        lambda: layers.TimeDistributed(adapted()),
        lambda: layers.TimeDistributed(layers.TimeDistributed(in_sequential())),
    ],
)
def test_wrapped_layer_keeps_what_it_has_adapted_to(inner):
    layer = inner()
    x = ROWS
    depth = 1
    while isinstance(layer, layers.TimeDistributed):
        depth += 1
        layer = layer.layer
    x = ROWS.reshape(*[2] * depth, -1, 4)
    assert_copied(layers.TimeDistributed(inner()), x)


def test_layers_in_lists_and_dicts_keep_their_state():
    holder = Holder()
    holder.bins.adapt(ROWS)
    holder(ROWS)
    holder.norm.adapt(ROWS)
    holder.listed[0].adapt(2 * ROWS)
    holder.named["norm"].layer.adapt(3 * ROWS)
    assert_copied(holder, ROWS)


def test_random_numbers_of_own_layer_go_on_where_they_were():
    layer = Noisy()
    layer(ROWS)
    new = remake(layer)
    new(ROWS)
    copy_weights(layer, new)
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (layer(ROWS), new(ROWS))))


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tables are TensorFlow's"
)
@pytest.mark.parametrize(
    "mode", ["int", "one_hot", pytest.param("tf_idf", marks=saved_by_keras_3_13)]
)
def test_words_that_a_table_has_learned_are_copied(mode):
    lookup = layers.StringLookup(output_mode=mode)
    lookup.adapt([["dog"], ["cat"], ["cat"], ["cow"]])
    inputs = keras.Input((1,), dtype="string")
    outputs = lookup(inputs)
    model = keras.Model(inputs, outputs)
    words = ops.convert_to_tensor([["cow"], ["cat"], ["hen"]])
    expected = ops.convert_to_numpy(model(words))
    np.testing.assert_array_equal(copied(model)(words), expected)


def test_layer_whose_config_forgets_its_layers_is_named():
    class Forgetful(layers.Layer):
        def __init__(self, inner=None, **kwargs):
            super().__init__(**kwargs)
            self.inner = inner

        def call(self, x):
            return x if self.inner is None else self.inner(x)

    layer = Forgetful(layers.Identity(), name="forgetful")
    with pytest.raises(ValueError, match=r"'forgetful'.*Identity.*none"):
        copy_weights(layer, Forgetful())
