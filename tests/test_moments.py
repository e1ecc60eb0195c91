import dataclasses
import os
import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers
from models import (
    TOPOLOGIES,
    conv,
    depthwise,
    head,
    image,
    inputs_of,
    randomize,
    shared,
)

from keras_greedy.graph.masks import get_keras_mask
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Moments, Observed, Scatter, observe

# The difference between two ways of adding up float32 rows.
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}


def input_of(graph, call, x):
    """Returns the input of a call, computed by Keras."""
    values = graph.feed(keras.tree.flatten(x))
    before = graph.calls[: call.index]
    values = graph.run(values, before, lambda c, *a, **k: c.operation(*a, **k))
    return keras.ops.convert_to_numpy(values[call.inputs[0]])


def assert_rows_make_the_output(model, name, count=3):
    """Rows times matrix plus bias is what the layer computes at those positions."""
    randomize(model)
    graph = trace_quietly(model)
    x = inputs_of(model, count)
    consumer = consumers_of(graph)[name]
    positions = consumer.positions(np.random.default_rng(0), 7)
    rows = keras.ops.convert_to_numpy(
        consumer.rows(input_of(graph, consumer.call, x), positions)
    )
    outputs = consumer.matrix().shape[1] // consumer.folds
    parts = consumer.matrix().reshape(len(consumer.features), consumer.folds, outputs)
    made = np.einsum("npf,fpo->no", rows.astype(float), parts) + consumer.bias()
    real = consumer.call.operation(input_of(graph, consumer.call, x))
    real = keras.ops.convert_to_numpy(real).reshape(count, -1, outputs)
    np.testing.assert_allclose(
        made.reshape(count, -1, outputs), real[:, positions], rtol=1e-4, atol=1e-4
    )
    return consumer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "valid"},
        {"strides": 2},
        {"strides": 2, "padding": "valid"},
        {"strides": (1, 3)},
        {"dilation_rate": 2},
        {"dilation_rate": (2, 3), "padding": "valid"},
        {"kernel": 1},
        {"kernel": 1, "strides": 2},
        {"kernel": (1, 5)},
        {"kernel": (4, 2), "strides": (3, 2)},
        {"kernel": 2},
        {"kernel": (4, 2), "padding": "valid", "strides": (3, 2)},
        {"use_bias": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(11, 11), (8, 13)])
def test_patches_times_kernel_are_the_convolution(options, size):
    x = picture = keras.Input((*size, 2))
    x = conv(x, 5, name="a")
    x = conv(x, 4, **{"kernel": 3, "name": "b"} | options)
    assert_rows_make_the_output(keras.Model(picture, head(x)), "b")


L = layers
needs_onednn = pytest.mark.skipif(
    os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0",
    reason="TensorFlow dilates transposed convolutions with oneDNN only",
)
SAME = {"padding": "same"}


@pytest.mark.parametrize(
    "reader",
    [
        L.Conv1D(4, 3, padding="causal", dilation_rate=2),
        L.Conv1D(4, 4, strides=3, **SAME),
        L.Conv3D(4, (2, 3, 1), strides=(1, 2, 2), **SAME),
        L.Conv3D(4, 2, dilation_rate=(2, 1, 1)),
        L.Conv2D(6, 3, groups=2, strides=2, **SAME),
        L.Conv1D(9, 2, groups=3, use_bias=False),
        L.SeparableConv2D(4, 3, strides=2, depth_multiplier=2, **SAME),
        L.SeparableConv1D(4, 3, dilation_rate=2),
        L.Conv2DTranspose(4, 2, strides=2),
        L.Conv2DTranspose(4, 3, strides=2, **SAME),
        L.Conv2DTranspose(4, (4, 1), strides=(3, 2), use_bias=False, **SAME),
        L.Conv2DTranspose(4, (5, 2), strides=(2, 3)),
        L.Conv2DTranspose(4, 3, strides=2, output_padding=0, **SAME),
        L.Conv2DTranspose(4, 3, strides=2, output_padding=1),
        L.Conv1DTranspose(4, 5, strides=2, **SAME),
        L.Conv1DTranspose(4, 2, strides=3),
        L.Conv3DTranspose(4, (3, 2, 1), strides=(2, 1, 2), **SAME),
        pytest.param(L.Conv2DTranspose(4, 3, dilation_rate=2), marks=needs_onednn),
    ],
    ids=lambda layer: layer.name,
)
@pytest.mark.parametrize("size", [6, 9])
def test_rows_times_matrix_are_what_any_convolution_computes(reader, size):
    reader = type(reader).from_config(reader.get_config() | {"name": "b"})
    x = sample = keras.Input((size, size + 1, size - 1)[: reader.rank] + (3,))
    x = reader(layers.Dense(6, name="a")(x))
    flat = layers.GlobalAveragePooling1D()(layers.Reshape((-1, x.shape[-1]))(x))
    assert_rows_make_the_output(keras.Model(sample, layers.Dense(2)(flat)), "b")


