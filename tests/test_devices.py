"""Several devices of one machine: two logical or virtual CPUs, in a process of its own.

What looks at data is to run on both of them, and to find what one device finds.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from models import conv, image, inputs_of, norm, outputs_of, randomize
from test_backends import interpreter_of

import keras_greedy
import tflite_export
from keras_greedy import backend, devices
from keras_greedy.batches import Batches
from keras_greedy.graph.calls import Call
from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import trace
from keras_greedy.selection.measured import Measurement
from keras_greedy.selection.moments import observe
from keras_greedy.selection.moments.fisher import sensitivities
from keras_greedy.selection.reconstruction import least_squares

TESTS = Path(__file__).parent
EXAMPLES = 39
"""A batch of 32, and one of 7, which two devices cannot share."""

TO_TRAIN = 64


def network():
    """Returns a model with BatchNorms, a softmax, and an output of real numbers."""
    x = picture = image(size=8)
    x = norm(conv(x, 16, name="a"), "relu")
    x = norm(conv(x, 16, name="b"), "relu")
    y = layers.Dense(3, name="real")(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(5, activation="softmax", name="classes")(layers.Flatten()(x))
    return randomize(keras.Model(picture, [x, y]))


def classifier():
    """Returns a compiled model without BatchNorms.

    The replicas of a strategy, in Keras, each train one by their own statistics.
    """
    x = vector = keras.Input((10,))
    x = layers.Dense(16, activation="relu", name="a")(x)
    x = layers.Dense(5, activation="softmax")(x)
    model = randomize(keras.Model(vector, x))
    model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy")
    return model


class OfItsOwn(keras.Model):
    """A model with a `call` of its own."""

    def __init__(self):
        super().__init__()
        self.last = layers.Dense(3)

    def call(self, x):
        return self.last(x)


# --- Run in the process with two devices ---------------------------------------------


class Witness:
    """Knows on which devices the calls of traced models are computed.

    Attributes:
        devices: Those that had a part of the examples, by the stage that was told.
    """

    def __init__(self):
        self.devices = {}
        self._compute = Call.compute

    @contextlib.contextmanager
    def watching(self, stage):
        found = self.devices.setdefault(stage, set())

        def compute(call, *args, **kwargs):
            made = self._compute(call, *args, **kwargs)
            note_devices(keras.tree.flatten(made)[0], found)
            return made

        Call.compute = compute
        try:
            yield
        finally:
            Call.compute = self._compute


def note_devices(x, found):
    """Adds the devices that each have a part of a tensor which is being computed."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        context = tf.distribute.get_replica_context()
        if context is not None and context.num_replicas_in_sync > 1:
            found.add(x.device[-len("CPU:0") :])
        return
    import jax

    def note(sharding):
        if not sharding.is_fully_replicated:
            found.update(f"CPU:{device.id}" for device in sharding.device_set)

    if isinstance(x, jax.core.Tracer):
        jax.debug.inspect_array_sharding(jax.lax.stop_gradient(x), callback=note)


def looks_at_data(witness):
    """Returns name -> array: what each stage of the hallway finds."""
    model = network()
    # What one device sees is not what the other one sees.
    sizes = np.geomspace(0.3, 3, EXAMPLES)
    data = inputs_of(model, EXAMPLES) * sizes[:, None, None, None]
    graph = folded(trace(model))
    batches = Batches(data, graph.functional)
    found = {}
    with witness.watching("observing"):
        _, moments = observe(graph, batches)
    for name, scatter in moments.scatters.items():
        found[f"mean of {name}"] = scatter.mean
        found[f"scatter of {name}"] = scatter.scatter
    with witness.watching("weighing"):
        for name, weights in sensitivities(graph, batches).items():
            found[f"sensitivity of {name}"] = weights
    search = keras_greedy.search(model, data, verbose=0)
    widths = {name: np.array([8]) for name in search.paths}
    with witness.watching("measuring"):
        measurement = Measurement(graph, moments, least_squares)
        divergences = measurement.at(widths, search.paths, batches)
    for name, path in search.paths.items():
        found[f"order of {name}"] = path.order
        found[f"divergence of {name}"] = divergences[name].values
    method = keras_greedy.Imitation(divergence="expanded")
    expanded = keras_greedy.search(model, data, method=method, verbose=0)
    for name, divergence in expanded.divergence.items():
        found[f"expanded divergence of {name}"] = divergence.values
    compact = search.compact(0.5)
    found["compact"] = outputs_of(compact, data)[0]
    with witness.watching("re-estimating"):
        keras_greedy.reestimate_batch_norm(compact, data, batch_size=16)
    found["re-estimated"] = outputs_of(compact, data)[0]
    # Plain steps: those of Adam do not show how large a gradient is.
    tune = keras_greedy.FineTune(1, optimizer=keras.optimizers.SGD(0.001), distill=True)
    to_train = inputs_of(model, TO_TRAIN)
    with witness.watching("distilling"):
        history = tune.apply(
            compact, model, to_train, validation_data=to_train, verbose=0
        )
    found["distilled"] = outputs_of(compact, data)[0]
    found["divergence of the distilled"] = np.array(history.history["val_divergence"])
    return found


