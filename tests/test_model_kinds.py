"""Tests of models with other precisions, inputs and outputs, and objects of users'."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_greedy
from keras_greedy import Rule, register_rule, trace

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(40, 6)).astype("float32")
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def whole_and_half(model, data):
    """The answers of the model, and of the compact ones of budgets 1.0 and 0.5."""
    whole = keras_greedy.prune(model, data, 1.0, objective="local", verbose=0)
    half = keras_greedy.prune(model, data, 0.5, verbose=0)
    assert keras_greedy.macs(half) <= 0.5 * keras_greedy.macs(model)
    predictions = [each.predict(data, verbose=0) for each in (model, whole, half)]
    return [keras.tree.flatten(prediction) for prediction in predictions]


def hidden(x, dtype=None):
    x = layers.Dense(24, activation="relu", dtype=dtype)(x)
    return layers.Dense(24, activation="relu", dtype=dtype)(x)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="tables are TensorFlow's")
def test_model_with_a_table_of_words_is_pruned():
    lookup = layers.StringLookup(output_mode="one_hot")
    lookup.adapt(["cat", "dog", "cow"])
    words = keras.Input((1,), dtype="string", name="word")
    numbers = keras.Input((6,), name="number")
    x = hidden(layers.Concatenate()([lookup(words), numbers]))
    model = keras.Model([words, numbers], layers.Dense(3)(x))
    drawn = ops.convert_to_tensor(RNG.choice(["cat", "dog"], (40, 1)).tolist())
    full, whole, half = whole_and_half(model, {"word": drawn, "number": ROWS})
    np.testing.assert_allclose(whole[0], full[0], atol=1e-5)
    assert np.isfinite(half[0]).all()


@pytest.mark.parametrize(
    "method",
    ["global", keras_greedy.DivergenceSearch(candidates=2, channels_per_step=8)],
    ids=["global", "divergence"],
)
def test_output_of_integers_changes_nothing_of_the_search(method):
    inputs = keras.Input((6,))
    p = layers.Dense(4, activation="softmax")(hidden(inputs))
    alone = keras.Model(inputs, p)
    both = keras.Model(inputs, {"p": p, "class": ops.argmax(p, -1)})
    compact = [
        keras_greedy.prune(model, ROWS, 0.5, method=method, verbose=0)
        for model in (alone, both)
    ]
    expected = compact[0].predict(ROWS, verbose=0)
    found = compact[1].predict(ROWS, verbose=0)
    np.testing.assert_allclose(found["p"], expected, atol=1e-5)
    np.testing.assert_array_equal(found["class"], found["p"].argmax(-1))


@pytest.mark.filterwarnings("ignore:Some channels")
def test_model_that_gives_integers_alone_is_refused():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, ops.argmax(layers.Dense(4)(hidden(inputs)), -1))
    with pytest.raises(ValueError, match=r"real numbers(.|\n)*int"):
        keras_greedy.search(model, ROWS, verbose=0)


@pytest.mark.filterwarnings("ignore:Some channels")
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-6), ("float16", 1e-2), ("mixed_bfloat16", 5e-2)],
)
def test_model_of_another_precision_stays_of_it(dtype, tolerance):
    inputs = keras.Input((4, 6), dtype="float64" if dtype == "float64" else None)
    x = layers.Conv1D(24, 2, activation="relu", dtype=dtype)(inputs)
    x = layers.BatchNormalization(dtype=dtype)(x)
    x = layers.TimeDistributed(layers.Dense(8, dtype=dtype), dtype=dtype)(x)
    x = hidden(layers.Flatten(dtype=dtype)(x), dtype)
    model = keras.Model(inputs, layers.Dense(3, dtype=dtype)(x))
    data = RNG.normal(size=(40, 4, 6))
    full = model.predict(data, verbose=0)
    compact = keras_greedy.prune(model, data, 1.0, verbose=0)
    whole = compact.predict(data, verbose=0)
    assert str(whole.dtype) == str(full.dtype)
    np.testing.assert_allclose(
        whole.astype(float), full.astype(float), atol=tolerance * np.abs(full).max()
    )
    half = keras_greedy.prune(model, data, 0.7, verbose=0)
    assert np.isfinite(half.predict(data, verbose=0).astype(float)).all()


class OwnRegularizer(keras.regularizers.Regularizer):
    def __call__(self, x):
        return ops.sum(ops.abs(x))

    def get_config(self):
        return {}


class OwnInitializer(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return 0.1 * keras.random.normal(shape, dtype=dtype)


class OwnActivation(layers.Layer):
    def call(self, x):
        return x * ops.sigmoid(2 * x)


def own_function(x):
    return ops.tanh(x) * x


@pytest.mark.filterwarnings("ignore:Some channels")
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_regularizer": OwnRegularizer()},
        {"kernel_initializer": OwnInitializer()},
        {"activation": OwnActivation()},
        {"activation": own_function},
    ],
)
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_objects_of_users_need_not_be_registered(settings, is_wrapped):
    inputs = keras.Input((2, 6))
    own = layers.Dense(8, **settings)
    x = layers.TimeDistributed(own)(inputs) if is_wrapped else own(inputs)
    model = keras.Model(inputs, layers.Dense(3)(hidden(layers.Flatten()(x))))
    data = RNG.normal(size=(40, 2, 6))
    full, whole, _ = whole_and_half(model, data)
    np.testing.assert_allclose(whole[0], full[0], atol=1e-5)


def test_layer_that_its_config_does_not_make_anew_is_named():
    class Demanding(layers.Layer):
        def __init__(self, size, **kwargs):
            super().__init__(**kwargs)

        def call(self, x):
            return x

        def get_config(self):
            return {"name": self.name}

    inputs = keras.Input((6,))
    x = hidden(Demanding(3, name="demanding")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x))
    with pytest.raises(ValueError, match="'demanding' of type Demanding"):
        keras_greedy.search(model, ROWS, verbose=0)


def test_config_that_fails_in_any_way_names_its_layer():
    class Broken(layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            return {"size": self.never_set}

    model = keras.Sequential([keras.Input((6,)), Broken(name="the_broken_one")])
    with pytest.raises(ValueError, match=r"the_broken_one(.|\n)*never_set"):
        trace(model)


def test_channels_first_are_refused_before_the_search():
    convs = [
        layers.Conv2D(8, 3, data_format="channels_first", name=f"first_{i}")
        for i in range(5)
    ]
    model = keras.Sequential([keras.Input((3, 16, 16)), *convs])
    with (
        pytest.raises(ValueError, match=r"channels last(.|\n)*first_0, .* and 2 more"),
        pytest.warns(UserWarning),
    ):
        keras_greedy.search(model, np.zeros((4, 3, 16, 16)), verbose=0)


class WeightedAdd(layers.Layer):
    def build(self, shapes):
        self.w = self.add_weight(shape=(2,), initializer="ones", name="w")

    def call(self, inputs):
        return self.w[0] * inputs[0] + self.w[1] * inputs[1]

    def compute_output_shape(self, shapes):
        return shapes[0]


@register_rule(WeightedAdd)
class WeightedAddRule(Rule):
    weight_axes = {"w": (None,)}


def test_follower_of_two_inputs_ties_their_channels():
    inputs = keras.Input((6,))
    added = WeightedAdd()([layers.Dense(8, name=name)(inputs) for name in "ab"])
    model = keras.Model(inputs, layers.Dense(3)(added))
    (group,) = trace(model).groups
    assert [call.name for call in group.producers] == ["a", "b"]
    keras_greedy.testing.assert_compact_equals_gated(model, ROWS)


@pytest.mark.parametrize(
    ("other", "expected"), [(1, {"a": 8}), (4, {})], ids=["one", "several"]
)
def test_inputs_of_other_widths_stay_whole(other, expected):
    class Spread(WeightedAdd):
        def call(self, inputs):
            first, second = inputs
            times = first.shape[-1] // second.shape[-1]
            return self.w[0] * first + self.w[1] * ops.tile(second, (1, times))

    register_rule(Spread)(WeightedAddRule)
    inputs = keras.Input((6,))
    pair = [layers.Dense(8, name="a")(inputs), layers.Dense(other, name="b")(inputs)]
    model = keras.Model(inputs, layers.Dense(3)(Spread()(pair)))
    with pytest.warns(UserWarning, match="spread"):
        assert trace(model).widths == expected


def test_layer_called_with_and_without_a_mask_is_traced():
    inputs = keras.Input((4, 6))
    norm = layers.BatchNormalization()
    x = norm(layers.Dense(8, name="a")(layers.Masking()(inputs)))
    y = norm(layers.Dense(8, name="b")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(x + y))
    (group,) = trace(model).groups
    assert group.size == 8