def test_rows_of_a_dense_layer_on_maps_are_its_positions():
    x = conv(picture := image(size=6), 5, name="a")
    x = layers.Dense(4, name="b")(x)
    assert_rows_make_the_output(keras.Model(picture, head(x)), "b")


def test_rows_of_a_dense_layer_on_a_sequence_are_its_steps():
    x = layers.Dense(8, name="a")(words := keras.Input((6, 5)))
    x = layers.Dense(4, name="b")(x)
    model = keras.Model(words, layers.Dense(2)(layers.GlobalMaxPooling1D()(x)))
    assert_rows_make_the_output(model, "b")


def test_behind_a_flatten_rows_are_as_short_as_there_are_channels():
    x = conv(picture := image(size=4), 5, name="a")
    x = layers.Dense(4, name="b")(layers.Flatten()(x))
    model = keras.Model(picture, layers.Dense(2)(x))
    consumer = assert_rows_make_the_output(model, "b")
    assert (len(consumer.features), consumer.folds) == (5, 16)


def test_two_flattened_maps_side_by_side_are_one_row():
    consumer = assert_rows_make_the_output(TOPOLOGIES["two_flattens"](), "c")
    assert (len(consumer.features), consumer.folds) == (128, 1)


def test_the_kernel_is_its_matrix_and_back():
    graph = trace_quietly(randomize(TOPOLOGIES["sequential"]()))
    for consumer in consumers_of(graph).values():
        kernel = keras.ops.convert_to_numpy(consumer.call.operation.kernel)
        np.testing.assert_array_equal(consumer.kernel(consumer.matrix()), kernel)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_a_consumer_applied_with_its_own_weights_is_the_layer(name):
    model = shared(name)
    graph, x = trace_quietly(model), inputs_of(model)
    for consumer in consumers_of(graph).values():
        layer = consumer.call.operation
        if getattr(layer, "compute_dtype", "float32") == "float32":
            value = input_of(graph, consumer.call, x)
            kernel = consumer.kernel(consumer.matrix()).astype("float32")
            bias = consumer.bias().astype("float32")
            mask = get_keras_mask(value)
            given = {"mask": mask} if consumer.call.is_layer else {}
            made = consumer.apply(value, kernel, bias, **given)
            np.testing.assert_allclose(made, layer(value), rtol=1e-5, atol=1e-5)


