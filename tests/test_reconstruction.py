import keras
import numpy as np
import pytest
from keras import layers
from models import conv, head, image, inputs_of, outputs_of, randomize

import keras_greedy
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Scatter, observe
from keras_greedy.selection.reconstruction import MANY_GROUPS, least_squares


def read_by_conv():
    x = conv(picture := image(size=5), 6, name="a", activation="relu")
    return keras.Model(picture, head(conv(x, 4, (2, 3), name="b")))


def read_by_dense():
    x = layers.Dense(9, activation="relu", name="a")(vector := keras.Input((4,)))
    return keras.Model(vector, layers.Dense(5, name="b", use_bias=False)(x))


def read_behind_flatten():
    x = conv(picture := image(size=3), 6, name="a", activation="relu")
    return keras.Model(picture, layers.Dense(5, name="b")(layers.Flatten()(x)))


READERS = [read_by_conv, read_by_dense, read_behind_flatten]


def observed(build, examples):
    """Returns the consumer b, its rows `(n, folds, F)` and its moments."""
    model = randomize(build())
    graph, x = trace_quietly(model), inputs_of(model, examples)
    consumer = consumers_of(graph)["b"]
    value = keras.Model(graph.functional.input, consumer.call.inputs[0])(x)
    rows = consumer.rows(value, consumer.positions(np.random.default_rng(0), 32))
    _, moments = observe(graph, [[x]])
    rows = keras.ops.convert_to_numpy(rows).astype(float)
    return consumer, rows, moments.scatters["b"]


