"""The library on JAX and torch, each in a process and an environment of its own.

`make test-backends` makes the environments and names their interpreters in JAX_PYTHON
and TORCH_PYTHON: with these no test is skipped. Without them, a backend that is
installed beside TensorFlow is used.
"""

import functools
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
import tflite_export
from keras_greedy.backend import compiled
from keras_greedy.exact_products import exact_products

TESTS = Path(__file__).parent
BACKENDS = ["jax", "torch"]


def network():
    """Returns a model with depthwise layers, a sum, a flatten and two branches."""
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
    return randomize(keras.Model(picture, x))


def small_network():
    x = picture = image(size=8)
    x = norm(conv(norm(conv(x, 16, name="a"), "relu"), 16, name="b"), "relu")
    x = layers.Dense(5, activation="softmax")(layers.Flatten()(x))
    return randomize(keras.Model(picture, x))


# --- Run in the process of a backend -------------------------------------------------


def searches():
    """Returns name -> array: the results of searches, compact models, fine-tuning."""
    model = network()
    data = inputs_of(model, 70)
    found = {}
    for objective in ("global", "local"):
        paths = keras_greedy.search(model, data, objective=objective, verbose=0)
        for name, path in paths.paths.items():
            found[f"{objective} order of {name}"] = path.order
            found[f"{objective} errors of {name}"] = path.errors
        for name, measured in paths.divergence.items():
            found[f"{objective} divergence of {name}"] = measured.values
        for budget in (0.7, 0.5):
            (output,) = outputs_of(paths.compact(budget), data)
            found[f"{objective} output at {budget}"] = output
    method = keras_greedy.Imitation(divergence="expanded")
    expanded = keras_greedy.search(model, data, method=method, verbose=0)
    for name, own in expanded.divergence.items():
        found[f"expanded divergence of {name}"] = own.values
    student = paths.compact(0.5)
    tune = keras_greedy.FineTune(2, optimizer=keras.optimizers.SGD(0.01), distill=True)
    tune.apply(student, model, data, verbose=0)
    (found["output after distillation"],) = outputs_of(student, data)
    return found


def output_searches():
    """Returns name -> array: the paths of searches on the output."""
    model = small_network()
    data, labels = inputs_of(model, 64), np.arange(64) % 5
    model.compile("sgd", "sparse_categorical_crossentropy")
    methods = {
        "loss": keras_greedy.LossSearch(candidates="all"),
        "divergence": keras_greedy.DivergenceSearch("line_search", candidates="all"),
    }
    found = {}
    for kind, method in methods.items():
        paths = keras_greedy.search(model, (data, labels), method=method, verbose=0)
        for name, path in paths.paths.items():
            found[f"{kind} errors of {name}"] = path.errors
    compact = keras_greedy.prune(
        model, (data, labels), 0.5, method=methods["loss"], verbose=0
    )
    (found["loss output"],) = outputs_of(compact, data)
    return found


def fine_tuned_on_labels():
    model = small_network()
    data, labels = inputs_of(model, 64), np.arange(64) % 5
    tune = keras_greedy.FineTune(1, optimizer=keras.optimizers.SGD(0.01))
    compact = keras_greedy.prune(model, (data, labels), 0.5, finetune=tune, verbose=0)
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(model)
    (output,) = outputs_of(compact, data)
    assert np.isfinite(output).all()


def compact_is_gated():
    model = network()
    keras_greedy.testing.assert_compact_equals_gated(model, inputs_of(model))


def nested_models_are_pruned_while_they_train():
    inner = keras.Sequential([image(size=8), layers.Conv2D(16, 3), layers.ReLU()])
    x = inner(picture := image(size=8))
    x = layers.Dense(3, activation="softmax")(layers.Flatten()(x))
    model = randomize(keras.Model(picture, x))
    wrapped = keras_greedy.prune_greedy(model, keras_greedy.ConstantWidth(0.5))
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    data = inputs_of(model, 16)
    callbacks = [keras_greedy.GreedySelectionStep(data)]
    wrapped.fit(data, np.arange(16) % 3, verbose=0, callbacks=callbacks)
    assert_same(keras_greedy.strip_pruning(wrapped), wrapped, data)


def prune_while_training():
    """Trains a wrapped model; the one it was made of stays as it was."""
    model = small_network()
    data, labels = inputs_of(model, 64), np.arange(64) % 5
    (before,) = outputs_of(model, data)
    schedule = keras_greedy.PolynomialWidth(0.5, begin_step=0, end_step=6, frequency=2)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    wrapped.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    callbacks = [keras_greedy.GreedySelectionStep(data)]
    options = {"batch_size": 16, "epochs": 2, "verbose": 0}
    wrapped.fit(data, labels, callbacks=callbacks, **options)
    compact = keras_greedy.strip_pruning(wrapped)
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(model)
    assert_same(compact, wrapped, data)
    np.testing.assert_array_equal(outputs_of(model, data)[0], before)


def a_ticket_is_found():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, activation="relu"), layers.Dense(2)]
    )
    # Weights that are within reach of the sums of random numbers, on every backend.
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(-0.5, 0.5, w.shape) for w in model.get_weights()])
    ticket = keras_greedy.lottery.find_ticket(model, verbose=0)
    x = np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    assert_same(ticket.model, model, x, tolerance=0.05)


