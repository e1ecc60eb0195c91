"""Layers made of layers, models with a `call` of their own, heads of attention."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import Channels, Residual, head, image, inputs_of, outputs_of, randomize

import keras_greedy
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly

FIRST = [0, 1, 2]

# Layers whose `build` is Keras' own, as those of most users.
pytestmark = pytest.mark.filterwarnings("ignore:.*(build|unbuilt)")


def block_of(call, name="block", **attributes):
    """A layer of a class of its own, made of the attributes that are layers."""

    class Block(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.a = layers.Conv2D(8, 1)
            self.b = layers.Conv2D(6, 1)
            for attribute, value in attributes.items():
                setattr(self, attribute, value)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 6)

    Block.call = call
    return Block(name=name)


def model_with(block, *calls):
    picture = image(size=8)
    x = layers.Conv2D(6, 3, name="stem")(picture)
    for options in calls or ({},):
        x = block(x, **options)
    return randomize(keras.Model(picture, head(x)))


def reason_of(model):
    ((name, reason),) = trace_quietly(model).unprunable
    assert name == "block"
    return reason


# --- Blocks --------------------------------------------------------------------------


def test_only_a_block_that_is_cut_is_taken_apart():
    model = randomize(models.layers_made_of_layers())
    compact = rebuild(trace_quietly(model), {"wider/expand": FIRST})
    kinds = {layer.name: type(layer).__name__ for layer in compact.layers}
    assert kinds["wider"] == "Functional"
    assert (kinds["block"], kinds["inner"]) == ("Residual", "Channels")
    wider = compact.get_layer("wider")
    assert wider.get_layer("expand").filters == 3
    assert wider.get_layer("last").filters == 7


def test_a_block_without_a_config_is_taken_apart_in_any_case():
    class Bare(layers.Layer):
        def __init__(self, convolution, **kwargs):
            super().__init__(**kwargs)
            self.inner = convolution

        def call(self, x):
            return self.inner(x)

    model = model_with(Bare(layers.Conv2D(5, 1), name="block"))
    compact = rebuild(trace_quietly(model), {})
    assert isinstance(compact.get_layer("block"), keras.Model)
    x = inputs_of(model)
    np.testing.assert_allclose(
        *outputs_of(model, x), *outputs_of(compact, x), atol=1e-6
    )


def test_the_mode_of_training_reaches_what_it_reached():
    picture = image(size=8)
    model = randomize(keras.Model(picture, head(Residual(6, name="block")(picture))))
    compact = rebuild(trace_quietly(model), {"block/expand": FIRST})
    block = compact.get_layer("block")
    assert [type(own).__name__ for own in block.layers].count("Dropout") == 1
    x = inputs_of(model, 8)
    statistics = block.get_layer("inner_0").moving_mean
    before = ops.convert_to_numpy(statistics).copy()
    one, other = (ops.convert_to_numpy(compact(x)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(before, ops.convert_to_numpy(statistics))
    one, other = (ops.convert_to_numpy(compact(x, training=True)) for _ in range(2))
    assert np.abs(one - other).max() > 0
    assert np.abs(before - ops.convert_to_numpy(statistics)).max() > 0


def resizes(self, x):
    return layers.Resizing(6, 6)(self.b(self.a(x)))


def makes_layers(self, x, training=None):
    x = layers.ReLU()(self.a(x, training=training))
    return ops.mean(self.b(x)[..., None], axis=-1)


def drops(self, x, training=True):
    return self.b(self.drop(self.a(x), training=training))


@pytest.mark.parametrize("call", [resizes, drops, makes_layers])
def test_a_block_is_cut_that_is_in_training_by_default_or_makes_layers_in_its_call(
    call,
):
    model = model_with(block_of(call, drop=layers.Dropout(0.5)))
    graph = trace_quietly(model)
    assert {"block/a", "block/b"} <= {*graph.widths}
    compact = rebuild(graph, {"block/a": FIRST})
    x = inputs_of(model)
    np.testing.assert_array_equal(outputs_of(compact, x), outputs_of(compact, x))


def test_layers_without_a_name_of_their_own_are_named_as_attributes():
    block = block_of(
        lambda self, x: self.b(self.a(x)) + self.more["wide"](self.row[0](x)),
        row=[layers.Conv2D(4, 1)],
        more={"wide": layers.Conv2D(6, 1)},
    )
    widths = trace_quietly(model_with(block)).widths
    assert widths == {"stem": 6, "block/row_0": 4, "block/a": 8, "block/b": 6}


def test_layers_of_one_name_are_told_apart():
    block = block_of(
        lambda self, x: self.second(self.first(x)),
        first=layers.Conv2D(4, 1, name="conv"),
        second=layers.Conv2D(5, 1, name="conv"),
        a=None,
        b=None,
    )
    model = model_with(block)
    assert trace_quietly(model).widths == {
        **{"stem": 6, "block/conv": 4, "block/conv_1": 5}
    }
    keras_greedy.testing.assert_compact_equals_gated(model, inputs_of(model))


class ScaledBlock(Residual):
    def build(self, shape):
        super().build(shape)
        self.factor = self.add_weight(shape=(self.filters,), name="factor")

    def call(self, x):
        return super().call(x) * self.factor


def decides(self, x):
    return self.b(self.a(x)) if ops.max(x) > 0 else x


def halves_in_training(self, x, training=None):
    return self.b(self.a(x)) * (0.5 if training else 1.0)


def adds_a_loss(self, x):
    self.add_loss(ops.mean(x))
    return self.b(self.a(x))


def convolves_itself(self, x):
    if not self.a.built:
        self.b(self.a(x))
    return self.b(ops.conv(x, self.a.kernel * 2) + self.a.bias)


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (ScaledBlock(6, name="block"), "holds weights of its own"),
        (block_of(decides), "cannot be called on symbolic tensors"),
        (block_of(halves_in_training), "computes otherwise in training"),
        (block_of(adds_a_loss), "`add_loss()` can only be called"),
        (block_of(convolves_itself), "computes with weights itself"),
    ],
)
def test_a_block_that_is_not_its_layers_alone_stays_whole(block, reason):
    model = model_with(block)
    assert reason in reason_of(model)
    assert not model._losses


def test_a_block_that_expects_a_constant_for_all_examples_stays_whole():
    def over_examples(self, x):
        numbers = np.arange(36).reshape(1, 6, 6)
        return self.b(self.a(x)) + ops.sum(self.position(numbers), 0, keepdims=True)

    block = block_of(over_examples, position=layers.Embedding(36, 6))
    assert reason_of(model_with(block)) == (
        "it is made of layers, and calls one on constants, not on its input"
    )


def test_a_model_that_is_one_block_left_whole_is_named_once():
    block = block_of(lambda self, x: self.factor * self.b(self.a(x)))
    block.factor = block.add_weight(shape=(), name="factor")
    picture = keras.Input((8, 8, 6))
    model = keras.Model(picture, block(block(picture)))
    reason = "it is made of layers, and holds weights of its own"
    assert trace_quietly(model).unprunable == [("block", reason)]


def test_a_block_called_in_different_ways_stays_whole():
    block = block_of(lambda self, x, twice=False: self.b(self.a(2 * x if twice else x)))
    model = model_with(block, {"twice": False}, {"twice": True})
    assert "called in different ways" in reason_of(model)


def test_a_block_that_gets_a_mask_stays_whole():
    words = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 6, mask_zero=True, name="table")(words)
    dense = block_of(
        lambda self, x: self.first(x), first=layers.Dense(6), a=None, b=None
    )
    dense.supports_masking = True
    model = keras.Model(words, layers.GRU(3, name="gru")(dense(x)))
    assert ("block", "it is made of layers, and gets a mask of positions") in (
        trace_quietly(model).unprunable
    )


# --- Models with a call of their own --------------------------------------------------


def built(size=8):
    model = Channels(16, name="mine")
    model(np.zeros((1, size, size, 3), "float32"))
    return randomize(model)


def test_a_subclassed_model_is_pruned_on_inputs_like_the_data():
    model = built()
    x = np.random.default_rng(0).normal(size=(160, 12, 12, 3)).astype("float32")
    nodes = [len(own._inbound_nodes) for own in model._flatten_layers()]
    compact = keras_greedy.prune(model, x, 0.6, verbose=0)
    assert compact.input_shape == (None, 12, 12, 3)
    assert [layer.name for layer in compact.layers][1] == "conv"
    assert nodes == [len(own._inbound_nodes) for own in model._flatten_layers()]
    whole = keras_greedy.prune(model, iter([x]), 1.0, verbose=0)
    np.testing.assert_allclose(model(x), whole(x), atol=1e-4)


def test_a_subclassed_model_of_two_inputs_takes_a_list_of_arrays():
    class Distance(keras.Model):
        def __init__(self):
            super().__init__()
            self.features = keras.Sequential(
                [layers.Dense(16, "relu"), layers.Dense(4)]
            )

        def call(self, pair):
            return ops.abs(self.features(pair[0]) - self.features(pair[1]))

    pair = list(np.random.default_rng(0).normal(size=(2, 160, 5)).astype("float32"))
    model = Distance()
    model(pair)
    compact = keras_greedy.prune(model, pair, 0.6, verbose=0)
    assert [tensor.shape for tensor in compact.inputs] == [(None, 5), (None, 5)]
    assert keras_greedy.macs(compact) <= 0.6 * 2 * (5 * 16 + 16 * 4)


def test_a_subclassed_model_is_compared_with_its_compact_one():
    model = built()
    graph = keras_greedy.trace(model)
    assert graph.widths == {"blocks_0/expand": 32, "blocks_1/expand": 32}
    compact = rebuild(graph, {"blocks_0/expand": FIRST})
    widths = keras_greedy.compare(model, compact).widths["blocks_0/expand"]
    assert (widths.before, widths.after) == (32, 3)


def test_a_compiled_subclassed_model_is_trained_on_as_it_was():
    model = built()
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(160, 8, 8, 3)).astype("float32")
    y = np.asarray(model(x))
    compact = keras_greedy.prune(
        model, (x, y), 0.6, finetune=keras_greedy.FineTune(epochs=1), verbose=0
    )
    assert compact.compiled and compact.loss == "mse"


# --- Attention -----------------------------------------------------------------------


def attention_model(layer, width=8):
    x = words = keras.Input((6, 5))
    x = layers.Dense(width, name="stream")(x)
    x = layers.Dense(4, name="behind")(layer(x, x))
    return randomize(keras.Model(words, layers.GlobalAveragePooling1D()(x)))


def test_an_attention_that_is_cut_is_one_with_fewer_heads():
    model = attention_model(layers.MultiHeadAttention(4, 3, name="attention"))
    graph = trace_quietly(model)
    assert graph.widths["attention/query"] == 4
    compact = rebuild(graph, {"attention/query": [0, 3], "stream": FIRST})
    attention = compact.get_layer("attention")
    assert isinstance(attention, layers.MultiHeadAttention)
    assert (attention.num_heads, attention.key_dim) == (2, 3)
    assert attention.query_dense.kernel.shape == (3, 2, 3)
    kept = model.get_layer("attention").query_dense.kernel.numpy()[FIRST][:, [0, 3]]
    np.testing.assert_array_equal(attention.query_dense.kernel.numpy(), kept)


def test_an_attention_whose_values_are_of_another_size_stays_whole():
    layer = layers.MultiHeadAttention(4, 3, value_dim=2, name="attention")
    graph = trace_quietly(attention_model(layer))
    assert ("attention", "its values have another size than its keys") in (
        graph.unprunable
    )


def test_shared_keys_whose_output_is_cut_alone_are_layers_of_their_own():
    layer = layers.GroupQueryAttention(3, 6, 2, name="attention")
    graph = trace_quietly(attention_model(layer))
    compact = rebuild(graph, {"attention/attention_output": FIRST})
    assert isinstance(compact.get_layer("attention"), keras.Model)
    assert compact.get_layer("attention").output_shape[-1] == 3


def test_queries_that_share_keys_go_together():
    layer = layers.GroupQueryAttention(3, 6, 2, name="attention")
    graph = trace_quietly(attention_model(layer))
    assert graph.widths["attention/query"] == 2
    attention = rebuild(graph, {"attention/query": [1]}).get_layer("attention")
    assert (attention.num_query_heads, attention.num_key_value_heads) == (3, 1)


def test_an_attention_without_biases_gets_one_for_what_goes():
    layer = layers.MultiHeadAttention(2, 8, use_bias=False, name="attention")
    model = attention_model(layer)
    x = np.random.default_rng(0).normal(1, 1, (160, 6, 5)).astype("float32")
    paths = keras_greedy.search(model, x, verbose=0)
    compact = paths.compact(keras_greedy.Budget(macs=0.6, round_to=1))
    costs = keras_greedy.compare(model, compact)
    assert costs.macs.after <= 0.6 * costs.macs.before
    assert paths.report(keras_greedy.Budget(macs=0.6, round_to=1)) == costs


def test_heads_are_cut_one_by_one_where_they_are_wide():
    widths = keras_greedy.Budget(macs=0.5).widths_of
    assert widths(4, entries=8) == [1, 2, 3, 4]
    assert widths(8, entries=4) == [2, 4, 6, 8]
    assert widths(20) == [8, 16, 20]


def test_a_vit_loses_less_with_heads_chosen_than_with_the_greatest():
    """Heads of little effect and great weights: what a norm would keep."""
    layer = layers.MultiHeadAttention(4, 8, name="attention")
    model = attention_model(layer, width=16)
    output = layer.output_dense.kernel
    kernel = ops.convert_to_numpy(output).copy()
    kernel[[0, 2]] = 0
    output.assign(kernel)
    value = ops.convert_to_numpy(layer.value_dense.kernel).copy()
    value[:, [0, 2]] *= 100
    layer.value_dense.kernel.assign(value)
    x = np.random.default_rng(0).normal(size=(160, 6, 5)).astype("float32")
    paths = keras_greedy.search(model, x, verbose=0)
    assert {*paths.paths["attention/query"].order[:2].tolist()} == {1, 3}
