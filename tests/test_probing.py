"""Operations and activations without a rule, probed for the channels they mix."""

import re

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import around, conv, head, image, inputs_of, randomize

import keras_greedy
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.rules import RULES
from keras_greedy.graph.trace import trace, trace_quietly
from keras_greedy.testing import assert_compact_equals_gated

of_channels = np.arange(1.0, 9.0, dtype="float32")
a_number = keras.Variable(2.0)
of_each_channel = keras.Variable(of_channels)


def traced(layer):
    return trace_quietly(around(layer))


def of_lambda(function, **kwargs):
    return traced(layers.Lambda(function, name="mine", **kwargs))


# Each makes maps of four axes, of 16 x 16 x 8.
EACH_CHANNEL_ALONE = {
    "multiplies by a number": lambda x: a_number * x,
    "is not 0 at 0": lambda x: ops.exp(-x) + 1,
    "is constant almost everywhere": lambda x: ops.sign(x),
    "has thresholds": lambda x: ops.where(ops.abs(x) > 0.5, x, 0.25 * x),
    "mixes examples": lambda x: x - ops.mean(x, axis=0, keepdims=True),
    "mixes positions": lambda x: ops.cumsum(x, axis=1) / 100,
    "takes positions": lambda x: x[:, ::2, 1:],
    "pools": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "swaps positions": lambda x: ops.transpose(x, (0, 2, 1, 3)),
    "turns the channels round": lambda x: ops.flip(x, axis=-1),
    "repeats channels": lambda x: ops.concatenate([x, -x], axis=-1),
    "moves positions to channels": lambda x: ops.reshape(
        ops.transpose(ops.reshape(x, (-1, 8, 2, 16, x.shape[-1])), (0, 1, 3, 2, 4)),
        (-1, 8, 16, 2 * x.shape[-1]),
    ),
    "adds constant channels": lambda x: ops.pad(
        x, (*[(0, 0)] * 3, (1, 2)), constant_values=1.0
    ),
}


@pytest.mark.parametrize("name", EACH_CHANNEL_ALONE)
def test_a_lambda_is_followed_that(name):
    model = randomize(around(layers.Lambda(EACH_CHANNEL_ALONE[name], name="mine")))
    graph = trace_quietly(model)
    assert graph.widths == {"a": 8, "b": 6}
    assert graph.probed == [("mine", "Lambda")]
    assert_compact_equals_gated(model, inputs_of(model))


def test_channels_that_meet_in_a_lambda_are_one():
    glu = layers.Lambda(lambda x: ops.multiply(*ops.split(x, 2, axis=-1)))
    model = randomize(around(glu))
    assert trace_quietly(model).widths == {"a": 4, "b": 6}
    assert_compact_equals_gated(model, inputs_of(model))


# The call, and what the probe says.
MIXING = {
    "on fewer channels it makes other values": lambda x: x / x.shape[-1] ** 0.5,
    "on fewer channels it makes a tensor": lambda x: x * of_channels,
    "its output 0 depends on the channels 0, 1, 2 and more": ops.softmax,
    "on fewer channels it makes a tensor of shape": lambda x: x * of_each_channel,
    "two runs on the same input differ": lambda x: x + keras.random.normal((16, 16, 8)),
    "it fails on fewer channels: ": lambda x: ops.reshape(x, (-1, 32, 8, 8)),
    "all of its channels are one": lambda x: x + ops.roll(x, 1, axis=-1),
}


@pytest.mark.parametrize("finding", MIXING)
def test_a_lambda_stays_whole_with_the_reason(finding):
    graph = of_lambda(MIXING[finding])
    assert graph.widths == {"b": 6}
    ((layer, reason),) = graph.unprunable
    assert layer == "mine"
    assert f"no channel rule for Lambda, and a probe finds: {finding}" in reason


@pytest.mark.parametrize(
    ("activation", "finding"),
    [
        (lambda x: x - ops.mean(x, axis=-1, keepdims=True), "its output 0 depends on"),
        (lambda x: x * of_channels, "on fewer channels it makes a tensor of shape"),
        (lambda x: x[..., ::-1], "it moves them to other places"),
        (layers.Softmax(), "$"),
    ],
)
def test_an_activation_that_mixes_is_named(activation, finding):
    x = picture = image()
    x = conv(conv(x, 8, name="a", activation=activation), 6, name="b")
    graph = trace_quietly(keras.Model(picture, head(x)))
    assert graph.widths == {"b": 6}
    ((layer, reason),) = graph.unprunable
    assert layer == "a"
    assert re.search(f"its activation .* may mix the channels.*{finding}", reason)


