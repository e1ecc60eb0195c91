"""What the author of a rule is told, for every way in which it can be wrong."""

import re

import keras
import pytest
from keras import layers, ops
from models import inputs_of, randomize

import keras_greedy
from keras_greedy.graph.rules import RULES
from keras_greedy.testing import assert_compact_equals_gated

IN, OUT = keras_greedy.IN, keras_greedy.OUT


@pytest.fixture(autouse=True)
def own_rules():
    """Forgets the rules that a test registers."""
    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


class Mixing(layers.Layer):
    """A Dense layer."""

    def __init__(self, width=12, other=3, **kwargs):
        super().__init__(**kwargs)
        self.width, self.other = width, other

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.width), name="kernel")
        self.bias = self.add_weight(shape=(self.width,), name="bias")

    def call(self, x):
        return ops.matmul(x, self.kernel) + self.bias

    def get_config(self):
        return super().get_config() | {"width": self.width, "other": self.other}


class MixingShares(Mixing):
    """A channel that is 0 has its share of the softmax."""

    def call(self, x):
        return super().call(ops.softmax(x))


class Centred(layers.Layer):
    """Subtracts the mean over the channels."""

    def call(self, x):
        return x - ops.mean(x, axis=-1, keepdims=True)


class Scale(layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


RIGHT = {
    "produces": True,
    "consumes": True,
    "width": "width",
    "weight_axes": {"kernel": (IN, OUT), "bias": (OUT,)},
}


FOLLOWER = {"produces": False, "consumes": False, "width": None, "weight_axes": {}}


def axes(**weights):
    return {"weight_axes": weights}


def nothing(*arguments):
    return None


def its_own(rule, layer, x, mask):
    return layer(x)


# The layer, how its rule differs from the right one, and a part of what is said.
WRONG = {
    "produces omitted": (Mixing(), {"produces": False}, "with `produces`"),
    "consumes omitted": (Mixing(), {"consumes": False}, "to say `consumes`"),
    "both omitted": (
        Mixing(8),
        {"produces": False, "consumes": False},
        "acts on each channel alone",
    ),
    "axes swapped": (
        Mixing(),
        axes(kernel=(OUT, IN), bias=(OUT,)),
        "of its weight 'kernel'",
    ),
    "an axis omitted": (
        Mixing(),
        axes(kernel=(IN, None), bias=(OUT,)),
        r"the shape \(4, 6\). Received: \(4, 12\)",
    ),
    "an axis too many": (
        Mixing(),
        axes(kernel=(None, IN, OUT), bias=(OUT,)),
        "`weight_axes` that fit 'kernel'",
    ),
    "a weight omitted": (
        Mixing(),
        axes(kernel=(IN, OUT)),
        r"does not know the weights \['bias'\]",
    ),
    "another word for an axis": (
        Mixing(),
        axes(kernel=("input", OUT), bias=(OUT,)),
        "a dict of tuples of IN, OUT and None",
    ),
    "a comma omitted": (
        Mixing(),
        axes(kernel=(IN, OUT), bias=(OUT)),
        "a dict of tuples of IN, OUT and None",
    ),
    "no such argument": (Mixing(), {"width": "units"}, r"\['units'\]"),
    "another argument": (Mixing(), {"width": "other"}, "one of 6 channels"),
    "width omitted": (Mixing(), {"width": None}, "one of 6 channels"),
    "a consumer that is not linear": (
        MixingShares(),
        {},
        "a channel of zeros has to be as good as none",
    ),
    "a follower that mixes": (
        Centred(),
        FOLLOWER,
        "acts on each channel alone",
    ),
    "statistics over all": (
        Centred(),
        FOLLOWER | {"normalizes": True, "over_kept": its_own},
        "what the layer makes of the kept channels alone",
    ),
    "over_kept omitted": (
        Centred(),
        FOLLOWER | {"normalizes": True},
        "an `over_kept` that can be called",
    ),
    "no channels carried": (
        Scale(),
        FOLLOWER | {"carry": nothing} | axes(factor=(OUT,)),
        "a `carry` that returns the channel numbers",
    ),
    "no config": (Mixing(), {"cut_config": nothing}, "`cut_config`"),
}


def model_with(layer):
    """A model in which a layer of the name of its class follows a Dense one."""
    layer = type(layer).from_config(layer.get_config() | {"name": "mine"})
    x = features = keras.Input((5,))
    x = layer(layers.Dense(8, "relu", name="a")(x))
    return randomize(keras.Model(features, layers.Dense(3)(x)))


@pytest.mark.filterwarnings("ignore:Some channels of model")
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rule_is_an_error_that_names_its_layer_and_what_to_do(name):
    layer, changes, message = WRONG[name]
    rule = type("OwnRule", (keras_greedy.Rule,), RIGHT | changes)
    with pytest.raises((AssertionError, ValueError), match=message) as caught:
        keras_greedy.register_rule(type(layer))(rule)
        model = model_with(layer)
        assert_compact_equals_gated(model, inputs_of(model))
    assert re.search("'mine' of type|`weight_axes` of OwnRule", str(caught.value))


@pytest.mark.parametrize("layer", [Mixing(), Mixing(8)])
def test_the_right_rule_passes(layer):
    keras_greedy.register_rule(Mixing)(type("OwnRule", (keras_greedy.Rule,), RIGHT))
    model = model_with(layer)
    compact = assert_compact_equals_gated(model, inputs_of(model))
    assert compact.get_layer("mine").width == layer.width // 2


# --- layers of several tensors


class GatedAdd(layers.Layer):
    """Adds two tensors, of which a third one weighs the second, if there is one."""

    def build(self, x_shape, other_shape, gate_shape=None):
        self.factor = self.add_weight(shape=(x_shape[-1],), name="factor")

    def call(self, x, other, gate=1.0):
        return x + self.factor * other * ops.sigmoid(gate)


class GatedAddOfList(GatedAdd):
    def build(self, shapes):
        super().build(*shapes)

    def call(self, tensors):
        return super().call(*tensors)


# How the layer is called, and how many layers make channels that meet in it.
CALLS = {
    "by position": (lambda a, b, c: GatedAdd()(a, b, c), 3),
    "by name": (lambda a, b, c: GatedAdd()(a, other=b, gate=c), 3),
    "all by name": (lambda a, b, c: GatedAdd()(x=a, gate=c, other=b), 3),
    "two": (lambda a, b, c: GatedAdd()(a, b), 2),
    "one twice": (lambda a, b, c: GatedAdd()(a, b, gate=a), 2),
    "a list": (lambda a, b, c: GatedAddOfList()([a, b, c]), 3),
    "one channel": (lambda a, b, c: GatedAdd()(a, b, gate=layers.Dense(1)(c)), 2),
}


@pytest.mark.filterwarnings("ignore:Some channels of model")
@pytest.mark.parametrize("base", [keras_greedy.Rule, keras_greedy.JoinRule])
@pytest.mark.parametrize("name", CALLS)
def test_a_rule_for_several_tensors_cuts_them_alike(name, base):
    rule = type("OwnRule", (base,), {"weight_axes": {"factor": (OUT,)}})
    keras_greedy.register_rule(GatedAdd, GatedAddOfList)(rule)
    x = features = keras.Input((5,))
    a, b, c = (layers.Dense(8, "relu", name=name)(x) for name in "abc")
    join, producers = CALLS[name]
    model = randomize(keras.Model(features, layers.Dense(3)(join(a, b, c))))
    graph = keras_greedy.trace(model)
    assert producers in [len(group.producers) for group in graph.groups]
    assert_compact_equals_gated(model, inputs_of(model))


def test_tensors_of_different_widths_are_kept_whole():
    class Joined(layers.Layer):
        def call(self, x, other):
            return x + ops.repeat(other, 2, axis=-1)

    keras_greedy.register_rule(Joined)(keras_greedy.JoinRule)
    x = features = keras.Input((5,))
    x = Joined(name="mine")(layers.Dense(8, name="a")(x), layers.Dense(4, name="b")(x))
    model = keras.Model(features, layers.Dense(3)(x))
    with pytest.warns(UserWarning, match=r"mine: its inputs have \[8, 4\] channels"):
        assert keras_greedy.trace(model).widths == {}
