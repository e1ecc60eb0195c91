"""Conversion: what the files compute, and which models and arguments are refused."""

import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from exported import (
    erfinv_of_singular_values,
    images,
    mobile_block,
    operations,
    randomize,
    run_file,
    small_sequential,
    tiny,
    two_inputs_and_outputs,
)

import tflite_export
from tflite_export.converters import keras_export, parity, registry
from tflite_export.converters import tensorflow as conversion
from tflite_export.quantization import CALIBRATED

layers = keras.layers


@pytest.fixture(scope="module")
def model():
    return mobile_block()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return tflite_export.convert(model, tmp_path_factory.mktemp("tflite") / "m.tflite")


@pytest.fixture(scope="module")
def half_file(model, file):
    path = file.with_name("half.tflite")
    return tflite_export.convert(model, path, quantize="float16")


@pytest.fixture(scope="module")
def two_input_file(file):
    two = two_inputs_and_outputs()
    return two, tflite_export.convert(two, file.with_name("two.tflite"))


@pytest.mark.parametrize("build", [mobile_block, small_sequential])
def test_the_file_computes_what_the_model_computes(build, tmp_path):
    model = build()
    path = tflite_export.convert(model, tmp_path / "model.tflite")
    x = images(8)
    expected = model.predict(x, verbose=0)
    assert np.ptp(expected, axis=0).max() > 1e-3
    actual = np.concatenate([one_output(path, x[i : i + 1]) for i in range(8)])
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def one_output(path, x):
    interpreter = Interpreter(model_path=str(path))
    (name,) = interpreter.get_signature_list()["serving_default"]["inputs"]
    return interpreter.get_signature_runner()(**{name: x})["output_0"]


def test_mobilenet_v3_with_its_raw_operations_is_converted(tmp_path):
    model = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3),
        alpha=0.35,
        weights=None,
        classes=10,
        minimalistic=False,
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    path = tflite_export.convert(model, tmp_path / "v3.tflite")
    x = 255 * np.random.default_rng(0).random((4, 32, 32, 3))
    parity = tflite_export.verify(model, path, x)
    assert parity.ok(1e-5)
    assert {"HARD_SWISH", "DEPTHWISE_CONV_2D"} <= operations(path)


def test_the_path_is_returned_and_text_is_accepted_for_it(tmp_path):
    path = tflite_export.convert(tiny(), str(tmp_path / "tiny.tflite"))
    assert path == tmp_path / "tiny.tflite"
    assert path.is_file()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_of_the_file_is_fixed(batch_size, tmp_path):
    path = tflite_export.convert(tiny(), tmp_path / "t.tflite", batch_size=batch_size)
    (source,) = Interpreter(model_path=str(path)).get_input_details()
    assert source["shape"].tolist() == [batch_size, 4]
    assert source["shape_signature"].tolist() == [batch_size, 4]


def test_the_file_has_built_in_operations_and_no_variables(file):
    names = operations(file)
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "HARD_SWISH", "SOFTMAX"} <= names
    assert not [n for n in names if n.startswith("Flex") or "VAR" in n]


def test_dropout_is_off_in_the_file(model, file):
    x = images(1)
    first, second = run_file(file, image=x), run_file(file, image=x)
    np.testing.assert_array_equal(first["output_0"], second["output_0"])


def test_the_signature_has_the_names_of_the_inputs(two_input_file):
    two, path = two_input_file
    a, b = np.full((1, 4), 0.5, "float32"), np.full((1, 3), -2.0, "float32")
    actual = run_file(path, second=a, first=b)
    expected = two.predict([a, b], verbose=0)
    np.testing.assert_allclose(actual["output_0"], expected[0], atol=1e-6)
    np.testing.assert_allclose(actual["output_1"], expected[1], atol=1e-6)