def test_one_warning_names_the_layers_followed_because_of_a_probe():
    x = picture = image()
    x = layers.Lambda(lambda x: x / 255, name="not_this")(x)
    x = conv(x, 8, name="a", activation=models.twice)
    x = layers.Lambda(lambda x: -x, name="mine")(x)
    model = keras.Model(picture, head(x))
    with pytest.warns(UserWarning) as caught:
        graph = trace(model)
    assert graph.probed == [("a", "its activation twice"), ("mine", "Lambda")]
    (warning,) = caught
    assert "\n  a: its activation twice\n  mine: Lambda" in str(warning.message)
    assert "register_rule" in str(warning.message)
    assert warning.filename == __file__


def test_a_rule_of_the_function_makes_it_silent():
    before = dict(RULES)
    keras_greedy.register_rule(models.twice)(keras_greedy.Rule)
    graph = of_lambda(models.twice, output_shape=(16, 16, 8))
    RULES.clear()
    RULES.update(before)
    assert graph.widths == {"a": 8, "b": 6}
    assert graph.probed == []


class RootOfWidth(layers.Layer):
    """Divides by a number that is found when it is built."""

    def build(self, shape):
        self.root = shape[-1] ** 0.5

    def call(self, x):
        return x / self.root


class Halved(layers.Layer):
    """Has no weights, nor a rule; has an argument with tensors and one without."""

    def call(self, x, other, factor=0.5, training=True):
        if training:
            x = keras.random.dropout(x, 0.5)
        return factor * (x + other)


def test_a_layer_that_is_another_one_for_fewer_channels_stays_whole():
    graph = traced(RootOfWidth(name="mine"))
    assert graph.widths == {"b": 6}
    assert "it makes other values" in graph.unprunable[0][1]


def test_channels_of_two_tensors_that_meet_are_one():
    x = picture = image()
    x = Halved(name="mine")(
        conv(x, 8, name="a"), other=conv(x, 8, name="c"), factor=2.0
    )
    model = randomize(keras.Model(picture, head(conv(x, 6, name="b"))))
    assert trace_quietly(model).widths == {"a": 8, "b": 6}
    assert_compact_equals_gated(model, inputs_of(model))


def test_one_channel_that_goes_with_all_others_stays():
    x = picture = image()
    x = Halved()(conv(x, 8, name="a"), conv(x, 1, name="map"))
    model = randomize(keras.Model(picture, head(conv(x, 6, name="b"))))
    assert trace_quietly(model).widths == {"a": 8, "b": 6}
    assert_compact_equals_gated(model, inputs_of(model))


def test_a_given_output_shape_is_cut():
    layer = layers.Lambda(lambda x: x[:, 0], output_shape=(16, 8), name="mine")
    model = around(lambda x: ops.expand_dims(layer(x), 1))
    compact = rebuild(trace_quietly(model), {"a": [0, 1, 2]})
    assert compact.get_layer("mine").output.shape == (None, 16, 3)
    assert model.get_layer("mine").output.shape == (None, 16, 8)


def test_an_output_shape_that_tells_its_channels_by_itself_keeps_them():
    graph = of_lambda(lambda x: 2 * x, output_shape=lambda shape: (*shape[:-1], 8))
    assert graph.widths == {"b": 6}
    assert "the shape that it says to make" in graph.unprunable[0][1]


def test_sizes_that_are_left_open_are_tried_with_small_ones():
    picture = keras.Input((None, None, 3))
    x = layers.Lambda(lambda x: x[:, ::2] * 2)(conv(picture, 8, name="a"))
    graph = trace_quietly(keras.Model(picture, head(conv(x, 6, name="b"))))
    assert graph.widths == {"a": 8, "b": 6}


def test_large_maps_are_tried_in_full_where_few_positions_do_not_do():
    picture = keras.Input((256, 256, 3))
    x = layers.Lambda(lambda x: ops.reshape(x, (-1, 256, 256, x.shape[-1]))[:, 100:])(
        conv(picture, 4, name="a")
    )
    graph = trace_quietly(keras.Model(picture, head(conv(x, 6, name="b"))))
    assert graph.widths == {"a": 4, "b": 6}


def test_a_probe_leaves_nothing_behind():
    layer = Halved(activity_regularizer="l2")
    x = picture = image()
    x = layer(conv(x, 8, name="a"), conv(x, 8, name="c"))
    model = keras.Model(picture, head(conv(x, 6, name="b")))
    before = models.state_of(model)
    nodes, losses = len(layer._inbound_nodes), len(model.losses)
    trace_quietly(model)
    models.assert_state(model, before)
    assert (len(layer._inbound_nodes), len(model.losses)) == (nodes, losses)


def test_products_in_a_lambda_are_of_each_channel():
    matrix = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
    rows = layers.Lambda(lambda x: ops.einsum("bhwc,hk->bkwc", x, matrix))
    model = around(rows)
    graph = trace_quietly(model)
    compact = rebuild(graph, {"a": [0, 1, 2]})
    assert keras_greedy.macs(compact) == Costs(graph).macs({"a": 3})


