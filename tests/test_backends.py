"""The search on every Keras backend that is installed, each in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import (
    assert_same,
    conv,
    depthwise,
    image,
    inputs_of,
    norm,
    outputs_of,
    randomize,
)

import keras_greedy

TESTS = Path(__file__).parent


def results():
    """Name -> array: what search, compact and fine-tuning give."""
    x = picture = image(size=8)
    x = y = norm(conv(x, 16, name="a", strides=2), "relu")
    x = conv(norm(depthwise(x), "relu"), 16, 1, "b", activation="sigmoid")
    x = conv(layers.Add()([x, y]), 16, name="c", padding="valid")
    # No gradient comes back to the layer e.
    z = layers.GlobalAveragePooling2D()(y)
    z = layers.Dense(16, name="d", trainable=False)(z)
    z = ops.stop_gradient(layers.Dense(5, name="e", trainable=False)(z))
    x = layers.Dense(16, activation="relu", name="f")(layers.Flatten()(x))
    x = layers.Dense(5, activation="softmax")(layers.Add()([layers.Dense(5)(x), z]))
    model = randomize(keras.Model(picture, x))
    data = inputs_of(model, 70)

    found = {}
    for objective in ("global", "local"):
        paths = keras_greedy.search(model, data, objective=objective, verbose=0)
        for name, path in paths.paths.items():
            found[f"{objective} errors of {name}"] = path.errors
        for name, measured in paths.divergence.items():
            found[f"{objective} divergence of {name}"] = measured.values
        for budget in (0.7, 0.5):
            (output,) = outputs_of(paths.compact(budget), data)
            found[f"{objective} output at {budget}"] = output
    student = paths.compact(0.5)
    tune = keras_greedy.FineTune(2, optimizer=keras.optimizers.SGD(0.01), distill=True)
    tune.apply(student, model, data, verbose=0)
    (found["output after distillation"],) = outputs_of(student, data)
    return found


def prune_while_training():
    """Trains a wrapped model; the one it was made of stays what it was."""
    x = picture = image(size=8)
    x = norm(conv(norm(conv(x, 16, name="a"), "relu"), 16, name="b"), "relu")
    x = layers.Dense(5, activation="softmax")(layers.Flatten()(x))
    model = randomize(keras.Model(picture, x))
    data, labels = inputs_of(model, 64), np.arange(64) % 5
    (before,) = outputs_of(model, data)
    schedule = keras_greedy.PolynomialWidth(0.5, 0, 6, frequency=2)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    wrapped.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    callbacks = [keras_greedy.GreedySelectionStep(data)]
    options = {"batch_size": 16, "epochs": 2, "verbose": 0}
    wrapped.fit(data, labels, callbacks=callbacks, **options)
    compact = keras_greedy.strip_pruning(wrapped)
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(model)
    assert_same(compact, wrapped, data)
    np.testing.assert_array_equal(outputs_of(model, data)[0], before)


@pytest.fixture(scope="module")
def expected():
    return results()


def run_on(backend, statement):
    """Runs a statement in a process of another backend."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    code = (
        "import keras, numpy, test_backends;"
        f"assert keras.backend.backend() == {backend!r};"
        f"{statement}"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_the_backends_agree(backend, expected, tmp_path):
    file = tmp_path / "results.npz"
    run_on(backend, f"numpy.savez({str(file)!r}, **test_backends.results())")
    with np.load(file) as found:
        assert set(found.files) == set(expected)
        for name in found.files:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                found[name], expected[name], rtol=1e-2, atol=1e-3 * scale, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch", "tensorflow"])
def test_every_backend_prunes_while_it_trains(backend):
    run_on(backend, "test_backends.prune_while_training()")