def test_named_inputs_and_outputs_are_converted(tmp_path):
    x = keras.Input((4,), name="x")
    model = randomize(keras.Model({"x": x}, {"scores": layers.Dense(3)(x)}))
    path = tflite_export.convert(model, tmp_path / "named.tflite")
    sample = np.ones((1, 4), "float32")
    expected = model.predict({"x": sample}, verbose=0)["scores"]
    np.testing.assert_allclose(run_file(path, x=sample)["scores"], expected, atol=1e-6)


def test_an_integer_input_stays_an_integer(tmp_path):
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    model = randomize(keras.Model(tokens, layers.Embedding(10, 4)(tokens)))
    path = tflite_export.convert(model, tmp_path / "tokens.tflite")
    x = np.array([[0, 9, 3, 3, 1]], "int32")
    expected = model.predict(x, verbose=0)
    np.testing.assert_allclose(run_file(path, tokens=x)["output_0"], expected)


def test_a_float16_file_is_half_the_size_and_close(model, file, half_file):
    assert half_file.stat().st_size < 0.65 * file.stat().st_size
    parity = tflite_export.verify(model, half_file, images(8))
    assert 0 < parity.max_abs_error < 1e-2
    tensors = Interpreter(model_path=str(half_file)).get_tensor_details()
    dtypes = {tensor["dtype"] for tensor in tensors}
    assert np.float16 in dtypes
    assert np.int8 not in dtypes


def test_conversion_leaves_the_model_as_it_was(tmp_path):
    model = mobile_block()
    model.layers[1].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images(4), np.arange(4), verbose=0)
    before = state(model)
    tflite_export.convert(model, tmp_path / "m.tflite")
    tflite_export.convert(model, tmp_path / "m.tflite", quantize="float16")
    after = state(model)
    assert before.pop("attributes") == after.pop("attributes")
    np.testing.assert_equal(after, before)
    model.fit(images(4), np.arange(4), verbose=0)
    assert not np.array_equal(model.get_weights()[-1], after["weights"][-1])


def state(model):
    return {
        "attributes": set(vars(model)),
        "weights": model.get_weights(),
        "optimizer": [v.numpy() for v in model.optimizer.variables],
        "trainable": [layer.trainable for layer in model.layers],
        "dtype": [layer.dtype_policy.name for layer in model.layers],
        "config": model.get_config(),
        "compiled": (model.compiled, model.loss, id(model.optimizer)),
        "policy": keras.config.dtype_policy().name,
    }


def test_nothing_is_printed_to_stdout(tmp_path, capfd):
    model = tiny()
    path = tflite_export.convert(model, tmp_path / "tiny.tflite")
    tflite_export.verify(model, path, np.ones((2, 4)))
    tflite_export.compare([path, path], runs=2)
    assert capfd.readouterr().out == ""


def test_an_operation_that_is_not_built_in_is_named(tmp_path):
    message = re.escape("needs tf.Erfinv, tf.Svd. ")
    with pytest.raises(ValueError, match=message):
        tflite_export.convert(erfinv_of_singular_values(), tmp_path / "m.tflite")


