"""The method of a search as a value, and the strings that stand for it."""

import keras
import numpy as np
import pytest
from keras import layers
from models import randomize

import keras_greedy
from keras_greedy import DivergenceSearch, FineTune, Imitation, LossSearch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = RNG.integers(0, 5, 64)
HALF = keras_greedy.Budget(macs=0.5, round_to=4)


@pytest.fixture(scope="module")
def model():
    stack = [
        keras.Input((6,)),
        layers.Dense(16, activation="relu"),
        layers.Dense(5, activation="softmax"),
    ]
    return randomize(keras.Sequential(stack))


def weights_of(model, **options):
    compact = keras_greedy.prune(model, (X, Y), HALF, verbose=0, **options)
    return compact.get_weights()


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "method, strings",
    [
        (Imitation(), {}),
        (
            Imitation("local", "line_search"),
            {"objective": "local", "step": "line_search"},
        ),
        ("local", {"objective": "local"}),
        (LossSearch(), {"objective": "loss", "step": "uniform"}),
        (DivergenceSearch(), {"objective": "divergence", "step": "uniform"}),
    ],
    ids=str,
)
def test_a_method_is_what_its_strings_stand_for(model, method, strings):
    assert_same(weights_of(model, method=method), weights_of(model, **strings))


@pytest.mark.parametrize(
    "option, value",
    [
        ("candidates", 3),
        ("channels_per_step", 2),
        ("finetune_per_layer", FineTune(optimizer="sgd")),
    ],
)
def test_settings_given_to_prune_itself_warn_and_do_the_same(model, option, value):
    keras.utils.set_random_seed(0)
    expected = weights_of(model, method=LossSearch(**{option: value}))
    keras.utils.set_random_seed(0)
    strings = {"objective": "loss", "step": "uniform"}
    message = f"`{option}` of keras_greedy.prune"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        found = weights_of(model, **strings, **{option: value})
    assert_same(found, expected)
    (own,) = [warning for warning in caught if message in str(warning.message)]
    assert own.filename == __file__


@pytest.mark.parametrize("function", [keras_greedy.prune, keras_greedy.search])
def test_an_unknown_argument_is_a_type_error(model, function):
    with pytest.raises(TypeError, match="unexpected keyword argument 'epochs'"):
        function(model, X, epochs=3)


@pytest.mark.parametrize(
    "strings",
    [{"objective": "local"}, {"step": "uniform"}, {"tolerance": 0.1}],
    ids=str,
)
def test_a_method_and_strings_for_one_are_refused(model, strings):
    with pytest.raises(ValueError, match="Expected either `method`"):
        keras_greedy.prune(model, (X, Y), method=LossSearch(), **strings)


@pytest.mark.parametrize("method", [3, LossSearch, FineTune(), ["local"]])
def test_methods_that_are_none_are_refused(model, method):
    with pytest.raises(ValueError, match="Expected `method`"):
        keras_greedy.prune(model, X, method=method)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Imitation("loss"), "objective='loss'"),
        (lambda: Imitation(step="best"), "step='best'"),
        (lambda: LossSearch("corrective"), "step='corrective'"),
        (lambda: LossSearch(candidates=0), "candidates=0"),
        (lambda: LossSearch(channels_per_step=1.5), "channels_per_step=1.5"),
        (lambda: LossSearch(tolerance=2), "tolerance=2"),
        (lambda: LossSearch(finetune_per_layer=3), "finetune_per_layer=3"),
        (lambda: DivergenceSearch(candidates="few"), "candidates='few'"),
    ],
)
def test_settings_that_are_none_are_refused_where_the_method_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_tolerance_takes_the_place_of_a_budget(model):
    with pytest.raises(ValueError, match="Expected either `budget` or `tolerance`"):
        keras_greedy.prune(model, (X, Y), 0.5, method=LossSearch(tolerance=0.1))
    compact = keras_greedy.prune(
        model, (X, Y), method=LossSearch(tolerance=0.9), verbose=0
    )
    assert compact.layers[0].units == 8
