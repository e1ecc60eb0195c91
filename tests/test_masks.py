"""Tests that masked positions, such as padding, count nowhere."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_greedy
from keras_greedy import testing, trace
from keras_greedy.graph.fold import folded
from keras_greedy.graph.masks import depends_on_masked

RNG = np.random.default_rng(0)
WORDS = RNG.integers(1, 20, (48, 8))
for row in WORDS:
    row[RNG.integers(2, 6) :] = 0
TABLE = RNG.normal(size=(20, 6)).astype("float32")


def embedding():
    inputs = keras.Input((8,), dtype="int32")
    return inputs, layers.Embedding(20, 6, mask_zero=True, name="words")(inputs)


def masking():
    """A `Masking` layer behind the vectors, with zeros for padding."""
    inputs = keras.Input((8,), dtype="int32")
    x = layers.Embedding(20, 6, name="words")(inputs)
    kept = ops.cast(ops.expand_dims(ops.not_equal(inputs, 0), -1), "float32")
    return inputs, layers.Masking()(x * kept)


def pooled(x, inputs):
    return layers.GlobalAveragePooling1D()(x)


def pooled_by_argument(x, inputs):
    mask = ops.not_equal(inputs, 0)
    x = layers.Activation("relu")(layers.Dense(8, name="own")(x))
    return layers.GlobalAveragePooling1D()(x, mask=mask)


def recurrent(x, inputs):
    return layers.Bidirectional(layers.GRU(4))(x)


def attended(x, inputs):
    x = layers.MultiHeadAttention(2, 4)(x, x)
    return layers.GlobalAveragePooling1D()(layers.Dense(8, name="own")(x))


def tagged(x, inputs):
    return layers.LayerNormalization()(x)


def text_model(tail, start=embedding, padding=0.0, normed=False):
    """A model whose padding has a vector of this size."""
    keras.utils.set_random_seed(0)
    inputs, x = start()
    x = layers.Dense(16, use_bias=not normed, name="hidden")(x)
    x = layers.BatchNormalization(momentum=0.0)(x) if normed else x
    x = layers.Dense(12, activation="relu", name="second")(layers.ReLU()(x))
    x = tail(x, inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    table = TABLE.copy()
    table[0] = padding
    model.get_layer("words").set_weights([table])
    return model


@pytest.mark.filterwarnings("ignore:Some channels")
@pytest.mark.parametrize(
    ("tail", "objective"),
    [(pooled, "local"), (recurrent, "local"), (attended, "global"), (tagged, "global")],
)
def test_search_is_the_same_whatever_stands_at_masked_positions(tail, objective):
    found = []
    for padding in (0.0, 30.0):
        model = text_model(tail, padding=padding)
        paths = keras_greedy.search(model, WORDS, objective=objective, verbose=0)
        orders = {name: path.order for name, path in paths.paths.items()}
        curves = [divergence.values for divergence in paths.divergence.values()]
        found.append((orders, np.concatenate(curves)))
    (orders, curves), (again, same_curves) = found
    for name, order in orders.items():
        np.testing.assert_array_equal(order, again[name])
    np.testing.assert_allclose(curves, same_curves, rtol=1e-3, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Some channels")
def test_divergence_search_is_the_same_whatever_stands_at_masked_positions():
    orders = []
    for padding in (0.0, 30.0):
        paths = keras_greedy.search(
            text_model(attended, padding=padding),
            WORDS,
            method=keras_greedy.DivergenceSearch(candidates=2, channels_per_step=8),
            verbose=0,
        )
        orders.append([path.order for path in paths.paths.values()])
    for one, other in zip(*orders, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("start", [embedding, masking])
@pytest.mark.parametrize("tail", [pooled, pooled_by_argument])
def test_batch_norm_statistics_are_those_keras_takes_behind_a_mask(start, tail):
    model = text_model(tail, start, padding=9.0, normed=True)
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(WORDS, np.zeros((48, 3)), batch_size=48, verbose=0)
    expected = model.get_weights()
    norm = next(x for x in model.layers if isinstance(x, layers.BatchNormalization))
    norm.moving_mean.assign(np.ones(16))
    keras_greedy.reestimate_batch_norm(model, WORDS, batch_size=48)
    for one, other in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_batches_with_more_words_count_for_more():
    inputs = keras.Input((4, 2))
    x = layers.BatchNormalization()(layers.Masking()(inputs))
    model = keras.Model(inputs, x)
    data = np.zeros((4, 4, 2), "float32")
    data[:2] = 1  # 8 positions of 1, and then 2 of 3.
    data[2:, 0] = 3
    keras_greedy.reestimate_batch_norm(model, data, batch_size=2)
    moving_mean = ops.convert_to_numpy(model.layers[-1].moving_mean)
    np.testing.assert_allclose(moving_mean, (8 * 1 + 2 * 3) / 10, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Some channels")
@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        (pooled, False),
        (recurrent, False),
        (attended, False),
        (tagged, False),
        (lambda x, _: layers.Flatten()(x), True),
        (lambda x, _: layers.GlobalMaxPooling1D()(x), True),
        (lambda x, _: ops.sum(x, axis=1), True),
        (lambda x, _: pooled(ops.relu(x), _), True),
        (lambda x, _: pooled(layers.Conv1D(4, 3)(x), _), True),
        (lambda x, _: pooled(layers.GroupNormalization(2)(x), _), True),
    ],
)
@pytest.mark.filterwarnings("ignore:Layer '.*mask")
def test_masked_positions_count_where_an_output_depends_on_them(tail, expected):
    graph = folded(trace(text_model(tail)))
    (second,) = [call for call in graph.calls if call.name == "second"]
    assert depends_on_masked(graph, second) == expected


@pytest.mark.filterwarnings("ignore:Some channels")
@pytest.mark.parametrize("tail", [pooled, recurrent, attended, tagged])
def test_compact_model_equals_gated_one_behind_a_mask(tail):
    testing.assert_compact_equals_gated(text_model(tail, padding=9.0), WORDS)