def test_features_of_a_channel_are_those_it_is_multiplied_into():
    x = conv(picture := image(), 3, name="a")
    x = depthwise(x, depth_multiplier=2)
    model = keras.Model(picture, head(conv(x, 4, (1, 2), name="b")))
    graph = trace_quietly(model)
    group, consumer = graph.groups[0], consumers_of(graph)["b"]
    # Two patch positions, in each the channels 0 0 1 1 2 2.
    own = consumer.features_of(group.channels)
    assert own.tolist() == [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    assert consumer.features_of(group.channels[[2, 0]]).tolist() == [
        *(4, 5, 10, 11),
        *(0, 1, 6, 7),
    ]


def test_positions_are_all_of_a_small_map_and_a_sample_of_a_large_one():
    x = conv(picture := image(), 4, name="a")
    x = layers.Dense(6, name="b")(conv(x, 4, name="c", strides=4))
    consumers = consumers_of(trace_quietly(keras.Model(picture, head(x))))
    rng = np.random.default_rng(0)
    assert consumers["c"].positions(rng, 32).tolist() == list(range(16))
    sampled = consumers["b"].positions(rng, 5)
    assert len(set(sampled.tolist())) == 5
    assert (np.diff(sampled) > 0).all()
    assert sampled.max() < 16


def test_every_position_of_a_large_map_is_sampled_in_the_end():
    x = conv(conv(picture := image(), 4), 4, name="b")
    consumer = consumers_of(trace_quietly(keras.Model(picture, head(x))))["b"]
    rng = np.random.default_rng(0)
    seen = np.concatenate([consumer.positions(rng, 32) for _ in range(200)])
    assert len(np.unique(seen)) == 256


def small_maps():
    """Maps of at most 32 positions: all are read, whatever the batches are."""
    x = conv(picture := image(size=5), 6, name="a", activation="relu")
    x = conv(x, 4, name="b", activation="relu")
    x = layers.Dense(7, name="c")(layers.Flatten()(x))
    return randomize(keras.Model(picture, layers.Dense(3, name="d")(x)))


def batches_of(x, sizes):
    return [[part] for part in np.split(x, np.cumsum(sizes)[:-1])]


def assert_same(one: Moments, two: Moments, **tolerance):
    assert one.examples == two.examples
    assert one.scatters.keys() == two.scatters.keys()
    for name, scatter in one.scatters.items():
        for field, value in vars(scatter).items():
            other = getattr(two.scatters[name], field)
            np.testing.assert_allclose(value, other, err_msg=name, **tolerance)


@pytest.mark.parametrize("sizes", [(1, 2, 3, 4, 5, 6), (20, 1), (7, 7, 7)], ids=str)
def test_odd_batches_make_the_moments_of_one_batch(sizes):
    graph = trace_quietly(model := small_maps())
    x = inputs_of(model, 21)
    whole, streamed = (
        observe(graph, batches_of(x, parts))[1] for parts in ((21,), sizes)
    )
    assert_same(whole, streamed, **ROUNDING)


def test_moments_are_those_of_the_rows():
    graph = trace_quietly(model := small_maps())
    x = inputs_of(model, 40)
    _, moments = observe(graph, batches_of(x, (16, 16, 8)))
    for name, consumer in consumers_of(graph).items():
        value = input_of(graph, consumer.call, x)
        positions = consumer.positions(np.random.default_rng(0), 32)
        rows = keras.ops.convert_to_numpy(consumer.rows(value, positions)).astype(float)
        scatter = moments.scatters[name]
        assert scatter.count == len(rows)
        np.testing.assert_allclose(scatter.mean, rows.mean(axis=0), **ROUNDING)
        expected = np.mean(
            [np.cov(fold.T, bias=True) for fold in rows.swapaxes(0, 1)], axis=0
        )
        np.testing.assert_allclose(scatter.covariance(), expected, **ROUNDING)


def test_the_first_examples_are_kept_apart():
    graph = trace_quietly(model := small_maps())
    x = inputs_of(model, 20)
    apart, others = observe(graph, batches_of(x, (5, 5, 5, 5)), first=10)
    assert_same(apart, observe(graph, batches_of(x[:10], (10,)))[1], **ROUNDING)
    assert_same(others, observe(graph, batches_of(x[10:], (10,)))[1], **ROUNDING)


def assert_same_moments(found, expected):
    assert found.examples == expected.examples
    assert list(found.scatters) == list(expected.scatters)
    for name, scatter in expected.scatters.items():
        assert found.scatters[name].count == scatter.count
        np.testing.assert_array_equal(found.scatters[name].mean, scatter.mean)
        np.testing.assert_array_equal(found.scatters[name].scatter, scatter.scatter)


@pytest.mark.parametrize("first", [4, 8, 12, 16])
def test_two_parts_are_all_examples_and_their_weights_are_of_the_greater(first):
    model = randomize(TOPOLOGIES["inverted_residuals"]())
    batches = [[inputs_of(model, 4)] for _ in range(4)]
    apart, others = observe(trace_quietly(model), batches, first=first)
    merged = apart.merge(others)
    observed = Observed(apart, others)
    assert_same_moments(observed.all, merged)
    assert_same_moments(observed.unseen, others if first <= 8 else merged)
    assert_same_moments(observed.whole(), merged)


def peak_of_observing(model, batches):
    graph = trace_quietly(model)
    tracemalloc.start()
    try:
        _, others = observe(graph, batches, first=8)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sums = sum(scatter.scatter.nbytes for scatter in others.scatters.values())
    return peak, sums


def test_memory_is_that_of_two_moments_for_any_amount_of_data():
    x = conv(picture := image(), 64, name="first")
    for _ in range(8):
        x = conv(x, 64, activation="relu")
    model = randomize(keras.Model(picture, head(x)))
    batch = [inputs_of(model, 8)]
    some, sums = peak_of_observing(model, [batch] * 3)
    more, _ = peak_of_observing(model, [batch] * 30)
    # The sums of the examples apart and of the others, and those of a layer or two.
    assert some < 2.6 * sums
    assert more < 1.05 * some


def test_the_positions_sampled_are_a_function_of_the_seed():
    x = conv(picture := image(), 6, name="a")
    graph = trace_quietly(model := keras.Model(picture, head(conv(x, 4, name="b"))))
    data = batches_of(inputs_of(model, 8), (4, 4))
    one, same, other = (observe(graph, data, seed)[1] for seed in (0, 0, 1))
    assert_same(one, same, rtol=0)
    assert not np.allclose(one.scatters["b"].scatter, other.scatters["b"].scatter)


def random_scatter(seed, count):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 2, 3)) * 10 + rng.normal(size=(2, 3)) * 100
    centred = (rows - rows.mean(axis=0)).reshape(-1, 3)
    return Scatter(count, rows.mean(axis=0), centred.T @ centred), rows


