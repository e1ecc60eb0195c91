"""The divergence of cuts to second order, against the one that is measured."""

import keras
import numpy as np
import pytest
from keras import layers
from models import TOPOLOGIES, conv, image, inputs_of, norm, randomize

import keras_greedy
from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import trace
from keras_greedy.selection import expanded
from keras_greedy.selection.expanded import ExpandedMeasurement
from keras_greedy.selection.measured import Measurement
from keras_greedy.selection.moments import observe
from keras_greedy.selection.reconstruction import least_squares


def classifier():
    x = picture = image(size=8)
    x = norm(conv(x, 16, name="a"), "relu")
    x = norm(conv(x, 16, name="b"), "relu")
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(picture, layers.Dense(5, activation="softmax")(x)))


def linear_behind():
    """Returns a network of one real output that is linear behind its only group."""
    x = vector = keras.Input((6,))
    x = layers.Dense(12, activation="relu", name="a")(x)
    x = layers.Dense(4)(x)
    return randomize(keras.Model(vector, layers.Dense(1)(x)))


def divergences(model, data, widths):
    """Returns the expanded and the measured divergences of a model's cuts."""
    paths = keras_greedy.search(model, data, verbose=0)
    graph = folded(trace(model))
    _, moments = observe(graph, [[data]])
    own = {name: np.array(widths) for name in paths.paths if name in ("a", "b")}
    given = (graph, moments, least_squares)
    found = ExpandedMeasurement(*given, seed=0).at(own, paths.paths, [[data]])
    right = Measurement(*given).at(own, paths.paths, [[data]])
    return {name: (found[name].values, right[name].values) for name in own}


def test_small_cuts_diverge_as_they_are_measured(monkeypatch):
    monkeypatch.setattr(expanded, "DRAWS", 64)
    model = classifier()
    found = divergences(model, inputs_of(model, 64), [13, 14, 15])
    for values, right in found.values():
        small = right < 0.03
        assert small.any()
        ratio = values[small] / right[small]
        assert (abs(np.log(ratio)) < 0.35).all(), ratio


def test_a_quadratic_divergence_is_exact():
    model = linear_behind()
    # More than fit at once: real outputs go by the variance of the whole batch.
    data = inputs_of(model, 3 * expanded.EXAMPLES_AT_ONCE + 2)
    ((values, right),) = divergences(model, data, [2, 5, 9]).values()
    assert right.min() > 5e-5
    np.testing.assert_allclose(values, right, rtol=1e-3)


def test_few_cuts_at_once_diverge_as_all_of_them(monkeypatch):
    model = classifier()
    data = inputs_of(model, 20)
    together = divergences(model, data, [8, 12])
    monkeypatch.setattr(expanded, "BYTES_OF_CUTS", 1)
    for name, (values, _) in divergences(model, data, [8, 12]).items():
        np.testing.assert_allclose(values, together[name][0], rtol=1e-5)


def test_what_is_normalised_over_the_channels_is_measured():
    x = picture = image(size=8)
    x = layers.LayerNormalization()(conv(x, 16, name="a"))
    x = layers.GlobalAveragePooling2D()(conv(layers.ReLU()(x), 8, name="c"))
    model = randomize(keras.Model(picture, layers.Dense(3, activation="softmax")(x)))
    values, right = divergences(model, inputs_of(model, 16), [8, 12])["a"]
    np.testing.assert_array_equal(values, right)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_topology_is_searched_to_second_order(name):
    keras.utils.set_random_seed(0)
    model = TOPOLOGIES[name]()
    method = keras_greedy.Imitation(divergence="expanded")
    paths = keras_greedy.search(model, inputs_of(model), method=method, verbose=0)
    for own in paths.divergence.values():
        assert np.isfinite(own.values).all()
        assert (own.values >= 0).all()


def test_a_divergence_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"`divergence`.*Received: .*guessed"):
        keras_greedy.Imitation(divergence="guessed")