def test_a_flex_operation_is_refused_not_written(tmp_path):
    x = keras.Input((4, 4))
    spectrum = keras.ops.fft2((x, x))[0]
    with pytest.raises(ValueError, match=r"tf\.FFT2D"):
        tflite_export.convert(keras.Model(x, spectrum), tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_conversion_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="Erfinv"):
        tflite_export.convert(erfinv_of_singular_values(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch, error, step):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"old")

    def interrupted(self, *args):
        self.touch()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(path), step, interrupted)
        with pytest.raises(type(error)):
            tflite_export.convert(tiny(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_as_readable_as_any_other_new_file(tmp_path):
    path = tflite_export.convert(tiny(), tmp_path / "m.tflite")
    other = tmp_path / "other"
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


@pytest.fixture
def no_conversion(monkeypatch):
    def refuse(*_):
        pytest.fail("The error should have come before the conversion.")

    monkeypatch.setattr(conversion, "_trace", refuse)


@pytest.mark.usefixtures("no_conversion")
class TestConvertRefusesBeforeAnyWork:
    @pytest.mark.parametrize("name", ["model", "model.lite", "model.tflite.tmp", ""])
    def test_a_name_that_does_not_end_in_tflite(self, name, tmp_path):
        with pytest.raises(ValueError, match=r"ending in \.tflite\. Received: path="):
            tflite_export.convert(tiny(), tmp_path / name)

    def test_a_path_that_is_a_folder(self, tmp_path):
        (tmp_path / "folder.tflite").mkdir()
        with pytest.raises(ValueError, match=r"folder\.tflite"):
            tflite_export.convert(tiny(), tmp_path / "folder.tflite")

    def test_a_folder_that_does_not_exist(self, tmp_path):
        path = tmp_path / "nowhere" / "model.tflite"
        with pytest.raises(FileNotFoundError, match=r"existing folder.*nowhere"):
            tflite_export.convert(tiny(), path)

    @pytest.mark.parametrize("quantize", ["INT8", "fp16", 16, True])
    def test_a_quantization_it_does_not_know(self, quantize, tmp_path):
        message = rf"\[None, 'float16'.*\]. Received: quantize={quantize!r}"
        with pytest.raises(ValueError, match=message):
            tflite_export.convert(tiny(), tmp_path / "m.tflite", quantize=quantize)

    @pytest.mark.parametrize("batch_size", [0, -1, 1.5, None, True, "1"])
    def test_a_batch_size_that_is_no_positive_integer(self, batch_size, tmp_path):
        message = f"integer of at least 1. Received: batch_size={batch_size!r}"
        with pytest.raises(ValueError, match=message):
            tflite_export.convert(tiny(), tmp_path / "m.tflite", batch_size=batch_size)

    def test_a_batch_size_other_than_that_of_the_model(self, tmp_path):
        x = keras.Input(batch_shape=(2, 4), name="pair")
        pair = keras.Model(x, layers.Dense(1)(x))
        with pytest.raises(ValueError, match=r"to be 2.*'pair'.*batch_size=1"):
            tflite_export.convert(pair, tmp_path / "m.tflite")

    @pytest.mark.parametrize("model", [None, "model.keras", layers.Dense(2)])
    def test_what_is_not_a_model(self, model, tmp_path):
        with pytest.raises(ValueError, match="Expected a Functional Keras model"):
            tflite_export.convert(model, tmp_path / "m.tflite")

    def test_a_sequential_model_that_is_not_built(self, tmp_path):
        with pytest.raises(ValueError, match=r"`keras\.Input` or is built"):
            tflite_export.convert(
                keras.Sequential([layers.Dense(2)]), tmp_path / "m.tflite"
            )

    def test_variable_image_sizes(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"'image' of shape \(None, None, None, 3\)"
        ):
            tflite_export.convert(mobile_block(size=None), tmp_path / "m.tflite")

    @pytest.mark.parametrize("name", ["my input", "_x", "x:0", "ä"])
    def test_a_name_that_would_leave_the_file_without_a_signature(self, name, tmp_path):
        with pytest.raises(ValueError, match=rf"names of inputs.*Received: '{name}'"):
            tflite_export.convert(tiny(name=name), tmp_path / "m.tflite")


# --- Other backends ------------------------------------------------------------------


@pytest.fixture
def on_jax(monkeypatch):
    """Has this process take its own backend for another: the other process is real."""
    monkeypatch.delenv("TENSORFLOW_PYTHON", raising=False)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")


def test_a_model_of_another_backend_is_converted_in_another_process(
    on_jax, model, tmp_path
):
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    assert tflite_export.verify(model, path, images(4)).ok(1e-5)


def test_an_error_of_the_other_process_is_one_here(on_jax, tmp_path):
    with pytest.raises(ValueError, match=r"needs .*Erfinv"):
        tflite_export.convert(erfinv_of_singular_values(), tmp_path / "m.tflite")


def test_a_class_of_the_script_that_runs_is_named(on_jax, tmp_path, monkeypatch):
    class Twice(layers.Layer):
        def call(self, x):
            return 2 * x

    monkeypatch.setattr(Twice, "__module__", "__main__")
    model = keras.Sequential([keras.Input((4,)), Twice(name="mine")])
    with pytest.raises(ValueError, match=r"import.*layer 'mine' of the class Twice"):
        tflite_export.convert(model, tmp_path / "m.tflite")


def test_without_tensorflow_the_error_says_what_converts(on_jax, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the backend jax.*TENSORFLOW_PYTHON"):
        tflite_export.convert(tiny(), tmp_path / "m.tflite")
    fails = shutil.which("false")
    monkeypatch.setenv("TENSORFLOW_PYTHON", fails)
    with pytest.raises(ImportError, match=f"Received: {fails}, which ends with 1"):
        tflite_export.convert(tiny(), tmp_path / "m.tflite")


def test_the_remedy_for_variable_image_sizes_works(tmp_path):
    model = mobile_block(size=None)
    x = keras.Input((16, 16, 3))
    fixed = keras.Model(x, model(x))
    path = tflite_export.convert(fixed, tmp_path / "m.tflite")
    assert tflite_export.verify(model, path, images(4)).ok(1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_is_refused_and_the_remedy_works(dtype, tmp_path):
    def build(policy):
        x = keras.Input((4,))
        return keras.Model(x, layers.Dense(3, dtype=policy)(x))

    mixed = randomize(build(f"mixed_{dtype}"))
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match=f"computes in {dtype}.*set_dtype_policy"):
        tflite_export.convert(mixed, path)
    full = build("float32")
    full.set_weights(mixed.get_weights())
    assert tflite_export.verify(full, tflite_export.convert(full, path), np.eye(4)).ok()


def test_a_model_fixed_to_a_batch_size_is_converted_and_verified(tmp_path):
    x = keras.Input(batch_shape=(2, 4))
    pair = randomize(keras.Model(x, layers.Dense(3)(x)))
    path = tflite_export.convert(pair, tmp_path / "m.tflite", batch_size=2)
    parity = tflite_export.verify(pair, path, np.eye(4)[:3])
    assert parity.ok(1e-6)
    assert parity.samples == 3


def test_warnings_of_the_converter_point_at_the_line_that_called(monkeypatch):
    class Converter:
        def convert(self):
            warnings.warn("a range is empty", RuntimeWarning, stacklevel=1)
            return b"content"

    monkeypatch.setattr(conversion, "_converter", lambda _: Converter())
    monkeypatch.setattr(conversion, "configure", lambda *_: None)
    with pytest.warns(RuntimeWarning, match="a range is empty") as caught:
        tflite_export.to_bytes(tiny())
    assert [each.filename for each in caught] == [__file__]


def test_a_missing_keras_says_how_to_install_it(monkeypatch, tmp_path):
    model = tiny()
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r"pip install keras tensorflow"):
        tflite_export.convert(model, tmp_path / "m.tflite")


# --- the package


def test_files_are_checked_and_timed_without_keras_and_tensorflow(file, tmp_path):
    np.save(tmp_path / "x.npy", images(2))
    code = f"""
import sys
import threading
for absent in ("keras", "scipy", "tensorflow"):
    sys.modules[absent] = None
import numpy as np
import tflite_export
x = np.load({str(tmp_path / "x.npy")!r})
print(tflite_export.verify(np.zeros((2, 10)), {str(file)!r}, x).samples)
print(tflite_export.compare([{str(file)!r}], runs=2).ratios)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.splitlines() == ["2", "(1.0,)"], done.stderr


# --- silence


@pytest.fixture
def loud(monkeypatch):
    """TensorFlow logs all that it does."""
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    logger = tf.get_logger()
    before = logger.level
    logger.setLevel(logging.INFO)
    yield logger
    assert logger.level == logging.INFO
    logger.setLevel(before)


@pytest.mark.parametrize("mode", [None, "int8", "int8_full"])
def test_a_conversion_prints_nothing_of_its_own(mode, loud, capfd, caplog):
    data = {"representative_data": np.eye(4)} if mode else {}
    tflite_export.to_bytes(tiny(), mode, **data)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    loud.info("still heard")
    assert [record.message for record in caplog.records] == ["still heard"]


def test_a_conversion_lets_other_threads_log(loud, caplog, monkeypatch):
    def trace(*_):
        other = threading.Thread(target=loud.info, args=("of another thread",))
        other.start()
        other.join()
        loud.info("of the conversion")
        loud.warning("of interest")
        raise RuntimeError

    monkeypatch.setattr(conversion, "_trace", trace)
    with pytest.raises(RuntimeError):
        tflite_export.to_bytes(tiny())
    messages = [record.message for record in caplog.records]
    assert messages == ["of another thread", "of interest"]
    assert not loud.filters


def test_errors_are_seen_again_behind_conversions_of_several_threads(loud, capfd):
    models = [tiny() for _ in range(3)]
    threads = [
        threading.Thread(target=tflite_export.to_bytes, args=(model,))
        for model in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"seen\n")
    assert capfd.readouterr().err.endswith("seen\n")


def test_everything_is_said_to_those_who_ask_for_it(loud, capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    tflite_export.to_bytes(tiny(), "int8", representative_data=np.eye(4))
    assert "inference_type" in capfd.readouterr().err


# --- The choice of a converter


def with_keras(model, folder, **options):
    return tflite_export.convert(
        model, folder / "k.tflite", **options, converter="keras"
    )


@pytest.fixture
def keras_exports():
    if not keras_export.is_there("tensorflow"):
        pytest.skip("Keras has no export to LiteRT before 3.13")


@pytest.mark.usefixtures("keras_exports")
class TestKerasConverts:
    @pytest.mark.parametrize("mode", [None, "float16", "dynamic", "int8", "int8_full"])
    def test_the_same_values_as_tensorflows_converter(self, mode, model, tmp_path):
        data = {"representative_data": images(32)} if mode in CALIBRATED else {}
        path = with_keras(model, tmp_path, quantize=mode, batch_size=2, **data)
        own = tflite_export.convert(model, tmp_path / "m.tflite", mode, 2, **data)
        found, expected = (tflite_export.run(each, images(8)) for each in (path, own))
        assert found.keys() == expected.keys()
        step = 0.02 if mode in CALIBRATED else 1e-5
        np.testing.assert_allclose(found["output_0"], expected["output_0"], atol=step)

    def test_inputs_keep_their_names(self, tmp_path):
        model = two_inputs_and_outputs()
        data = {"first": np.ones((2, 3)), "second": np.ones((2, 4))}
        path = with_keras(model, tmp_path)
        assert tflite_export.verify(model, path, data).ok(1e-5)

    def test_operations_that_are_not_built_in_are_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"needs .*Erfinv"):
            with_keras(erfinv_of_singular_values(), tmp_path)
        assert not list(tmp_path.iterdir())

    def test_a_file_that_computes_something_else_is_refused(
        self, model, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(
            parity, "outputs_of", lambda *_: [np.ones((1, 10), "float32")]
        )
        with pytest.raises(ValueError, match="the same by Keras"):
            with_keras(model, tmp_path)
        assert not list(tmp_path.iterdir())

    def test_it_stands_in_where_tensorflows_converter_is_not_there(
        self, model, tmp_path, monkeypatch
    ):
        gone = registry.CONVERTERS["tensorflow"]._replace(is_there=lambda _: False)
        monkeypatch.setitem(registry.CONVERTERS, "tensorflow", gone)
        path = tflite_export.convert(model, tmp_path / "m.tflite")
        assert tflite_export.verify(model, path, images(4)).ok(1e-5)


def test_a_converter_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ImportError, match="converter='litert-torch'"):
        tflite_export.convert(tiny(), tmp_path / "m.tflite", converter="litert-torch")
    with pytest.raises(ValueError, match="converter='onnx'"):
        tflite_export.convert(tiny(), tmp_path / "m.tflite", converter="onnx")