def trains_on_labels(witness):
    """Returns name -> array: the outputs of compact models, trained on labels."""
    full = classifier()
    x, y = inputs_of(full, TO_TRAIN), np.arange(TO_TRAIN) % 5
    compact = keras_greedy.prune(full, x, 0.5, verbose=0)
    batches = [(x[i : i + 16], y[i : i + 16]) for i in range(0, TO_TRAIN, 16)]
    held = x[:30], y[:30]
    tune = keras_greedy.FineTune(1)
    history = tune.apply(compact, full, batches, validation_data=held, verbose=0)
    return {
        "trained on labels": outputs_of(compact, x)[0],
        "loss": np.array(history.history["val_loss"]),
    }


def searches_by_output(witness):
    """Returns name -> array: the paths of searches on the output."""
    x, y = inputs_of(classifier(), EXAMPLES), np.arange(EXAMPLES) % 5
    methods = {
        "loss": keras_greedy.LossSearch(candidates="all"),
        "divergence": keras_greedy.DivergenceSearch("line_search", candidates="all"),
    }
    found = {}
    for kind, method in methods.items():
        with witness.watching(f"searching by {kind}"):
            paths = keras_greedy.search(classifier(), (x, y), method=method, verbose=0)
        for name, path in paths.paths.items():
            found[f"{kind} order of {name}"] = path.order
            found[f"{kind} errors of {name}"] = path.errors
    return found


def refuses_what_replicas_cannot_do():
    fixed = keras.Sequential([keras.Input(batch_shape=(4, 10)), layers.Dense(3)])
    message = "any batch size.*each of whose 2 replicas.*batch size of 4"
    with pytest.raises(ValueError, match=message):
        keras_greedy.reestimate_batch_norm(fixed, np.ones((8, 10)))
    full, one = classifier(), np.ones((1, 10))
    tune = keras_greedy.FineTune(1, distill=True)
    message = "an example for each of the 2 devices. Received: 1 examples"
    with pytest.raises(ValueError, match=message):
        tune.apply(classifier(), full, one, verbose=0)


def strategy_of_two():
    """Returns the strategy, or the distribution, of two devices."""
    if keras.backend.backend() == "jax":
        return keras.distribution.DataParallel()
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


def compare(functions):
    """Checks that two devices find what one finds, and that both had a part in it."""
    scope = strategy_of_two().scope()
    expected = together(functions, Witness())
    witness = Witness()
    with scope:
        assert devices.device_count() == 2
        found = together(functions, witness)
        if keras.backend.backend() == "tensorflow":
            refuses_what_replicas_cannot_do()
    assert_close(found, expected)
    assert witness.devices
    for name, used in witness.devices.items():
        assert used == {"CPU:0", "CPU:1"}, (name, used)


def takes_a_strategy():
    """Checks that a model of one device is searched on both, and stays as it is."""
    strategy = strategy_of_two()
    model = classifier()
    data = inputs_of(model, EXAMPLES)
    before = outputs_of(model, data)[0]
    of_one = keras_greedy.prune(model, data, 0.5, verbose=0)
    witness = Witness()
    with witness.watching("pruning"):
        paths = keras_greedy.search(model, data, strategy=strategy, verbose=0)
    assert witness.devices["pruning"] == {"CPU:0", "CPU:1"}
    compact = paths.compact(0.5)
    of_two = keras_greedy.prune(
        model=model, data=data, budget=0.5, strategy=strategy, verbose=0
    )
    for found in (compact, of_two):
        assert_close(
            {"output": outputs_of(found, data)[0]},
            {"output": outputs_of(of_one, data)[0]},
        )
        assert found.compiled
    np.testing.assert_array_equal(outputs_of(model, data)[0], before)
    if keras.backend.backend() == "tensorflow":
        assert of_two.distribute_strategy is strategy
        assert getattr(model, "distribute_strategy", None) is not strategy


def together(functions, witness):
    found = {}
    for function in functions:
        found |= function(witness)
    return found


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        scale = np.abs(right).max()
        np.testing.assert_allclose(
            found[name], right, rtol=1e-3, atol=1e-5 * scale, err_msg=name
        )


