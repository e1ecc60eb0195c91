"""Recurrent layers and wrappers as readers of channels."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import inputs_of, outputs_of, randomize

import keras_greedy
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.consumers import consumers_by_call

STEPS = 3


def each(layer):
    return layers.TimeDistributed(layer)


# What reads a sequence of 8 channels, or of rows of them.
READERS = {
    "LSTM": lambda: layers.LSTM(3),
    "LSTM without a bias": lambda: layers.LSTM(3, use_bias=False),
    "GRU": lambda: layers.GRU(3, return_sequences=True, go_backwards=True),
    "GRU of one bias": lambda: layers.GRU(3, reset_after=False),
    "SimpleRNN": lambda: layers.SimpleRNN(3, unroll=True, recurrent_dropout=0.2),
    "Bidirectional": lambda: layers.Bidirectional(layers.LSTM(3)),
    "Bidirectional without a bias": lambda: layers.Bidirectional(
        layers.GRU(3, use_bias=False), merge_mode="ave"
    ),
    "ConvLSTM1D": lambda: layers.ConvLSTM1D(2, 2, strides=2),
    "ConvLSTM1D, dilated": lambda: layers.ConvLSTM1D(
        2, 3, padding="same", dilation_rate=2, use_bias=False, return_sequences=True
    ),
    "TimeDistributed Dense": lambda: each(layers.Dense(3, "tanh", use_bias=False)),
    "TimeDistributed Conv1D": lambda: each(layers.Conv1D(3, 2, activation="tanh")),
    "TimeDistributed GRUs": lambda: each(
        layers.Bidirectional(layers.GRU(2, unroll=True))
    ),
}


def reading(reader):
    """A model whose "a" makes 4 channels, and 4 others that are multiples of them."""
    is_of_rows = "Conv" in reader or "TimeDistributed" in reader
    is_of_rows &= reader != "TimeDistributed Dense"
    x = inputs = keras.Input((STEPS, 5, 4) if is_of_rows else (STEPS, 4))
    x = layers.Dense(8, use_bias=False, name="a")(x)
    model = randomize(keras.Model(inputs, READERS[reader]()(x)))
    kernel = ops.convert_to_numpy(model.get_layer("a").kernel)
    model.get_layer("a").kernel.assign(np.hstack([kernel[:, :4], 2 * kernel[:, :4]]))
    return model


@pytest.mark.parametrize("reader", READERS)
def test_the_kernel_of_the_input_makes_up_for_channels_that_others_tell(reader):
    model = reading(reader)
    x = inputs_of(model, 200)
    paths = keras_greedy.search(model, x, objective="local", verbose=0)
    assert len({channel % 4 for channel in paths.paths["a"].kept(4)}) == 4
    half = Costs(trace_quietly(model)).macs({"a": 4})
    compact = paths.compact(keras_greedy.Budget(macs=half, round_to=1))
    assert compact.get_layer("a").units == 4
    for found, full in zip(outputs_of(compact, x), outputs_of(model, x), strict=True):
        assert np.abs(found - full).max() < 0.02 * np.abs(full).max()


@pytest.mark.parametrize(
    "name", ["embedded_words", "recurrent_layers", "video", "spectrally_normalized"]
)
def test_a_network_of_consumers_computes_the_model(name):
    """Its masks and initial states among what they are applied to."""
    model = models.shared(name)
    graph, x = folded(trace_quietly(model)), inputs_of(model)
    consumers = consumers_by_call(graph)

    def apply(call, *args, **kwargs):
        consumer = consumers.get(call.index)
        if consumer is None:
            return call.operation(*args, **kwargs)
        kernel = consumer.kernel(consumer.matrix()).astype("float32")
        bias = consumer.bias().astype("float32")
        return consumer.apply(args[0], kernel, bias, *args[1:], **kwargs)

    found = graph.run_all(keras.tree.flatten(x), apply)
    for output, true in zip(found, outputs_of(model, x), strict=True):
        np.testing.assert_allclose(output, true, rtol=1e-4, atol=1e-5)


def test_sequences_of_any_length_have_no_macs_to_save():
    x = words = keras.Input((None,), dtype="int32")
    x = layers.LSTM(4, name="lstm")(layers.Embedding(9, 8)(x))
    model = keras.Model(words, layers.Dense(3)(x))
    tokens = np.zeros((8, 5), "int32")
    with (
        pytest.raises(ValueError, match=r"a fixed input size.*layer 'lstm'"),
        pytest.warns(UserWarning, match="units of a recurrent layer"),
    ):
        keras_greedy.search(model, tokens, verbose=0)


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU, layers.SimpleRNN])
def test_layers_with_dropout_have_the_macs_of_those_without(kind):
    def macs(**options):
        return keras_greedy.macs(
            keras.Sequential([keras.Input((STEPS, 5)), kind(4, **options)])
        )

    assert macs(dropout=0.2, recurrent_dropout=0.1) == macs() > 0


def test_a_layer_keeps_its_state_out_of_a_search():
    x = words = keras.Input(batch_shape=(4, STEPS, 5))
    layer = layers.GRU(3, stateful=True)
    model = randomize(keras.Model(words, layer(layers.Dense(8, name="a")(x))))
    x = inputs_of(model)
    keras_greedy.search(model, x, verbose=0)
    np.testing.assert_array_equal(layer.states[0], np.zeros((4, 3)))
