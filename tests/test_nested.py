"""The weights of nested cuts are those of each cut alone."""

import keras
import numpy as np
import pytest
from keras import layers
from models import conv, image, randomize

from keras_greedy.graph.trace import trace
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Scatter
from keras_greedy.selection.nested import reconstructions
from keras_greedy.selection.reconstruction import least_squares, rescaled


def consumer_of(build):
    """Returns the consumer of a layer of 24 channels named `reader`."""
    x = picture = image(size=6)
    x = build(conv(x, 24, name="made"))
    model = randomize(keras.Model(picture, layers.GlobalAveragePooling2D()(x)))
    return consumers_of(trace(model))["reader"]


def scatter_for(consumer):
    rng = np.random.default_rng(0)
    features = len(consumer.features)
    mixed = rng.normal(size=(300, features)) @ rng.normal(size=(features, features))
    centred = mixed - mixed.mean(axis=0)
    means = rng.normal(size=(consumer.folds, features))
    return Scatter(300, means, centred.T @ centred)


def scales_of(consumer, *widths):
    """Returns the scales of cuts to the first channels of a random order."""
    order = np.random.default_rng(1).permutation(24)
    scales = []
    for width in widths:
        of_channels = np.isin(np.arange(24), order[:width]).astype(float)
        scales.append(of_channels[consumer.features % 24])
    return scales


READERS = {
    "a 1x1 convolution": lambda x: conv(x, 5, 1, "reader"),
    "a 3x3 convolution": lambda x: conv(x, 5, 3, "reader"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("reconstruct", [least_squares, rescaled])
@pytest.mark.parametrize("widths", [(4, 8, 16), (16, 8, 4), (3, 23, 24, 0, 9), (8, 8)])
def test_nested_cuts_have_the_weights_of_each_cut_alone(reader, reconstruct, widths):
    consumer = consumer_of(READERS[reader])
    scatter = scatter_for(consumer)
    scales = scales_of(consumer, *widths)
    found = list(reconstructions(reconstruct, consumer, scatter, scales))
    assert len(found) == len(scales)
    for (kernel, bias), scale in zip(found, scales, strict=True):
        right_kernel, right_bias = reconstruct(consumer, scatter, scale)
        np.testing.assert_allclose(kernel, right_kernel, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(bias, right_bias, rtol=1e-8, atol=1e-10)


def test_cuts_that_are_not_nested_have_their_own_weights():
    consumer = consumer_of(READERS["a 1x1 convolution"])
    scatter = scatter_for(consumer)
    (first,) = scales_of(consumer, 12)
    scales = [first, 1 - first]
    found = reconstructions(least_squares, consumer, scatter, scales)
    for (kernel, _), scale in zip(found, scales, strict=True):
        right, _ = least_squares(consumer, scatter, scale)
        np.testing.assert_array_equal(kernel, right)


def test_features_that_no_width_keeps_lie_in_no_order():
    consumer = consumer_of(READERS["a 3x3 convolution"])
    scatter = scatter_for(consumer)
    scales = scales_of(consumer, 6, 12)
    for kernel, _ in reconstructions(least_squares, consumer, scatter, scales):
        gone = scales[1] == 0
        assert not consumer.to_matrix(kernel)[gone].any()
