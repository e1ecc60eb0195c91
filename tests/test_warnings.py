"""Warnings point at the line of the user's code that led to them."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_greedy

QUICK = {"objective": "local", "verbose": 0}


def recurrent():
    """A Dense pair, and an LSTM that keeps the channels it reads whole."""
    x = keras.Input((4, 5))
    hidden = layers.Dense(16, activation="relu")(layers.Dense(16)(x))
    return keras.Model(x, layers.Dense(3)(layers.LSTM(4)(hidden)))


def places(call):
    """The files of the warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [each.filename for each in caught if each.category is UserWarning]


CALLS = {
    "trace": keras_greedy.trace,
    "prune": lambda model: keras_greedy.prune(model, data(), 0.9, **QUICK),
    "search": lambda model: keras_greedy.search(model, data(), **QUICK),
    "prune_greedy": keras_greedy.prune_greedy,
}


def data():
    return np.random.default_rng(0).normal(size=(16, 4, 5)).astype("float32")


@pytest.mark.parametrize("name", CALLS)
def test_layers_kept_whole_are_named_at_the_line_of_the_user(name):
    assert places(lambda: CALLS[name](recurrent())) == [__file__]


def test_weights_out_of_reach_are_counted_at_the_line_of_the_user():
    layer = layers.Dense(20, use_bias=False)
    model = keras.Sequential([keras.Input((50,)), layers.ReLU(), layer])
    layer.set_weights([np.full((50, 20), 0.01)])
    find = keras_greedy.lottery.find_ticket
    assert places(lambda: find(model, 3, verbose=0)) == [__file__]