def test_merging_is_the_scatter_of_all_rows_in_any_grouping():
    (a, b, c), rows = zip(*map(random_scatter, (0, 1, 2), (4, 1, 30)), strict=True)
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    rows = np.concatenate(rows)
    centred = (rows - rows.mean(axis=0)).reshape(-1, 3)
    for merged in (left, right, c.merge(a).merge(b)):
        assert merged.count == 35
        np.testing.assert_allclose(merged.mean, rows.mean(axis=0))
        np.testing.assert_allclose(merged.scatter, centred.T @ centred)


def test_zero_is_the_identity_of_merging():
    scatter, _ = random_scatter(0, 5)
    zero = Scatter.zero(2, 3)
    for merged in (zero.merge(scatter), scatter.merge(zero)):
        for field, value in dataclasses.asdict(scatter).items():
            np.testing.assert_array_equal(getattr(merged, field), value)
    assert zero.merge(zero).count == 0


def test_a_large_mean_does_not_drown_the_variance():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]
    )
    model.layers[0].set_weights([np.eye(4, 3), np.full(3, 1000.0)])
    x = np.random.default_rng(0).normal(size=(500, 4)).astype("float32")
    _, moments = observe(trace_quietly(model), batches_of(x, (100,) * 5))
    expected = np.cov(x[:, :3].T.astype(float), bias=True)
    np.testing.assert_allclose(
        moments.scatters["b"].covariance(), expected, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("value", [np.inf, 1e30])
def test_values_that_are_too_large_are_an_error_that_names_the_layer(value):
    model = small_maps()
    kernel, bias = model.get_layer("a").get_weights()
    model.get_layer("a").set_weights([kernel, np.full_like(bias, value)])
    with pytest.raises(ValueError, match=r"finite values.*input of layer 'b'"):
        observe(trace_quietly(model), [[inputs_of(model, 4)]])
