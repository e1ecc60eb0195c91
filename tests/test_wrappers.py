"""Wrapping a model, saving it, and taking the wrappers off again."""

import pathlib
import subprocess
import sys

import keras
import models
import numpy as np
import pytest
from keras import layers
from models import TOPOLOGIES, UNPRUNABLE, assert_same, inputs_of, randomize

import keras_greedy
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.testing import gated
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import ChannelGate, GreedyChannels, wrappers_of

QUICK = {
    *("sequential", "inverted_residuals", "dense_connections", "two_flattens"),
    *("transfer_learning", "siamese", "layer_normalized", "no_bias_anywhere"),
}


def cnn_layers():
    """Fresh layers of a small network, each group read by one of them."""
    return [
        layers.Conv2D(8, 3, use_bias=False, name="a"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(name="relu"),
        layers.Conv2D(16, 3, strides=2, name="b"),
        layers.GlobalAveragePooling2D(name="pool"),
        layers.Dense(5, activation="softmax", name="head"),
    ]


def functional(own):
    x = picture = models.image()
    for layer in own:
        x = layer(x)
    return keras.Model(picture, x)


def sequential(own):
    return keras.Sequential([models.image(), *own])


# As tests of TF-MOT have it: a model of either kind, or of layers wrapped before.
STYLES = {
    "functional": lambda **kw: prune(functional(cnn_layers()), **kw),
    "sequential": lambda **kw: prune(sequential(cnn_layers()), **kw),
    "list of layers": lambda **kw: sequential(prune(cnn_layers(), **kw)),
    "single layers": lambda **kw: functional([prune(o, **kw) for o in cnn_layers()]),
}

FORMATS = {
    "keras": lambda model, folder: saved(model, folder / "model.keras"),
    "h5": lambda model, folder: saved(model, folder / "model.h5"),
    "weights": lambda model, folder: with_weights(model, folder / "w.weights.h5"),
    "config": lambda model, folder: with_weights(model, folder / "w.weights.h5"),
}


def prune(to_prune, schedule=None, **kwargs):
    return keras_greedy.prune_greedy(to_prune, schedule, **kwargs)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def saved(model, path):
    model.save(path)
    return keras.models.load_model(path)


def with_weights(model, path):
    model.save_weights(path)
    new = keras.models.clone_model(model)
    new.load_weights(path)
    return new


def select(wrapped, share=0.5):
    """Closes gates at random; returns what is kept."""
    view = GatedModel(wrapped)
    kept = {
        n: np.sort(s) for n, s in models.random_selection(view.graph, share).items()
    }
    view.keep(kept, {}, {})
    return kept


READ_BY_OPERATIONS = "attention_by_channel_statistics"
# Of others, those groups alone are wrapped; none of models made of blocks.
PARTLY = {
    "weighed_by_neighbours": {"b": 6},
    "embedded_words": {"table": 8, "b": 4},
    "transformer": {"einsum": 5},
    "products_of_tensors": {"a": 6, "b": 5},
    "recurrence_and_attention": {"z": 7, "a": 9},
    "recurrence_of_other_kinds": {"c": 3},
}
NOT_WRAPPED = [
    READ_BY_OPERATIONS,
    "recurrent_layers",
    "layers_made_of_layers",
    "embedded_positions",
]


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in [*TOPOLOGIES, *UNPRUNABLE]
        if name not in NOT_WRAPPED
    ],
)
@pytest.mark.filterwarnings("ignore:Some channels of model")
@pytest.mark.filterwarnings("ignore:These groups of channels stay whole while")
def test_wrapped_is_gated_and_stripped_is_rebuilt(name):
    build = TOPOLOGIES[name] if name in TOPOLOGIES else UNPRUNABLE[name][0]
    model = randomize(build())
    graph, x, before = trace_quietly(model), inputs_of(model), models.state_of(model)
    wrapped = prune(model)
    assert_same(wrapped, model, x, 1e-5)
    assert GatedModel(wrapped).graph.widths == PARTLY.get(name, graph.widths)
    selection = select(wrapped)
    assert_same(wrapped, gated(graph, selection), x)
    compact = keras_greedy.strip_pruning(wrapped)
    assert_same(compact, wrapped, x)
    assert_same(compact, rebuild(graph, selection), x)
    names = [layer.name for layer in model.layers]
    assert [layer.name for layer in compact.layers] == names
    assert_same(prune(wrapped), wrapped, x)
    models.assert_state(model, before)


def test_a_group_that_a_recurrent_layer_reads_stays_whole():
    with pytest.warns(UserWarning, match=r"no layer with a gate(?s:.*)\n  a: .*gru"):
        prune(randomize(TOPOLOGIES["recurrent_layers"]()))