def verifies_a_file():
    """Checks that a model of replicas is compared with its file, sample by sample."""
    with strategy_of_two().scope():
        model = network()
    x = np.random.default_rng(0).normal(size=(7, *model.input_shape[1:]))
    with tempfile.TemporaryDirectory() as folder:
        file = tflite_export.convert(model, Path(folder) / "model.tflite")
        assert tflite_export.verify(model, file, x).max_abs_error < 1e-5


def compiles_for_a_tpu():
    """Checks what a TPU would run: its compiler takes it, there is no float64 in it."""
    import tensorflow as tf

    functions = [looks_at_data, trains_on_labels, searches_by_output]
    expected = together(functions, Witness())
    compiled = []
    plain = tf.function

    def by_xla(function, **settings):
        compiled.append(plain(function, jit_compile=True, **settings))
        return compiled[-1]

    def compiled_by_xla(function, make=backend._compiled_by_tensorflow):
        tf.function = by_xla
        try:
            return make(function)
        finally:
            tf.function = plain

    backend._compiled_by_tensorflow = compiled_by_xla
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        assert_close(together(functions, Witness()), expected)
    graphs = [
        concrete.graph
        for function in compiled
        for concrete in function._list_all_concrete_functions()
    ]
    assert len(graphs) > 20
    for graph in graphs:
        for operation in graph.get_operations():
            for made in operation.outputs:
                assert made.dtype != tf.float64, operation
                is_tensor = made.dtype not in (tf.resource, tf.variant)
                assert not is_tensor or made.shape.is_fully_defined(), operation


# --- The tests -----------------------------------------------------------------------


def run(engine, statement):
    """Runs a statement in a process that may have two devices; it must succeed."""
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "KERAS_BACKEND": engine,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    interpreter = sys.executable if engine == "tensorflow" else interpreter_of("jax")
    command = [interpreter, "-c", f"from test_devices import *; {statement}"]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_the_replicas_of_a_strategy_find_what_one_device_finds():
    run("tensorflow", "compare([looks_at_data])")


@pytest.mark.slow
def test_the_replicas_of_a_strategy_train_on_labels_and_search_by_the_output():
    run("tensorflow", "compare([trains_on_labels, searches_by_output])")


def test_a_model_of_replicas_is_compared_with_its_file():
    run("tensorflow", "verifies_a_file()")


@pytest.mark.slow
def test_the_functions_that_see_data_compile_for_a_tpu():
    run("tensorflow", "compiles_for_a_tpu()")


@pytest.mark.parametrize("engine", ["tensorflow", "jax"])
def test_a_model_is_searched_on_the_devices_of_a_strategy_that_is_given(engine):
    run(engine, "takes_a_strategy()")


@pytest.mark.parametrize("call", [keras_greedy.search, keras_greedy.prune])
def test_a_strategy_is_one_of_the_backend_and_has_a_model_that_can_be_copied(call):
    tf = pytest.importorskip("tensorflow")
    model, x = classifier(), np.ones((8, 10))
    with pytest.raises(ValueError, match=r"`tf.distribute.Strategy`. Received: .*all"):
        call(model, x, strategy="all")
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with pytest.raises(ValueError, match="Functional or a Sequential with `strategy`"):
        call(OfItsOwn(), x, strategy=strategy)


@pytest.mark.parametrize("call", [keras_greedy.search, keras_greedy.prune])
def test_a_strategy_that_is_not_known_is_refused(call):
    tf = pytest.importorskip("tensorflow")
    model, x = classifier(), np.ones((8, 10))
    scope = tf.distribute.experimental.CentralStorageStrategy(["CPU:0"]).scope()
    message = r"MirroredStrategy, .*Received: a CentralStorage"
    with scope, pytest.raises(ValueError, match=message):
        call(model, x)


def test_a_model_of_another_strategy_is_refused():
    tf = pytest.importorskip("tensorflow")
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        model = classifier()
    scope = tf.distribute.OneDeviceStrategy("CPU:0").scope()
    message = "made in the scope of the strategy that"
    with scope, pytest.raises(ValueError, match=message):
        keras_greedy.search(model, np.ones((8, 10)))


def test_what_is_made_of_a_model_is_made_in_the_scope_of_its_strategy():
    tf = pytest.importorskip("tensorflow")
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = classifier()
    compact = keras_greedy.prune(model, inputs_of(model, 32), 0.5, verbose=0)
    assert compact.distribute_strategy is strategy
    assert not tf.distribute.has_strategy()


def test_the_devices_of_a_mesh_find_what_one_device_finds():
    run("jax", "compare([looks_at_data, trains_on_labels, searches_by_output])")
