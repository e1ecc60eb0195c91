"""Layers of the user's own, made prunable by a rule of a few lines."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import assert_same, conv, head, image, inputs_of, randomize

import keras_greedy
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.rules import RULES
from keras_greedy.graph.trace import trace, trace_quietly
from keras_greedy.testing import gated

IN, OUT = keras_greedy.IN, keras_greedy.OUT


@pytest.fixture(autouse=True)
def own_rules():
    """Forgets the rules that a test registers."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


class Whitening(layers.Layer):
    """A follower whose weights have no names."""

    def build(self, shape):
        self.shift = self.add_weight(shape=(shape[-1],))
        self.factor = self.add_weight(shape=(1, shape[-1]))

    def call(self, x):
        return (x - self.shift) * self.factor


class Mixing(layers.Layer):
    """A Dense layer of another kind: it makes channels and reads them all."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.table = self.add_weight(shape=(self.width, shape[-1]), name="table")

    def call(self, x):
        return ops.matmul(x, ops.transpose(ops.sign(self.table)))

    def get_config(self):
        return super().get_config() | {"width": self.width}


class Peak(layers.Layer):
    """Divides by the greatest of all channels."""

    def call(self, x):
        return x / (1 + ops.max(ops.abs(x), axis=-1, keepdims=True))


def declare():
    @keras_greedy.register_rule(Whitening)
    class WhiteningRule(keras_greedy.Rule):
        weight_axes = {"shift": (OUT,), "factor": (OUT,)}

    @keras_greedy.register_rule(Mixing)
    class MixingRule(keras_greedy.Rule):
        produces = consumes = True
        width = "width"
        weight_axes = {"table": (OUT, IN)}

    @keras_greedy.register_rule(Peak)
    class PeakRule(keras_greedy.Rule):
        normalizes = True

        def over_kept(self, layer, x, mask):
            return layer(x * mask)


def network():
    x = picture = image(size=8)
    x = Whitening()(conv(x, 8, name="a"))
    x = Mixing(12, name="b")(layers.ReLU()(x))
    x = Peak()(layers.ReLU()(x))
    return randomize(keras.Model(picture, head(conv(x, 6, name="c"))))


def test_without_rules_the_channels_that_own_layers_touch_are_kept():
    with pytest.warns(UserWarning, match="b: no channel rule for Mixing"):
        assert trace(network()).widths == {"c": 6}


def test_with_rules_the_compact_model_computes_what_the_gated_one_does():
    declare()
    model = network()
    graph = trace(model)
    assert graph.widths == {"a": 8, "b": 12, "c": 6}
    selection = {"a": [5, 1, 2], "b": [11, 0, 4, 5], "c": [0, 3]}
    compact = rebuild(graph, selection)
    assert_same(compact, gated(graph, selection), inputs_of(model))
    assert compact.get_layer("b").table.shape == (4, 3)


def test_a_consumer_of_ones_own_keeps_its_weights_as_they_are():
    declare()
    model = network()
    images = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")
    paths = keras_greedy.search(model, images, verbose=0)
    budget = keras_greedy.Budget(macs=0.25, round_to=1)
    compact, widths = paths.compact(budget), paths.widths(budget)
    assert widths["a"] < 8 and widths["b"] < 12
    kept = {name: path.kept(widths[name]) for name, path in paths.paths.items()}
    np.testing.assert_array_equal(
        compact.get_layer("b").table,
        ops.convert_to_numpy(model.get_layer("b").table)[kept["b"]][:, kept["a"]],
    )


@pytest.mark.parametrize("objective", ["local", "global", "loss", "divergence"])
def test_models_of_own_layers_are_pruned_by_every_objective(objective):
    declare()
    model = network()
    rng = np.random.default_rng(0)
    data = rng.normal(size=(40, 8, 8, 3)).astype("float32"), rng.integers(0, 5, 40)
    model.compile("sgd", "sparse_categorical_crossentropy")
    compact = keras_greedy.prune(
        model,
        data,
        keras_greedy.Budget(macs=0.7, round_to=1),
        objective=objective,
        step="uniform",
        verbose=0,
    )
    assert keras_greedy.macs(compact) <= 0.7 * keras_greedy.macs(model)
    assert np.isfinite(compact.predict(data[0], verbose=0)).all()


def test_a_rule_registered_for_ones_own_activation_makes_it_prunable():
    keras_greedy.register_rule(models.twice)(keras_greedy.Rule)
    assert trace(models.activation_of_the_users()).widths == {"a": 8, "b": 6}


def test_what_reads_several_tensors_is_kept_whole():
    class Bilinear(layers.Layer):
        def call(self, x, y):
            return ops.sum(x, axis=-1, keepdims=True) * y

    @keras_greedy.register_rule(Bilinear)
    class BilinearRule(keras_greedy.Rule):
        consumes = True

    x = picture = image(size=8)
    x = Bilinear(name="mine")(conv(x, 8, name="a"), conv(x, 8, name="b"))
    graph = trace_quietly(keras.Model(picture, head(conv(x, 6, name="c"))))
    assert graph.widths == {"c": 6}
    assert graph.unprunable == [("mine", "it reads the channels of several tensors")]


def test_the_words_of_a_pin_decide_nothing():
    @keras_greedy.register_rule(Whitening)
    class Pinning(keras_greedy.Rule):
        weight_axes = {"shift": (OUT,), "factor": (OUT,)}

        def carry(self, call, channels, space):
            space.pin(channels[0], None, "the model's input")
            return channels[0]

    x = picture = image(size=8)
    x = Whitening()(conv(x, 8, name="a"))
    x = conv(conv(x, 6, name="b"), 5, name="c")
    graph = trace(keras.Model(picture, head(x)))
    assert graph.widths == {"b": 6, "c": 5}
    assert not any(group.is_stem for group in graph.groups)


def test_a_rule_that_forgets_a_weight_is_named():
    @keras_greedy.register_rule(Whitening)
    class Forgetful(keras_greedy.Rule):
        weight_axes = {"shift": (OUT,)}

    (reason,) = {reason for _, reason in trace_quietly(network()).unprunable[:1]}
    assert reason == "its rule does not know the weights ['factor']"


@pytest.mark.parametrize("rule", [keras_greedy.Rule(), lambda call: None, Whitening])
def test_what_is_no_rule_is_not_registered(rule):
    with pytest.raises(ValueError, match=r"a subclass of keras_greedy.Rule. Received"):
        keras_greedy.register_rule(Whitening)(rule)


@pytest.mark.parametrize("keys", [(), (3,), (None,), (keras_greedy.Rule,)])
def test_a_rule_is_registered_for_layers_or_functions_only(keys):
    with pytest.raises(ValueError, match="to be given layer classes or functions"):
        keras_greedy.register_rule(*keys)


def test_the_compact_model_of_own_layers_saves_and_loads(tmp_path):
    declare()
    model = network()
    compact = rebuild(trace(model), {"a": [0, 2], "b": [1, 2, 3]})
    compact.save(tmp_path / "compact.keras")
    loaded = keras.models.load_model(
        tmp_path / "compact.keras",
        custom_objects={c.__name__: c for c in (Whitening, Mixing, Peak)},
    )
    assert_same(loaded, compact, models.inputs_of(model), 0)