def test_groups_that_operations_read_which_are_no_layers_stay_whole():
    model = randomize(TOPOLOGIES[READ_BY_OPERATIONS]())
    with pytest.warns(
        UserWarning, match=r"no layer.*\n  a: .*mean.*\n  b: .*normalize"
    ):
        wrapped = prune(model)
    assert GatedModel(wrapped).graph.widths == {"c": 6}
    assert_same(keras_greedy.strip_pruning(wrapped), model, inputs_of(model), 1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_what_is_wrapped_computes_the_same_before_and_after(style):
    wrapped = randomize_layers(STYLES[style]())
    plain = keras_greedy.strip_pruning(wrapped)
    x = inputs_of(wrapped)
    assert_same(wrapped, plain, x, 1e-5)
    kept = select(wrapped)
    assert {name: len(k) for name, k in kept.items()} == {"a": 4, "b": 8}
    compact = keras_greedy.strip_pruning(wrapped)
    assert_same(compact, wrapped, x)
    assert trace_quietly(compact).widths == {"a": 4, "b": 8}
    assert type(compact) is type(wrapped)
    assert not any(
        type(o).__module__.startswith("keras_greedy") for o in compact.layers
    )


def randomize_layers(wrapped):
    """`randomize` for all weights but the gates."""
    kept = {id(v) for w in wrappers_of(wrapped) for g in w.gates for v in g.weights}
    values = {id(v): v.numpy() for v in wrapped.weights if id(v) in kept}
    randomize(wrapped)
    for variable in wrapped.weights:
        if id(variable) in values:
            variable.assign(values[id(variable)])
    return wrapped


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.filterwarnings("ignore")
def test_every_style_comes_back_from_every_format(style, format, tmp_path):
    wrapped = randomize_layers(STYLES[style](objective="local", step="line_search"))
    kept = select(wrapped)
    loaded = FORMATS[format](wrapped, tmp_path)
    assert_same(loaded, wrapped, inputs_of(wrapped), 1e-6)
    view = GatedModel(loaded)
    assert {n: k.tolist() for n, k in view.kept().items()} == {
        n: k.tolist() for n, k in kept.items()
    }
    for wrapper in wrappers_of(loaded):
        assert (wrapper.objective, wrapper.step) == ("local", "line_search")
    assert_same(keras_greedy.strip_pruning(loaded), wrapped, inputs_of(wrapped))


LOADS_WITH_US_ALONE = """
import sys
import keras_greedy
import tensorflow as tf
import numpy as np
model = tf.keras.models.load_model(sys.argv[1])
with np.load(sys.argv[2]) as file:
    np.testing.assert_allclose(model(file["x"]), file["y"], atol=1e-5)
wrappers = [layer for layer in model.layers if hasattr(layer, "gates")]
gates = [gate for wrapper in wrappers for gate in wrapper.gates]
assert len(gates) > len({id(gate) for gate in gates}) == int(sys.argv[3])
"""


def test_a_saved_model_needs_no_more_than_our_import_and_has_one_gate_per_group(
    tmp_path,
):
    wrapped = prune(randomize(models.residual_with_projection()))
    select(wrapped)
    x = inputs_of(wrapped)
    wrapped.save(tmp_path / "wrapped.keras")
    np.savez(tmp_path / "data.npz", x=x, y=wrapped(x))
    root = pathlib.Path(keras_greedy.__file__).parents[1]
    groups = len(GatedModel(wrapped).graph.groups)
    arguments = [tmp_path / "wrapped.keras", tmp_path / "data.npz", groups]
    command = [sys.executable, "-c", LOADS_WITH_US_ALONE, *map(str, arguments)]
    subprocess.run(command, check=True, cwd=root, timeout=120)


def test_a_gate_is_one_variable_for_all_that_read_its_group(tmp_path):
    wrapped = prune(models.residual_with_projection())
    wrapped.save(tmp_path / "wrapped.keras")
    for model in (wrapped, keras.models.load_model(tmp_path / "wrapped.keras")):
        readers = [
            wrapper
            for wrapper in wrappers_of(model)
            for gate in wrapper.gates
            if gate.name == "gate_of_expand_1"
        ]
        assert len(readers) > 1
        (gate,) = readers[0].gates
        gate.kept.assign(np.arange(12) < 5)
        assert [wrapper.kept().sum() for wrapper in readers] == [5] * len(readers)


def test_wrapping_twice_wraps_once():
    wrapped = prune(prune(functional(cnn_layers())))
    inside = [type(wrapper.layer) for wrapper in wrappers_of(wrapped)]
    assert inside == [layers.Conv2D, layers.Dense]
    layer = prune(layers.Dense(3))
    assert prune(layer) is layer
    assert prune([layer])[0] is layer


def test_wrapping_again_keeps_the_gates_whatever_the_new_policy():
    class OnlyA(keras_greedy.PruningPolicy):
        def allow_pruning(self, group):
            return group.name == "a"

    wrapped = prune(randomize(functional(cnn_layers())))
    GatedModel(wrapped).keep({"b": np.arange(5)}, {}, {})
    again = prune(wrapped, policy=OnlyA())
    assert {n: len(k) for n, k in GatedModel(again).kept().items()} == {"a": 8, "b": 5}
    assert_same(again, wrapped, inputs_of(wrapped), 1e-6)


def test_layers_that_do_not_read_channels_come_back_as_they_are():
    own = cnn_layers()
    wrapped = prune(own)
    same = [new is old for new, old in zip(wrapped, own, strict=True)]
    assert same == [False, True, True, False, True, False]


def test_a_group_with_a_reader_that_is_not_wrapped_stays_whole():
    own = cnn_layers()
    wrapped = functional([*own[:3], prune(own[3]), *own[4:]])
    assert GatedModel(wrapped).graph.widths == {"a": 8}


def test_a_wrapper_stands_for_its_layer():
    layer = layers.Conv2D(6, 3, kernel_regularizer="l2", activity_regularizer="l1")
    wrapper = prune(layer)
    assert isinstance(wrapper, keras.layers.Wrapper)
    assert wrapper.name == f"greedy_{layer.name}"
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(wrapper(x), layer(x), atol=1e-5)
    assert wrapper.compute_output_shape((2, 8, 8, 4)) == (2, 6, 6, 6)
    layer(x)
    assert len(wrapper.losses) == len(layer.losses) == 2
    names = [weight.name for weight in wrapper.trainable_weights]
    assert names == [weight.name for weight in layer.trainable_weights]
    assert {w.name for w in wrapper.non_trainable_weights} == {"kept", "error"}
    again = GreedyChannels.from_config(wrapper.get_config())
    again.build((2, 8, 8, 4))
    assert again.get_config() == wrapper.get_config()


def test_a_frozen_layer_stays_frozen():
    model = functional(cnn_layers())
    model.get_layer("b").trainable = False
    wrapped = prune(model)
    assert not wrapped.get_layer("greedy_b").trainable
    assert not keras_greedy.strip_pruning(wrapped).get_layer("b").trainable
    names = [weight.path for weight in wrapped.trainable_weights]
    assert len(names) == len(model.trainable_weights)


def test_a_reused_layer_is_wrapped_once():
    wrapped = prune(randomize(models.shared_convolution()))
    assert len(wrappers_of(wrapped)) == 3
    select(wrapped)
    assert_same(keras_greedy.strip_pruning(wrapped), wrapped, inputs_of(wrapped))


def test_a_normalization_that_is_called_on_other_channels_again_is_left_alone():
    unit, x = layers.UnitNormalization(name="unit"), models.image()
    y = unit(models.conv(x, 6, name="a"))
    y = unit(models.conv(y, 6, name="b"))
    model = keras.Model(x, models.head(models.conv(y, 4, name="c")))
    with pytest.warns(UserWarning, match=r"\n  a: b, unit\n  b: c, unit"):
        wrapped = prune(randomize(model))
    assert GatedModel(wrapped).graph.widths == {"c": 4}


def test_two_wrapped_models_in_one_keep_their_gates_apart():
    one, other = (prune(models.backbone(name)) for name in ("one", "other"))
    picture = models.image()
    model = keras.Model(picture, models.head(other(models.conv(one(picture), 3))))
    view = GatedModel(randomize_layers(model))
    view.keep({"one/expand": np.arange(5)}, {}, {})
    masks = view.masks()
    assert masks["one/expand"].sum() == 5
    assert masks["other/expand"].all()


def test_half_precision_is_kept(half_precision):
    wrapped = prune(functional(cnn_layers()))
    select(wrapped)
    assert (
        keras.backend.standardize_dtype(wrapped(inputs_of(wrapped)).dtype) == "float16"
    )
    assert_same(keras_greedy.strip_pruning(wrapped), wrapped, inputs_of(wrapped), 0.02)


def test_the_scope_knows_our_layers_and_schedules():
    with keras_greedy.prune_scope():
        known = keras.saving.get_custom_objects()
    assert known["keras_greedy>GreedyChannels"] is GreedyChannels
    assert known["keras_greedy>ConstantWidth"] is keras_greedy.ConstantWidth


ACCEPTED = "to be a layer, a list of layers, a Sequential or a Functional model"


@pytest.mark.parametrize(
    ("to_prune", "message"),
    [
        (object(), ACCEPTED),
        ("conv", ACCEPTED),
        ([layers.Dense(3), "x"], ACCEPTED),
        ([models.backbone()], ACCEPTED),
        (models.Channels(), "Functional or Sequential .* without a `call` of its own"),
        (keras.Sequential([layers.Dense(3)]), "to be built"),
    ],
)
def test_anything_else_is_refused(to_prune, message):
    with pytest.raises(ValueError, match=f"Expected .*{message}.*Received: "):
        prune(to_prune)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": 0.5}, "`selection_schedule`.* Received: selection_schedule=0.5"),
        ({"objective": "x"}, "Expected `objective`"),
        ({"step": "x"}, "Expected `step`"),
        ({"policy": "x"}, "Expected `policy`"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        prune(functional(cnn_layers()), **arguments)


def test_a_policy_for_layers_is_refused():
    with pytest.raises(ValueError, match="`policy` with a model"):
        prune(layers.Dense(3), policy=keras_greedy.PruningPolicy())


def test_a_model_without_prunable_channels_is_refused():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="to have channels that can be pruned"):
        prune(keras.Model(x, layers.Dense(3)(x)))


def test_a_wrapper_refuses_a_layer_that_does_not_read_channels():
    with pytest.raises(ValueError, match=r"reads all channels.* Received: layer=<ReLU"):
        GreedyChannels(layers.ReLU())


def test_a_gate_multiplies_by_what_is_kept():
    gate = ChannelGate(3)
    gate.kept.assign([1.0, 0.0, 1.0])
    np.testing.assert_array_equal(gate(np.ones((1, 3), "float32")), [[1, 0, 1]])


class Subclass(layers.Dense):
    """A layer that no rule knows: it might compute anything."""


@pytest.mark.parametrize(
    "layer",
    [
        layers.RNN(layers.LSTMCell(3)),
        layers.LSTM(3),
        layers.Embedding(10, 4),
        layers.MultiHeadAttention(2, 4),
        layers.TimeDistributed(layers.MultiHeadAttention(2, 4)),
        layers.Bidirectional(layers.RNN(layers.GRUCell(3))),
        Subclass(3),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_a_rule_is_refused_alone_and_named_in_a_list(layer):
    name = type(layer).__name__
    with pytest.raises(ValueError, match=f"Expected `to_prune` .*of type {name}"):
        prune(layer)
    with pytest.warns(UserWarning, match=rf"'{layer.name}' \({name}\)") as caught:
        wrapped = prune([layers.Dense(3), layers.ReLU(), layer])
    assert len(caught) == 1
    assert isinstance(wrapped[0], GreedyChannels)
    assert wrapped[2] is layer


def test_layers_that_carry_channels_pass_in_silence():
    own = [
        layers.InputLayer((8, 8, 3)),
        layers.RandomFlip(),
        layers.DepthwiseConv2D(3),
        layers.BatchNormalization(),
        layers.Dropout(0.1),
        layers.Flatten(),
    ]
    assert prune(own) == own
    assert [prune(layer) for layer in own] == own


def test_names_of_tfmot_are_answered_by_those_here():
    answers = {
        "pruning_schedule": "it is `selection_schedule`",
        "pruning_policy": "it is `policy`",
        "block_size": "whole channels",
        "sparsity_m_by_n": "whole channels",
    }
    for name, answer in answers.items():
        with pytest.raises(TypeError, match=f"prune_greedy has no `{name}`: {answer}"):
            prune(layers.Dense(3), **{name: None})
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        prune(layers.Dense(3), other=1)


def test_a_model_that_was_never_wrapped_is_not_stripped():
    model = functional(cnn_layers())
    with pytest.raises(ValueError, match=r"Expected `wrapped`.*prune_greedy"):
        keras_greedy.strip_pruning(model)
    with pytest.raises(ValueError, match="Functional or Sequential"):
        keras_greedy.strip_pruning(models.Channels())


def test_a_wrapper_inside_another_layer_is_not_stripped_in_silence():
    layer = layers.TimeDistributed(prune(layers.Dense(3, name="inside")))
    model = keras.Sequential([keras.Input((4, 5)), layer])
    with pytest.raises(ValueError, match="Received: layer 'greedy_inside' inside"):
        keras_greedy.strip_pruning(model)


def test_a_checkpoint_of_tensorflow_has_the_gates(tmp_path):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.train.Checkpoint holds variables of TensorFlow")
    one = randomize_layers(prune(models.residual_with_projection()))
    other = randomize_layers(prune(models.residual_with_projection()))
    kept = select(one)
    path = tf.train.Checkpoint(model=one).save(tmp_path / "checkpoint")
    tf.train.Checkpoint(model=other).restore(path).expect_partial()
    found = GatedModel(other).kept()
    assert {n: k.tolist() for n, k in found.items()} == {
        n: k.tolist() for n, k in kept.items()
    }
    assert_same(other, one, inputs_of(one), 1e-6)
