import keras
import numpy as np
import pytest
from keras import layers
from models import TOPOLOGIES, image, inputs_of, randomize

import keras_greedy
from keras_greedy.graph.rules import RULES
from keras_greedy.testing import assert_compact_equals_gated


class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


class ScaleOfEnds(Scale):
    """Reads the channels at both ends for each of them."""

    def call(self, x):
        return x * self.factor + x[..., :1] - x[..., -1:]


class ScaleRule(keras_greedy.Rule):
    weight_axes = {"factor": (keras_greedy.OUT,)}


class ForgetfulRule(keras_greedy.Rule):
    """Says that the factor stays as long as it was."""

    weight_axes = {"factor": (None,)}


@pytest.fixture
def rules(monkeypatch):
    """Rules registered in the test are gone after it."""
    for key in (Scale, ScaleOfEnds):
        monkeypatch.setitem(RULES, key, None)
    return RULES


def scaled(layer):
    x = layers.Conv2D(8, 3, name="a", activation="relu")(picture := image(size=8))
    x = layers.GlobalAveragePooling2D()(layer(x))
    return randomize(keras.Model(picture, layers.Dense(3)(x)))


@pytest.mark.parametrize("name", ["inverted_residuals", "layer_normalized", "siamese"])
def test_a_model_that_is_pruned_right_passes_and_comes_back_compact(name):
    model = randomize(TOPOLOGIES[name]())
    compact = assert_compact_equals_gated(model, inputs_of(model))
    assert keras_greedy.macs(compact) < keras_greedy.macs(model)


def test_a_right_rule_passes(rules):
    keras_greedy.register_rule(Scale)(ScaleRule)
    model = scaled(Scale())
    compact = assert_compact_equals_gated(model, inputs_of(model), share=0.3)
    assert compact.get_layer("a").filters == round(0.3 * 8)


def test_a_rule_for_a_layer_that_mixes_channels_is_found_out(rules):
    keras_greedy.register_rule(ScaleOfEnds)(ScaleRule)
    model = scaled(ScaleOfEnds())
    with pytest.raises(
        AssertionError, match=r"Groups that differ when cut alone: .*'a'"
    ):
        assert_compact_equals_gated(model, inputs_of(model))


def test_a_rule_that_forgets_a_weight_is_found_out(rules):
    keras_greedy.register_rule(Scale)(ForgetfulRule)
    model = scaled(Scale())
    with pytest.raises((AssertionError, ValueError)):
        assert_compact_equals_gated(model, inputs_of(model))


def test_a_model_without_groups_is_an_error_that_says_why():
    model = randomize(keras.Sequential([keras.Input((4,)), layers.Dense(3)]))
    with pytest.raises(ValueError, match="channels that can be pruned"):
        assert_compact_equals_gated(model, inputs_of(model))


@pytest.mark.parametrize("share", [0, -0.5, 1.5, "half", None, True])
def test_shares_that_are_none_are_refused(share):
    model = randomize(TOPOLOGIES["sequential"]())
    with pytest.raises(ValueError, match="Expected `share`"):
        assert_compact_equals_gated(model, inputs_of(model), share=share)


def test_nan_is_a_difference(rules):
    keras_greedy.register_rule(Scale)(ScaleRule)
    model = scaled(Scale())
    x = inputs_of(model)
    model.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    with pytest.raises(AssertionError, match="differ by inf"):
        assert_compact_equals_gated(model, x)
