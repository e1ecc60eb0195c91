"""Kernels rounded to 4 bits so that the output of their layer changes least."""

import itertools

import keras
import numpy as np
import pytest
from models import conv, head, image, norm, randomize
from scipy import linalg

import keras_greedy
from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.four_bits import four_bit_layers, measure_four_bits
from keras_greedy.selection.moments import observe
from keras_greedy.selection.rounding import LEVELS, HandingOn, in_four_bits, rounded

layers = keras.layers
FEATURES = 12


def correlated(seed, features=FEATURES):
    """The covariance of features that follow a few others."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(200, 3)) @ rng.normal(size=(3, features))
    rows += 0.1 * rng.normal(size=rows.shape)
    return np.cov(rows.T)


def weights(seed, shape=(FEATURES, 1, 5)):
    return np.random.default_rng(seed).normal(size=shape)


def error(covariance, difference):
    return np.einsum("fpo,fg,gpo->o", difference, covariance, difference)


def in_steps(new):
    """Weights in steps of their output, of which the largest one is 7."""
    return new / (np.abs(new).max(axis=(0, 1)) / LEVELS)


def test_all_weights_of_an_output_are_multiples_of_its_step():
    found = in_steps(rounded(weights(0), correlated(0)))
    np.testing.assert_allclose(found, np.rint(found), atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_output_changes_less_than_by_the_nearest_integers(seed):
    covariance, own = correlated(seed), weights(seed)
    step = np.abs(own).max(axis=(0, 1)) / LEVELS
    nearest = np.rint(own / step) * step
    left = error(covariance, own - rounded(own, covariance))
    before = error(covariance, own - nearest)
    assert (left <= before).all()
    assert left.sum() < 0.3 * before.sum()


def test_each_error_is_handed_on_as_least_squares_says():
    covariance, own, step = correlated(1), weights(1)[:, 0, 0], 0.2
    # Row by row, with the best weights of the others solved for each time.
    left = own.copy()
    order = np.argsort(-np.diag(covariance), kind="stable")
    expected = np.zeros(FEATURES)
    for place, row in enumerate(order):
        expected[row] = np.clip(np.rint(left[row] / step), -LEVELS, LEVELS)
        done, free = order[: place + 1], order[place + 1 :]
        missing = own[done] - expected[done] * step
        if len(free):
            across = covariance[np.ix_(free, done)] @ missing
            left[free] = own[free] + linalg.solve(
                covariance[np.ix_(free, free)], across
            )
    found = HandingOn(covariance).integers(own[:, None, None], np.array([step]))
    np.testing.assert_array_equal(found[:, 0, 0], expected)


def test_of_three_weights_it_is_close_to_the_best_of_all():
    covariance, own = correlated(2, 3), weights(2, (3, 1, 1))
    least = np.inf
    for levels in itertools.product(range(-LEVELS, LEVELS + 1), repeat=3):
        q = np.array(levels, float)
        if np.abs(q).max() == LEVELS:
            step = (q @ covariance @ own[:, 0, 0]) / (q @ covariance @ q)
            left = own - (step * q)[:, None, None]
            least = min(least, error(covariance, left).item())
    found = error(covariance, own - rounded(own, covariance)).item()
    assert least <= found < 3 * least


def test_outputs_of_zeros_stay_so():
    own = weights(0)
    own[..., 2] = 0
    found = rounded(own, correlated(0))
    assert not found[..., 2].any()
    assert found[..., 1].any()


def test_all_positions_before_a_flatten_have_one_step_per_output():
    found = in_steps(rounded(weights(0, (FEATURES, 4, 5)), correlated(0)))
    np.testing.assert_allclose(found, np.rint(found), atol=1e-9)


def model():
    x = picture = image(size=8)
    x = norm(conv(x, 8, name="first"), "relu")
    x = layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = norm(conv(x, 12, name="second"), "relu")
    full = keras.Model(picture, head(x))
    randomize(full)
    return full


@pytest.fixture(scope="module")
def full():
    return model()


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).normal(size=(64, 8, 8, 3)).astype("float32")


def test_only_layers_that_the_runtime_has_kernels_of_int4_for_are_chosen(full):
    head_name = full.layers[-1].name
    assert [*four_bit_layers(trace_quietly(full))] == ["second", head_name]


def test_the_divergence_is_that_of_the_network_with_one_kernel_rounded(full, pictures):
    graph = folded(trace_quietly(full))
    _, moments = observe(graph, [[pictures]])
    found = measure_four_bits(graph, moments, [[pictures]])
    consumer = four_bit_layers(graph)["second"]
    kernel, bias = in_four_bits(consumer, moments.scatters["second"])
    inference = graph.functional
    before = inference.predict(pictures, verbose=0)
    consumer.call.operation.kernel.assign(kernel)
    consumer.call.operation.bias.assign(bias)
    after = inference.predict(pictures, verbose=0)
    expected = (before * np.log(before / after)).sum(axis=-1).mean()
    assert found["second"] == pytest.approx(expected, rel=1e-3)
    assert expected > 0


def test_rounded_kernels_of_a_model_are_multiples_of_a_step(full, pictures):
    own = keras.models.clone_model(full)
    own.set_weights(full.get_weights())
    keras_greedy.round_kernels(own, pictures, ["second"])
    kernel = own.get_layer("second").kernel.numpy()
    steps = in_steps(kernel.reshape(-1, 1, kernel.shape[-1]))
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    first = own.get_layer("first").kernel.numpy()
    np.testing.assert_array_equal(first, full.get_layer("first").kernel.numpy())


def test_a_rounded_model_is_nearer_than_one_of_the_nearest_integers(full, pictures):
    expected = full.predict(pictures, verbose=0)

    def distance(change):
        own = keras.models.clone_model(full)
        own.set_weights(full.get_weights())
        change(own)
        return np.abs(own.predict(pictures, verbose=0) - expected).mean()

    def to_nearest(own):
        kernel = own.get_layer("second").kernel
        step = np.abs(kernel.numpy()).max(axis=(0, 1, 2)) / LEVELS
        kernel.assign(np.rint(kernel.numpy() / step) * step)

    near = distance(lambda own: keras_greedy.round_kernels(own, pictures, ["second"]))
    assert near < 0.8 * distance(to_nearest)


def test_statistics_stay_where_others_bring_the_outputs_no_closer(full, pictures):
    own = keras.models.clone_model(full)
    own.set_weights(full.get_weights())
    # Those of the model are random: measured anew, they change all outputs.
    keras_greedy.round_kernels(own, pictures, ["head"])
    for layer, other in zip(full.layers, own.layers, strict=True):
        if isinstance(layer, layers.BatchNormalization):
            np.testing.assert_array_equal(layer.moving_mean, other.moving_mean)


def test_a_layer_that_cannot_be_rounded_is_refused(full, pictures):
    with pytest.raises(ValueError, match="Received: 'depthwise'"):
        keras_greedy.round_kernels(full, pictures, ["depthwise"])