def export(folder):
    """Writes a model, one with int8 weights, and what the first computes."""
    model = small_network()
    x = inputs_of(model, 16)
    tflite_export.convert(model, f"{folder}/model.tflite")
    tflite_export.convert(model, f"{folder}/int8.tflite", "int8", 1, x)
    np.savez(f"{folder}/values.npz", x=x, y=outputs_of(model, x)[0])


# --- The tests -----------------------------------------------------------------------


def interpreter_of(backend):
    """Returns the interpreter to run a backend in, or skips where there is none."""
    named = os.environ.get(f"{backend.upper()}_PYTHON")
    if named:
        return str(Path(named).absolute())
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: `make test-backends` has it")
    return sys.executable


def nothing_becomes_an_array_by_itself():
    """Searches where torch refuses what it refuses to do with tensors on a GPU."""
    import torch

    of_numpy = torch.Tensor.__array__

    def refuse(tensor, *args, **kwargs):
        if sys._getframe(1).f_code is not of_keras:
            raise TypeError("Expected a tensor that is not on a GPU")
        return of_numpy(tensor, *args, **kwargs)

    def note(tensor, *args, **kwargs):
        nonlocal of_keras
        of_keras = sys._getframe(1).f_code
        return of_numpy(tensor, *args, **kwargs)

    # Keras fetches tensors from the GPU first, in one place.
    of_keras = None
    torch.Tensor.__array__ = note
    ops.convert_to_numpy(ops.ones(3))
    torch.Tensor.__array__ = refuse
    with pytest.raises(TypeError, match="not on a GPU"):
        ops.ones(3) + np.ones(3)
    searches()
    output_searches()
    prune_while_training()


def products_are_exact():
    """Checks that a compiled function does not round, and that all is as before."""
    torch = pytest.importorskip("torch")
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    matmul.fp32_precision = "tf32"
    before = matmul.fp32_precision, conv.fp32_precision
    found = []

    def note(x):
        found.append((matmul.fp32_precision, conv.fp32_precision))
        return x

    compiled(note)(ops.ones(3))
    assert found == [("ieee", "ieee")]
    assert (matmul.fp32_precision, conv.fp32_precision) == before


def products_are_exact_in_programs():
    """Checks what JAX would run on a GPU or a TPU."""
    import jax

    programs = []

    def product(x):
        program = jax.jit(ops.matmul).lower(x, x).as_text()
        programs.append(program)
        return x

    compiled(product)(np.ones((3, 3), "float32"))
    assert "HIGHEST" in programs[0]


def run_on(backend, statement):
    """Runs a statement on another backend; it must succeed and write nothing."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TENSORFLOW_PYTHON": sys.executable,
        # Two of torch's wait for each other many times longer on a busy machine.
        "OMP_NUM_THREADS": "1",
    }
    code = (
        "import keras, numpy, test_backends;"
        f"assert keras.backend.backend() == {backend!r};"
        f"{statement}"
    )
    process = subprocess.run(
        [interpreter_of(backend), "-c", code],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""


@functools.cache
def results_here(function):
    """The results on this process' backend, TensorFlow."""
    return globals()[function]()


@pytest.mark.parametrize("function", ["searches", "output_searches"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_backends_agree(backend, function, tmp_path):
    file = tmp_path / "results.npz"
    run_on(backend, f"numpy.savez({str(file)!r}, **test_backends.{function}())")
    expected = results_here(function)
    with np.load(file) as found:
        assert set(found.files) == set(expected)
        for name in found.files:
            right = expected[name]
            scale = np.abs(right).max()
            np.testing.assert_allclose(
                found[name], right, rtol=1e-2, atol=1e-3 * scale, err_msg=name
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_trains_gates_and_finds_tickets(backend):
    functions = (
        fine_tuned_on_labels,
        compact_is_gated,
        prune_while_training,
        nested_models_are_pruned_while_they_train,
        a_ticket_is_found,
    )
    calls = [f"test_backends.{function.__name__}()" for function in functions]
    run_on(backend, ";".join(calls))


def test_torch_is_given_no_tensor_of_a_gpu_for_an_array():
    run_on("torch", "test_backends.nothing_becomes_an_array_by_itself()")


def test_torch_rounds_no_factors_while_it_looks_at_data():
    run_on("torch", "test_backends.products_are_exact()")


def test_jax_rounds_no_factors_while_it_looks_at_data():
    run_on("jax", "test_backends.products_are_exact_in_programs()")


def test_tensorflow_rounds_no_factors_while_it_looks_at_data():
    tf = pytest.importorskip("tensorflow")
    is_rounding = tf.config.experimental.tensor_float_32_execution_enabled
    before = is_rounding()
    with pytest.raises(RuntimeError), exact_products():
        assert not is_rounding()
        raise RuntimeError
    assert is_rounding() == before
    found = []
    compiled(lambda x: found.append(is_rounding()) or x)(np.ones(3))
    assert found == [False]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_of_every_backend_is_exported(backend, tmp_path):
    run_on(backend, f"test_backends.export({str(tmp_path)!r})")
    with np.load(tmp_path / "values.npz") as values:
        x, y = values["x"], values["y"]
    assert tflite_export.verify(y, tmp_path / "model.tflite", x).ok(1e-5)
    assert tflite_export.verify(y, tmp_path / "int8.tflite", x).ok(0.1)
