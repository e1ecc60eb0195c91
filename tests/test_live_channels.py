"""Networks of which it is known how many channels of each group count."""

import functools

import keras
import numpy as np
import pytest
from keras import layers
from models import head, norm, randomize

import keras_greedy
from keras_greedy import Budget
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.consumers import consumers_of

MOVES = 1e-3
"""Of the outputs, as a share of the largest: less is nothing."""


def with_live_channels(model, seed):
    """Lets no layer read most channels; returns how many are left of each group."""
    rng = np.random.default_rng(seed)
    graph = trace_quietly(model)
    consumers = consumers_of(graph)
    live = {}
    for group in graph.groups:
        live[group.name] = int(rng.integers(1, group.size + 1))
        dead = rng.permutation(group.size)[live[group.name] :]
        for name in group.consumer_names:
            consumer = consumers[name]
            matrix = consumer.matrix()
            matrix[consumer.features_of(group.channels[np.sort(dead)])] = 0
            kernel, *others = consumer.call.operation.get_weights()
            kernel = consumer.kernel(matrix).astype(kernel.dtype)
            consumer.call.operation.set_weights([kernel, *others])
    return live


def inputs(model, seed, count=64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, *model.input_shape[1:])).astype("float32")


def assert_live_channels_are_kept(model, seed, objective="global"):
    """A budget of exactly these has no room for a channel that does not count."""
    live = with_live_channels(model, seed)
    x = inputs(model, seed)
    costs = Costs(trace_quietly(model))
    budget = Budget(macs=costs.macs(live) / costs.macs(), round_to=1)
    paths = keras_greedy.search(model, x, objective=objective, verbose=0)
    before = model.predict(x, verbose=0)
    after = paths.compact(budget).predict(x, verbose=0)
    moved = np.abs(after - before).max() / np.abs(before).max()
    assert moved < MOVES, f"{paths.widths(budget)} of {live}"


def random_network(seed):
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, 4))
    is_map = rng.random() < 0.5
    x = start = keras.Input((6, 6, 3) if is_map else (10,))
    for _ in range(depth):
        width = int(rng.integers(4, 40))
        has_bias = bool(rng.random() < 0.7)
        if is_map:
            size = int(rng.choice([1, 3]))
            x = layers.Conv2D(width, size, padding="same", use_bias=has_bias)(x)
            if rng.random() < 0.4:
                x = layers.BatchNormalization()(x)
        else:
            x = layers.Dense(width, use_bias=has_bias)(x)
        x = layers.Activation(str(rng.choice(["relu", "tanh", "swish"])))(x)
    if is_map:
        flat = layers.Flatten if rng.random() < 0.3 else layers.GlobalAveragePooling2D
        x = flat()(x)
    last = [None, "softmax", "sigmoid"][rng.integers(3)]
    return keras.Model(start, layers.Dense(4, activation=last)(x))


@pytest.mark.parametrize("seed", range(30))
def test_a_budget_of_the_live_channels_of_a_random_network_keeps_them(seed):
    keras.utils.set_random_seed(seed)
    assert_live_channels_are_kept(random_network(seed), seed)


conv = functools.partial(layers.Conv2D, padding="same", use_bias=False)


def resnet8():
    x = start = keras.Input((8, 8, 3))
    x = norm(conv(16, 3)(x), "relu")
    for width, stride in ((16, 1), (24, 2), (32, 2)):
        y = norm(conv(width, 3, strides=stride)(x), "relu")
        y = layers.BatchNormalization()(conv(width, 3)(y))
        if stride > 1:
            x = layers.BatchNormalization()(conv(width, 1, strides=stride)(x))
        x = layers.ReLU()(layers.Add()([x, y]))
    return keras.Model(start, head(x))


def repvgg():
    x = start = keras.Input((8, 8, 3))
    for width, stride in ((16, 2), (24, 1), (24, 1)):
        branches = [conv(width, size, strides=stride)(x) for size in (3, 1)]
        branches = [layers.BatchNormalization()(branch) for branch in branches]
        if x.shape[-1] == width:
            branches.append(layers.BatchNormalization()(x))
        x = layers.ReLU()(layers.Add()(branches))
    return keras.Model(start, head(x))


def squeeze_excite():
    x = start = keras.Input((8, 8, 3))
    for width in (24, 32):
        x = norm(conv(width, 1)(x), "swish")
        x = norm(layers.DepthwiseConv2D(3, padding="same")(x), "swish")
        squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
        squeezed = layers.Conv2D(8, 1, activation="swish")(squeezed)
        gate = layers.Conv2D(width, 1, activation="sigmoid")(squeezed)
        x = layers.BatchNormalization()(conv(16, 1)(layers.Multiply()([x, gate])))
    return keras.Model(start, head(x))


@pytest.mark.parametrize("build", [resnet8, repvgg, squeeze_excite])
@pytest.mark.parametrize("objective", ["global", "local"])
def test_a_budget_of_the_live_channels_keeps_them(build, objective):
    model = randomize(build())
    assert_live_channels_are_kept(model, seed=3, objective=objective)


def test_free_widths_say_nothing_of_narrower_ones():
    """Of 128 channels 24 are read, and all widths measured at first cost nothing."""
    keras.utils.set_random_seed(0)
    x = start = keras.Input((20,))
    x = layers.Dense(128, activation="relu", name="a")(x)
    x = layers.Dense(64, activation="relu", name="b")(x)
    model = keras.Model(start, layers.Dense(5)(x))
    kernel, bias = model.get_layer("b").get_weights()
    kernel[24:] = 0
    model.get_layer("b").set_weights([kernel, bias])
    x = inputs(model, 0, 256)
    paths = keras_greedy.search(model, x, verbose=0)
    assert paths.widths(0.2)["a"] >= 24
    full = model.predict(x, verbose=0)
    error = paths.compact(0.2).predict(x, verbose=0) - full
    assert np.sqrt((error**2).mean()) < 0.08 * full.std()


METHODS = [
    keras_greedy.Imitation("global"),
    keras_greedy.Imitation("local"),
    keras_greedy.Imitation("local", "uniform"),
    keras_greedy.Imitation("global", "line_search"),
    keras_greedy.DivergenceSearch("uniform"),
    keras_greedy.DivergenceSearch("line_search", candidates="all"),
]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_channel_that_nobody_reads_comes_after_all_that_count(method):
    """Though it is the sum of others, and so tells most of them."""
    keras.utils.set_random_seed(0)
    x = start = keras.Input((12,))
    x = layers.Dense(12, name="a")(x)
    model = keras.Model(start, layers.Dense(12, name="b")(x))
    kernel, bias = model.get_layer("a").get_weights()
    kernel[:, 5] = 10 * kernel[:, 6:].sum(axis=1)
    model.get_layer("a").set_weights([kernel, bias])
    kernel, bias = model.get_layer("b").get_weights()
    kernel[5] = 0
    kernel[0] *= 1e-3
    model.get_layer("b").set_weights([kernel, bias])
    paths = keras_greedy.search(model, inputs(model, 0), method=method, verbose=0)
    path = paths.paths["a"]
    steps_taken = [*getattr(path, "picks", path.order)]
    if 5 in steps_taken:
        before = steps_taken[: steps_taken.index(5)]
        assert {*before} == {*range(12)} - {5}
    else:
        assert isinstance(method, keras_greedy.DivergenceSearch), "it ended before"
