"""Tests that multiply-accumulates are counted wherever they are made."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_greedy
from keras_greedy import IN, OUT, Rule, macs, register_rule

pytestmark = pytest.mark.filterwarnings("ignore:Some channels")

STEPS, CHANNELS = 12, 8


def of(make, shape=(STEPS, CHANNELS)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, make(inputs))


class Windows(layers.Layer):
    """Attention in windows of 4 positions, which become examples."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(3 * CHANNELS)
        self.last = layers.Dense(CHANNELS)

    def build(self, shape):
        self.first.build((None, 4, CHANNELS))
        self.last.build((None, 4, CHANNELS))
        self.calls = self.add_weight(shape=(), trainable=False, name="calls")
        self.scale = self.add_weight(shape=(CHANNELS,), name="scale")

    def call(self, x):
        self.calls.assign_add(1)
        windows = ops.reshape(self.scale * x, (-1, 4, CHANNELS))
        query, key, value = ops.split(self.first(windows), 3, axis=-1)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
        made = self.last(ops.matmul(ops.softmax(scores), value))
        return ops.reshape(made, (-1, STEPS, CHANNELS))


def inner_model(x):
    inputs = keras.Input((STEPS, CHANNELS))
    inner = keras.Model(inputs, layers.LSTM(5)(layers.Conv1D(6, 3)(inputs)))
    return layers.TimeDistributed(inner)(ops.expand_dims(x, 1))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (layers.SimpleRNN(5), 12 * (8 + 5) * 5),
        (layers.LSTM(5), 12 * (8 + 5) * 5 * 4),
        (layers.GRU(5), 12 * (8 + 5) * 5 * 3),
        (layers.Bidirectional(layers.LSTM(5)), 2 * 12 * (8 + 5) * 5 * 4),
        (
            layers.RNN([layers.LSTMCell(5), layers.GRUCell(4)]),
            12 * ((8 + 5) * 5 * 4 + (5 + 4) * 4 * 3),
        ),
        (layers.EinsumDense("abc,cd->abd", (None, 16)), 12 * 8 * 16),
        (layers.TimeDistributed(layers.Dense(16)), 12 * 8 * 16),
        (layers.SpectralNormalization(layers.Conv1D(6, 3)), 10 * 3 * 8 * 6),
        (
            lambda x: layers.MultiHeadAttention(2, 4)(x, x),
            4 * 12 * 8 * 8 + 2 * 2 * 12 * 12 * 4,
        ),
        (
            lambda x: layers.GroupQueryAttention(4, 2, 1)(x, x),
            12 * 8 * (8 + 4 + 4 + 8) + 2 * 2 * 12 * 12 * 4,
        ),
        (lambda x: layers.Attention()([x, x]), 2 * 12 * 12 * 8),
        (lambda x: layers.AdditiveAttention()([x, x]), 12 * 12 * 8),
        (lambda x: layers.Dot(axes=2)([x, x]), 12 * 12 * 8),
        (lambda x: ops.einsum("btc,bsc->bts", x, x), 12 * 12 * 8),
        (layers.Lambda(lambda x: ops.matmul(x, ops.ones((8, 3)))), 12 * 8 * 3),
        (Windows(), 12 * 8 * 4 * 8 + 2 * 3 * 4 * 4 * 8),
        (lambda x: layers.Dense(5)(ops.reshape(x, (-1, 4, 8))), 12 * 8 * 5),
        (inner_model, 10 * 3 * 8 * 6 + 10 * (6 + 5) * 5 * 4),
        (
            lambda x: layers.ConvLSTM2D(4, 2)(ops.reshape(x, (-1, 3, 4, 4, 2))),
            3 * 3 * 3 * (2 * 2 * 2 * 16 + 2 * 2 * 4 * 16),
        ),
    ],
)
def test_products_count_where_they_are_made(make, expected):
    assert macs(of(make)) == expected


def test_counting_leaves_the_model_as_it_was():
    model = of(Windows())
    windows = model.layers[-1]
    before = [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]
    nodes = [len(x._inbound_nodes) for x in (windows, windows.first, windows.last)]
    macs(model)
    after = [len(x._inbound_nodes) for x in (windows, windows.first, windows.last)]
    assert after == nodes
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(weight), value)
    scale = windows.scale * 2.0
    assert not isinstance(scale, keras.KerasTensor)


def test_layer_that_cannot_be_looked_into_is_named():
    class Opaque(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

        def compute_output_shape(self, shape):
            return (*shape[:-1], 4)

        def call(self, x):
            return ops.convert_to_tensor(ops.convert_to_numpy(x) @ self.kernel)

    with pytest.warns(UserWarning, match=r"not counted(.|\n)*the_opaque_one: "):
        count = macs(of(lambda x: layers.Dense(3)(Opaque(name="the_opaque_one")(x))))
    assert count == 12 * 4 * 3


def test_sequence_of_any_length_is_named():
    with pytest.warns(UserWarning, match=r"lstm: a tensor of shape \(1, None, 8\)"):
        count = macs(of(layers.LSTM(5, name="lstm"), (None, CHANNELS)))
    assert count == 0


class TwiceMixing(layers.Layer):
    """Applies its matrix to the positions and once more to their neighbours."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], self.units), name="matrix")

    def call(self, x):
        return ops.matmul(x, self.matrix) + ops.matmul(ops.roll(x, 1, 1), self.matrix)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@register_rule(TwiceMixing)
class TwiceMixingRule(Rule):
    produces = True
    consumes = True
    width = "units"
    weight_axes = {"matrix": (IN, OUT)}


def test_predicted_macs_of_own_rule_are_those_of_the_compact_model():
    model = of(lambda x: layers.Dense(3)(TwiceMixing(16)(TwiceMixing(24)(x))))
    assert macs(model) == 2 * 12 * (8 * 24 + 24 * 16) + 12 * 16 * 3
    data = np.random.default_rng(0).normal(size=(16, STEPS, CHANNELS))
    paths = keras_greedy.search(model, data, objective="local", verbose=0)
    report = paths.report(0.6)
    compact = paths.compact(0.6)
    assert report.macs.after == macs(compact) <= 0.6 * macs(model)


def test_budget_counts_the_layers_that_stay_whole():
    model = of(lambda x: layers.Dense(3)(layers.Dense(32)(layers.LSTM(16)(x))))
    whole = 12 * (8 + 16) * 16 * 4
    data = np.random.default_rng(0).normal(size=(16, STEPS, CHANNELS))
    with pytest.raises(ValueError, match="budget"):
        keras_greedy.prune(model, data, 0.5, verbose=0)
    compact = keras_greedy.prune(
        model, data, keras_greedy.Budget(macs=whole + 16 * 16 + 16 * 3), verbose=0
    )
    assert macs(compact) == whole + 16 * 16 + 16 * 3