def first_half_kept(consumer):
    channels = np.unique(consumer.features)
    return np.isin(consumer.features, channels[: len(channels) // 2])


# A layer that reads many groups is solved for in another way.
@pytest.mark.parametrize("groups_read", [1, MANY_GROUPS])
@pytest.mark.parametrize("build", READERS)
def test_the_weights_are_the_least_squares_fit_to_the_rows(build, groups_read):
    consumer, rows, scatter = observed(build, 3000)
    consumer.groups_read = groups_read
    kept = first_half_kept(consumer)
    kernel, bias = least_squares(consumer, scatter, kept)

    # A fold shares the covariance of all: stacked, each with its own mean taken out.
    matrix = consumer.matrix().reshape(len(kept), consumer.folds, -1)
    centred = (rows - rows.mean(axis=0)).reshape(-1, len(kept))
    lost = np.einsum("nf,fpo->npo", centred[:, ~kept], matrix[~kept])
    extra = np.linalg.lstsq(
        centred[:, kept], lost.reshape(len(centred), -1), rcond=None
    )[0]
    expected = np.zeros_like(matrix)
    expected[kept] = matrix[kept] + extra.reshape(kept.sum(), consumer.folds, -1)

    found = np.zeros_like(matrix)
    found[:] = consumer.to_matrix(kernel).reshape(matrix.shape)
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02)
    shift = np.einsum("pf,fpo->o", rows.mean(axis=0), matrix - found)
    np.testing.assert_allclose(bias, consumer.bias() + shift, atol=1e-3)


@pytest.mark.parametrize("examples", [7, 300])
@pytest.mark.parametrize("build", READERS)
def test_the_mean_of_the_output_is_given_back(build, examples):
    consumer, rows, scatter = observed(build, examples)
    kernel, bias = least_squares(consumer, scatter, first_half_kept(consumer))

    def mean_output(kernel, bias):
        matrix = consumer.to_matrix(kernel)
        parts = matrix.reshape(len(matrix), consumer.folds, -1)
        return np.einsum("pf,fpo->o", rows.mean(axis=0), parts) + bias

    np.testing.assert_allclose(
        mean_output(kernel, bias),
        mean_output(consumer.kernel(consumer.matrix()), consumer.bias()),
        atol=1e-4,
    )


@pytest.mark.parametrize("build", READERS)
def test_dropped_features_get_no_weight(build):
    consumer, _, scatter = observed(build, 50)
    kept = first_half_kept(consumer)
    kernel, _ = least_squares(consumer, scatter, kept)
    assert (consumer.to_matrix(kernel)[~kept] == 0).all()


@pytest.mark.parametrize("build", READERS)
def test_with_everything_kept_the_weights_are_the_layers_own(build):
    consumer, _, scatter = observed(build, 50)
    kernel, bias = least_squares(
        consumer, scatter, np.ones(len(consumer.features), bool)
    )
    np.testing.assert_array_equal(kernel, consumer.kernel(consumer.matrix()))
    np.testing.assert_array_equal(bias, consumer.bias())


def test_few_rows_cannot_make_the_weights_explode():
    consumer, _, scatter = observed(read_by_conv, 1)
    assert scatter.count < len(consumer.features)
    kernel, bias = least_squares(consumer, scatter, first_half_kept(consumer))
    assert np.abs(kernel).max() < 10 * np.abs(consumer.matrix()).max()
    assert np.isfinite(bias).all()


def test_features_that_never_vary_can_be_solved_for():
    covariance = Scatter.zero(1, 4).regularized()
    assert np.linalg.eigvalsh(covariance).min() > 0
    covariance = Scatter(10, np.zeros((1, 2)), np.diag([10.0, 0.0])).regularized()
    assert np.linalg.eigvalsh(covariance).min() > 0


def with_twin_channels(model, name):
    """Makes the second half of a layer's channels twins of the first."""
    layer = model.get_layer(name)
    half = layer.kernel.shape[-1] // 2
    layer.set_weights(
        [np.concatenate([w[..., :half]] * 2, axis=-1) for w in layer.get_weights()]
    )
    return half


def test_of_twins_one_is_removed_without_loss():
    x = conv(picture := image(size=8), 16, name="a", activation="relu")
    x = conv(x, 8, name="b", activation="relu", strides=2)
    model = randomize(keras.Model(picture, head(x)))
    half = with_twin_channels(model, "a")
    data = inputs_of(model, 400)
    paths = keras_greedy.search(model, data, verbose=0)
    order = paths.paths["a"].order[:half]
    assert sorted(order % half) == list(range(half)), "one of each pair of twins"

    compact = paths.compact(0.55)
    assert compact.get_layer("a").filters == half
    without = rebuild(paths.graph, {"a": np.sort(order)})
    (full,), (cut,), (worse,) = (outputs_of(m, data) for m in (model, compact, without))
    np.testing.assert_allclose(cut, full, atol=2e-3)
    assert np.abs(worse - full).max() > 50 * np.abs(cut - full).max()


def test_pruning_a_network_of_twins_loses_nothing():
    x = layers.Dense(32, activation="relu", name="a")(vector := keras.Input((10,)))
    x = layers.Dense(32, activation="relu", name="b")(x)
    model = keras.Model(vector, layers.Dense(5, activation="softmax", name="c")(x))
    randomize(model)
    for name in "ab":
        with_twin_channels(model, name)
    data = inputs_of(model, 4000)
    compact = keras_greedy.prune(
        model, data, keras_greedy.Budget(params=0.4), verbose=0
    )
    assert [compact.get_layer(name).units for name in "ab"] == [16, 16]
    (full,), (cut,) = outputs_of(model, data), outputs_of(compact, data)
    np.testing.assert_allclose(cut, full, atol=3e-3)


def test_constant_channels_go_first_and_for_free():
    x = conv(picture := image(size=8), 16, name="a", activation="relu")
    x = conv(x, 8, name="b", use_bias=False, padding="valid")
    x = layers.ReLU()(layers.BatchNormalization()(x))
    model = randomize(keras.Model(picture, head(x)))
    constant = [0, 3, 4, 5, 9, 11, 13, 15]
    kernel, bias = model.get_layer("a").get_weights()
    kernel[..., constant] = 0
    bias[constant] = [-1, 2, 3, 0, 1, 5, -2, 4]
    model.get_layer("a").set_weights([kernel, bias])
    data = inputs_of(model, 50)
    keras_greedy.reestimate_batch_norm(model, data)

    compact = keras_greedy.prune(model, data, 0.55, verbose=0)
    varying = np.setdiff1d(range(16), constant)
    left = compact.get_layer("a").get_weights()
    for found, full in zip(left, (kernel, bias), strict=True):
        np.testing.assert_array_equal(found, full[..., varying])
    assert not compact.get_layer("b").use_bias, "the mean went into the BatchNorm"
    (full,), (cut,) = outputs_of(model, data), outputs_of(compact, data)
    np.testing.assert_allclose(cut, full, atol=1e-4)


def test_constant_channels_of_a_dense_layer_change_nothing():
    x = layers.Dense(16, activation="relu", name="a")(vector := keras.Input((10,)))
    model = randomize(keras.Model(vector, layers.Dense(5, name="b")(x)))
    kernel, bias = model.get_layer("a").get_weights()
    kernel[:, ::2] = 0
    model.get_layer("a").set_weights([kernel, bias])
    data = inputs_of(model, 100)
    compact = keras_greedy.prune(model, data, 0.5, verbose=0)
    (full,), (cut,) = outputs_of(model, data), outputs_of(compact, data)
    np.testing.assert_allclose(cut, full, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(compact.get_layer("a").kernel, kernel[:, 1::2])


def test_a_layer_knows_how_many_groups_it_reads():
    picture = image(size=3)
    features = [conv(picture, 4, name=name) for name in "abc"]
    x = conv(layers.Concatenate()(features), 4, name="of_three")
    x = conv(x, 4, name="of_one")
    consumers = consumers_of(trace_quietly(keras.Model(picture, head(x))))
    assert consumers["of_three"].groups_read == 3
    assert consumers["of_one"].groups_read == 1