# Each reads all channels of maps, and is to be multiplied by them.
READING = {
    "mean": lambda x: ops.mean(x, axis=-1, keepdims=True),
    "max": lambda x: ops.expand_dims(ops.max(x, axis=-1), -1),
    "std": lambda x: ops.std(x, axis=-1, keepdims=True),
    "zeros add nothing": lambda x: ops.norm(x, axis=-1, keepdims=True),
}


@pytest.mark.parametrize("kind", READING)
def test_a_lambda_that_reads_all_channels_is_taken_over_the_kept_ones(kind):
    statistic = layers.Lambda(READING[kind], name="mine")
    model = randomize(around(lambda x: x * statistic(x)))
    graph = trace_quietly(model)
    assert graph.widths == {"a": 8, "b": 6}
    assert graph.probed == [("mine", f"Lambda over all channels: {kind}")]
    assert_compact_equals_gated(model, inputs_of(model))


def test_a_lambda_that_divides_by_the_length_is_one_of_the_kept_channels():
    model = randomize(around(layers.Lambda(lambda x: ops.normalize(x, axis=-1))))
    graph = trace_quietly(model)
    assert graph.widths == {"a": 8, "b": 6}
    assert [call.rule.normalizes for call in graph.groups[0].normalizers] == [True]
    assert_compact_equals_gated(model, inputs_of(model))


def test_channels_that_only_a_statistic_reads_stay_with_the_reason():
    x = picture = image()
    x = layers.Lambda(READING["mean"], name="mine")(conv(x, 8, name="a"))
    graph = trace_quietly(keras.Model(picture, x))
    assert graph.widths == {}
    assert graph.unprunable == [
        ("mine", "nothing else reads the channels that it is a statistic of")
    ]


class Weighed(layers.Layer):
    """A sum with a weight for each summand, as of a BiFPN."""

    def build(self, shapes):
        self.factors = self.add_weight(shape=(len(shapes),), name="factors")

    def call(self, tensors):
        return sum(self.factors[i] * x for i, x in enumerate(tensors))

    def compute_output_shape(self, shapes):
        return shapes[0]


def test_a_layer_whose_weights_are_of_no_channel_is_probed_with_them():
    model = randomize(around(lambda x: Weighed(name="mine")([x, ops.tanh(x)])))
    graph = trace_quietly(model)
    assert (graph.widths, graph.probed) == ({"a": 8, "b": 6}, [("mine", "Weighed")])
    compact = assert_compact_equals_gated(model, inputs_of(model))
    own, cut = (each.get_layer("mine").factors for each in (model, compact))
    np.testing.assert_array_equal(own, cut)


@keras.saving.register_keras_serializable("tests")
class Places(layers.Layer):
    """A table for all positions and channels, whose sizes are in its config."""

    def __init__(self, rows, columns, width, **kwargs):
        super().__init__(**kwargs)
        self.sizes = {"rows": rows, "columns": columns, "width": width}
        self.table = self.add_weight(shape=(rows, columns, width))
        self.built = True

    def call(self, x):
        return x + self.table

    def get_config(self):
        return super().get_config() | self.sizes


@keras.saving.register_keras_serializable("tests")
class Border(layers.Layer):
    """A learned line of pixels above an image."""

    def build(self, shape):
        _, _, width, channels = shape
        self.line = self.add_weight(shape=(1, 1, width, channels), name="line")

    def call(self, x):
        line = ops.repeat(self.line, ops.shape(x)[0], axis=0)
        return ops.concatenate([line, x], axis=1)


OF_EACH_CHANNEL = {
    "scale": lambda: models.Scale(name="mine"),
    "sizes in the config": lambda: Places(16, 16, 8, name="mine"),
    "more positions": lambda: Border(name="mine"),
}


@pytest.mark.parametrize("kind", OF_EACH_CHANNEL)
def test_a_layer_with_weights_of_each_channel_is_cut_with_them(kind, tmp_path):
    model = randomize(around(OF_EACH_CHANNEL[kind]()))
    graph = trace_quietly(model)
    assert graph.widths == {"a": 8, "b": 6}
    assert [name for name, _ in graph.probed] == ["mine"]
    compact = assert_compact_equals_gated(model, inputs_of(model))
    assert compact.get_layer("mine").weights[0].shape[-1] == 4
    costs = Costs(graph)
    assert costs.macs({"a": 4, "b": 3}) == keras_greedy.macs(compact)
    assert costs.params({"a": 4, "b": 3}) == compact.count_params()


def test_sizes_that_happen_to_be_the_number_of_channels_are_told_apart():
    picture = image(size=8)
    x = Places(8, 8, 8, name="mine")(conv(picture, 8, name="a"))
    model = randomize(keras.Model(picture, head(conv(x, 6, name="b"))))
    compact = rebuild(trace_quietly(model), {"a": [1, 5]})
    assert compact.get_layer("mine").table.shape == (8, 8, 2)


def test_a_layer_with_weights_that_mixes_the_channels_stays_whole():
    assert traced(models.Turn(name="mine")).widths == {"b": 6}
