import keras
import models
import numpy as np
import pytest
from applications import counted_macs, counted_params
from keras import layers
from models import (
    TOPOLOGIES,
    UNPRUNABLE,
    conv,
    head,
    image,
    inputs_of,
    random_selection,
)

import keras_greedy
from keras_greedy.graph.costs import Costs, count_params, macs
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace, trace_quietly


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_predicted_costs_are_those_of_the_rebuilt_model(name, share):
    graph = trace(models.shared(name))
    selection = random_selection(graph, share)
    widths = {name: len(kept) for name, kept in selection.items()}
    compact, costs = rebuild(graph, selection), Costs(graph)
    assert (
        costs.macs(widths)
        == counted_macs(compact, inputs_of(compact, 1))
        == macs(compact)
    )
    assert costs.params(widths) == counted_params(compact) == count_params(compact)


@pytest.mark.parametrize("name", UNPRUNABLE)
def test_costs_are_predicted_around_layers_that_cannot_be_pruned(name):
    graph = trace_quietly(models.shared(name))
    selection = random_selection(graph)
    widths = {name: len(kept) for name, kept in selection.items()}
    compact, costs = rebuild(graph, selection), Costs(graph)
    assert costs.macs(widths) == macs(compact) < costs.macs()
    assert costs.params(widths) == counted_params(compact) < costs.params()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_without_widths_the_costs_are_those_of_the_model(name):
    model = models.shared(name)
    costs = Costs(trace(model))
    assert (
        costs.macs()
        == costs.macs({})
        == counted_macs(model, inputs_of(model, 1))
        == macs(model)
    )
    assert costs.params() == costs.params({}) == counted_params(model)


def test_an_array_of_widths_gives_an_array_of_costs():
    costs = Costs(trace(models.inverted_residuals()))
    tried = np.array([1, 4, 9])
    for cost in (costs.macs, costs.params):
        together = cost({"expand_1": tried, "stem": 3})
        alone = [cost({"expand_1": int(n), "stem": 3}) for n in tried]
        assert together.tolist() == alone
        assert all(isinstance(value, int) for value in alone)


def test_macs_of_known_models():
    build = keras.applications.MobileNetV2
    assert keras_greedy.macs(build(weights=None)) == 300_774_272
    build = keras.applications.MobileNet
    assert keras_greedy.macs(build(weights=None)) == 568_740_352


def test_params_are_what_keras_counts():
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(32, 32, 3))
    assert Costs(trace(model)).params() == model.count_params()
    assert keras_greedy.count_params(model) == model.count_params()


def test_every_kind_of_convolution_counts():
    x = picture = image()
    x = layers.SeparableConv2D(8, 3, strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, padding="same")(x)
    x = conv(x, 8, groups=2)
    x = layers.Conv1D(5, 3, padding="same")(layers.Reshape((256, 8))(x))
    x = layers.Conv3D(2, 3, padding="same")(layers.Reshape((16, 4, 4, 5))(x))
    model = keras.Model(picture, x)
    separable = 64 * (9 * 3 + 3 * 8)
    transposed, grouped = 64 * 9 * 8 * 4, 256 * 9 * 2 * 8
    sequence, volume = 256 * 3 * 8 * 5, 256 * 27 * 5 * 2
    assert macs(model) == separable + transposed + grouped + sequence + volume


def test_channels_first_convolutions_count_at_every_position():
    picture = keras.Input((3, 16, 12))
    x = layers.Conv2D(8, 3, padding="same", data_format="channels_first")(picture)
    assert macs(keras.Model(picture, x)) == 16 * 12 * 9 * 3 * 8


def test_a_shared_layer_costs_macs_at_every_call_and_parameters_once():
    model = models.shared_convolution()
    costs = Costs(trace(model))
    once = 256 * 9 * 8 * 8
    assert costs.macs() == 256 * 9 * (3 * 8 + 8 * 6) + 2 * once + 6 * 5
    assert costs.params() == model.count_params()


def test_the_macs_of_a_model_inside_the_model_count():
    inner = keras.Sequential([image(8), layers.Conv2D(7, 3)])
    model = models.around(inner)
    outer = 256 * 9 * 3 * 8 + 196 * 9 * 7 * 6 + 6 * 5
    assert macs(model) == outer + 196 * 9 * 8 * 7


def test_macs_warn_of_nothing():
    macs(UNPRUNABLE["custom_layer"][0]())


def test_macs_need_a_fixed_input_size():
    picture = keras.Input((None, None, 3))
    model = keras.Model(picture, head(conv(picture, 8, name="a")))
    with pytest.raises(ValueError, match=r"a fixed input size.*Received: layer 'a' on"):
        macs(model)


@pytest.mark.parametrize("model", [None, models.Channels(), keras.Sequential()])
def test_macs_need_a_model_with_a_graph(model):
    with pytest.raises(ValueError, match="Expected `model` to be"):
        macs(model)


def test_parameters_are_those_of_a_model():
    with pytest.raises(ValueError, match="Expected `model` to be"):
        count_params(None)
