import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from exported import (
    Pieces,
    erfinv_of_singular_values,
    images,
    mobile_block,
    operations,
    randomize,
    run_file,
    small_sequential,
    tiny,
)

import tflite_export
from tflite_export.latency import Comparison, Latency

layers = keras.layers
# As attributes of the package these names are the functions.
conversion = importlib.import_module("tflite_export.convert")
timing = importlib.import_module("tflite_export.benchmark")


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
    a, b = keras.Input((4,), name="second"), keras.Input((3,), name="first")
    both = layers.Concatenate()([a, b])
    two = keras.Model([a, b], [layers.Dense(2)(both), layers.Dense(3)(b)])
    randomize(two)
    return two, tflite_export.convert(two, file.with_name("two.tflite"))


# --- convert


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
        message = rf"\(None, 'float16'.*\). Received: quantize={quantize!r}"
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

    def test_another_backend_than_tensorflow(self, tmp_path, monkeypatch):
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(ValueError, match=r"TensorFlow backend.*backend='jax'"):
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


# --- verify


def test_verify_reports_the_errors_it_finds(model, file):
    x = images(6)
    expected = model.predict(x, verbose=0)
    shifted = expected.copy()
    shifted[2, 0] += 0.25
    shifted[4] = np.roll(shifted[4], 1)
    parity = tflite_export.verify(shifted, file, x)
    error = np.abs(shifted.astype("float64") - expected)
    assert parity.max_abs_error == pytest.approx(error.max(), abs=1e-6)
    assert parity.mean_abs_error == pytest.approx(error.mean(), abs=1e-6)
    assert parity.max_abs_output == pytest.approx(shifted.max())
    changed = (shifted.argmax(1) != expected.argmax(1)).mean()
    assert changed > 0
    assert parity.top1_agreement == pytest.approx(1 - changed)
    assert parity.samples == 6
    assert parity.path == str(file)


def test_verify_finds_a_good_file_good_and_a_wrong_one_wrong(model, file):
    other = randomize(keras.models.clone_model(model), seed=5)
    assert tflite_export.verify(model, file, images(4)).ok(1e-5)
    assert not tflite_export.verify(other, file, images(4)).ok()


def test_verify_takes_the_outputs_in_place_of_the_model(model, file):
    x = images(4)
    outputs = model.predict(x, verbose=0)
    assert tflite_export.verify(outputs, file, x).ok(1e-5)
    assert tflite_export.verify(outputs.tolist(), file, x, max_samples=2).ok(1e-5)


@pytest.mark.parametrize(
    "data",
    [
        images(5),
        tf.constant(images(5)),
        images(5).astype("float64"),
        (images(5), np.zeros(5)),
        [images(5)[:2], images(5)[2:]],
        [(images(5)[:2], np.zeros(2)), (images(5)[2:], np.zeros(3))],
        tf.data.Dataset.from_tensor_slices(images(5)).batch(2),
        tf.data.Dataset.from_tensor_slices((images(5), np.zeros(5))).batch(2),
        Pieces(5, 3),
    ],
    ids=[
        "array",
        "tensor",
        "float64",
        "tuple",
        "list",
        "pairs",
        "tf",
        "tf_xy",
        "pydataset",
    ],
)
def test_verify_takes_the_usual_forms_of_data(model, file, data):
    expected = model.predict(images(5), verbose=0)
    parity = tflite_export.verify(expected, file, data)
    assert parity.samples == 5
    assert parity.ok(1e-5)


def test_verify_takes_the_first_samples_and_reads_no_further(model, file):
    def endless():
        for seed in range(3):
            yield images(2, seed=seed)
        pytest.fail("More batches were read than needed.")

    parity = tflite_export.verify(model, file, endless(), max_samples=5)
    assert parity.samples == 5


def test_verify_leaves_out_what_fills_the_last_batch(model, tmp_path):
    path = tflite_export.convert(model, tmp_path / "four.tflite", batch_size=4)
    x = images(6)
    expected = model.predict(x, verbose=0)
    expected[5] += 1.0
    parity = tflite_export.verify(expected, path, x)
    assert parity.samples == 6
    assert parity.mean_abs_error == pytest.approx(1 / 6, abs=1e-5)


def test_verify_leaves_the_model_uncompiled_and_its_weights_alone(file):
    model = mobile_block()
    before = model.get_weights()
    tflite_export.verify(model, file, images(2))
    assert not model.compiled
    np.testing.assert_equal(model.get_weights(), before)


def test_top1_is_none_where_there_are_no_classes(tmp_path):
    model = tiny(units=1)
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    parity = tflite_export.verify(model, path, np.eye(4))
    assert parity.top1_agreement is None
    assert "top-1" not in str(parity)


def test_verify_takes_a_model_with_a_named_output(tmp_path):
    x = keras.Input((4,))
    model = randomize(keras.Model(x, {"scores": layers.Dense(3)(x)}))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    assert tflite_export.verify(model, path, np.eye(4)).ok(1e-6)


def test_parity_prints_and_saves_itself(model, file):
    parity = tflite_export.verify(model, file, images(2))
    assert json.loads(parity.to_json())["max_abs_error"] == parity.max_abs_error
    assert str(file) in str(parity)
    assert "same top-1 100.0%, 2 samples" in str(parity)


@pytest.mark.parametrize("data", [[], images(0), iter(()), [images(0)]])
def test_verify_refuses_empty_data(model, file, data):
    with pytest.raises(ValueError, match="Expected `data` to hold samples"):
        tflite_export.verify(model, file, data)


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (images(2, size=8), r"\(2, 8, 8, 3\)"),
        (images(2)[0], r"\(16, 16, 3\)"),
        ([images(2), images(2)[0]], r"\(16, 16, 3\)"),
        (images(2).astype(str), "dtype <U"),
    ],
)
def test_verify_refuses_data_that_does_not_fit_the_file(model, file, data, received):
    message = rf"shape \('n', 16, 16, 3\).*{received}"
    with pytest.raises(ValueError, match=message):
        tflite_export.verify(model, file, data)


def test_verify_refuses_data_it_cannot_read(model, file):
    with pytest.raises(ValueError, match=r"iterable of batches\. Received: data=3"):
        tflite_export.verify(model, file, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_verify_refuses_samples_that_are_not_finite(model, file, value):
    x = images(4)
    x[2, 3, 3, 0] = value
    with pytest.raises(ValueError, match=r"`data`.*1 of 4 samples.*at index 2"):
        tflite_export.verify(model, file, x)


def test_verify_refuses_a_model_that_gives_nan(file):
    expected = np.full((2, 10), np.nan)
    with pytest.raises(ValueError, match="outputs of the model to be finite"):
        tflite_export.verify(expected, file, images(2))


def test_verify_refuses_a_file_that_gives_nan(tmp_path):
    x = keras.Input((4,))
    logarithm = keras.Model(x, keras.ops.log(x))
    path = tflite_export.convert(logarithm, tmp_path / "log.tflite")
    with pytest.raises(ValueError, match=r"outputs of the file.*first at index 1"):
        tflite_export.verify(np.zeros((2, 4)), path, np.array([[1.0] * 4, [-1.0] * 4]))


def test_verify_refuses_a_file_with_outputs_of_another_shape(file):
    with pytest.raises(ValueError, match=r"shape \(1, 7\).*which gives \(1, 10\)"):
        tflite_export.verify(np.zeros((2, 7)), file, images(2))


@pytest.mark.parametrize("rows", [1, 3])
def test_verify_refuses_outputs_of_other_samples(file, rows):
    with pytest.raises(ValueError, match=rf"2 samples.*shape \({rows}, 10\)"):
        tflite_export.verify(np.zeros((rows, 10)), file, images(2))


def test_verify_refuses_what_is_neither_model_nor_outputs(file):
    with pytest.raises(ValueError, match="Expected `model` to be a Keras model"):
        tflite_export.verify("model.keras", file, images(2))


@pytest.mark.parametrize(
    "data", [np.zeros((2, 4)), {"second": np.zeros((2, 4))}, [[np.zeros((2, 4))]]]
)
def test_verify_refuses_one_array_for_two_inputs(two_input_file, data):
    two, path = two_input_file
    with pytest.raises(ValueError, match=r"dicts of arrays.*'first'"):
        tflite_export.verify(two, path, data)


def test_verify_refuses_more_samples_of_one_input_than_of_the_other(two_input_file):
    two, path = two_input_file
    data = {"second": np.zeros((2, 4)), "first": np.zeros((3, 3))}
    with pytest.raises(ValueError, match="as many samples for each input"):
        tflite_export.verify(two, path, data)


def two_inputs(count=5):
    rng = np.random.default_rng(0)
    return {"first": rng.random((count, 3)), "second": rng.random((count, 4))}


@pytest.mark.parametrize("as_data", [lambda x: x, lambda x: [x], lambda x: (x, None)])
def test_verify_compares_all_outputs_of_a_file_with_two_inputs(two_input_file, as_data):
    two, path = two_input_file
    x = two_inputs()
    assert tflite_export.verify(two, path, as_data(x)).ok(1e-6)
    first, second = two.predict([x["second"], x["first"]], verbose=0)
    second[3, 1] += 0.5
    parity = tflite_export.verify([first, second], path, as_data(x))
    assert parity.max_abs_error == pytest.approx(0.5, abs=1e-5)
    assert parity.mean_abs_error == pytest.approx(0.5 / 25, abs=1e-5)


def test_verify_refuses_a_model_with_other_inputs(two_input_file):
    a, b = keras.Input((4,), name="second"), keras.Input((3,), name="third")
    other = keras.Model([a, b], [layers.Dense(2)(a), layers.Dense(3)(b)])
    with pytest.raises(ValueError, match=r"same inputs.*'third'"):
        tflite_export.verify(other, two_input_file[1], two_inputs())


def test_verify_refuses_a_model_with_other_outputs(two_input_file):
    _, path = two_input_file
    with pytest.raises(ValueError, match=r"\['output_0', 'output_1'\].*outputs \['a'"):
        tflite_export.verify({"a": np.zeros((5, 2))}, path, two_inputs())


def test_verify_refuses_to_compare_no_samples(model, file):
    with pytest.raises(ValueError, match="max_samples=0"):
        tflite_export.verify(model, file, images(2), max_samples=0)


# --- benchmark and compare


def test_benchmark_measures_a_file(file):
    latency = tflite_export.benchmark(str(file), runs=7, threads=2)
    assert latency.path == str(file)
    assert latency.size_bytes == file.stat().st_size
    assert (latency.runs, latency.threads) == (7, 2)
    assert 0 < latency.p50_ms <= latency.p90_ms
    assert latency.mean_ms > 0
    assert latency.std_ms >= 0
    assert json.loads(latency.to_json())["p90_ms"] == latency.p90_ms
    assert str(file) in str(latency)
    assert (latency.warmup, latency.delegate) == (5, "XNNPACK")
    assert latency.init_ms > 0


def test_the_statistics_are_those_of_the_timed_runs(file, monkeypatch):
    durations = [9.0, 9.0, 0.001, 0.002, 0.003, 0.004, 0.010]
    clock = iter(np.cumsum([[0.0, each] for each in durations]).tolist())
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    latency = tflite_export.benchmark(file, runs=5, warmup=2)
    assert latency.p50_ms == pytest.approx(3.0)
    assert latency.p90_ms == pytest.approx(7.6)
    assert latency.mean_ms == pytest.approx(4.0)
    assert latency.std_ms == pytest.approx(np.std([1, 2, 3, 4, 10]))


class Spy:
    """A file, and its interpreter, that writes down that it ran."""

    def __init__(self, path, log):
        self.path, self.log = str(path), log

    @property
    def interpreter(self):
        return self

    def feed_noise(self):
        pass

    def _get_ops_details(self):
        return []

    def invoke(self):
        self.log.append(Path(self.path).stem)


@pytest.fixture
def order_of_runs(file, monkeypatch):
    log = []

    def compare(names, **options):
        paths = [file.with_name(f"{name}.tflite") for name in names]
        for path in paths:
            path.touch()
        monkeypatch.setattr(timing, "TfliteFile", lambda path, threads: Spy(path, log))
        monkeypatch.setattr(timing, "_started_alone", lambda path, threads: {})
        tflite_export.compare(paths, **options)
        return "".join(log)

    return compare


def test_compare_runs_the_files_in_turns(order_of_runs):
    assert order_of_runs("AB", runs=3, warmup=1) == "ABBAABBA"


def test_every_file_has_every_place_in_a_round_alike(order_of_runs):
    assert order_of_runs("ABC", runs=3, warmup=0) == "ABCBCACAB"


def test_compare_gives_the_ratio_to_the_first(file, half_file):
    comparison = tflite_export.compare([file, half_file, file], runs=5)
    assert [each.path for each in comparison.latencies] == [
        str(file),
        str(half_file),
        str(file),
    ]
    assert comparison.ratios[0] == 1.0
    p50 = [each.p50_ms for each in comparison.latencies]
    assert comparison.ratios[1] == pytest.approx(p50[1] / p50[0])


def test_compare_shows_which_file_is_slower(file, tmp_path):
    x = keras.Input((64, 64, 16))
    y = x
    for _ in range(4):
        y = layers.Conv2D(16, 3, padding="same")(y)
    slow = tflite_export.convert(keras.Model(x, y), tmp_path / "slow.tflite")
    assert tflite_export.compare([file, slow], runs=10).ratios[1] > 2


def comparison():
    return Comparison(
        (
            Latency("full.tflite", 14_000_000, 50, 1, 10.0, 12.0, 10.5, 1.25),
            Latency("b.tflite", 9e5, 50, 1, 4.0, None, 4.5, 0.5, 5, "GPU", 7.0, 2.5),
        )
    )


def test_compare_prints_an_aligned_table():
    assert str(comparison()).splitlines() == [
        "file             MB  p50 ms  p90 ms  mean ms  std ms  p50 ratio"
        "  init ms  peak MB  delegate",
        "full.tflite  14.000  10.000  12.000   10.500   1.250      1.000"
        "        –        –         –",
        "b.tflite      0.900   4.000       –    4.500   0.500      0.400"
        "    7.000    2.500       GPU",
    ]


def test_compare_writes_markdown():
    assert comparison().to_markdown().splitlines() == [
        "| file | MB | p50 ms | p90 ms | mean ms | std ms | p50 ratio "
        "| init ms | peak MB | delegate |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| full.tflite | 14.000 | 10.000 | 12.000 | 10.500 | 1.250 | 1.000 "
        "| – | – | – |",
        "| b.tflite | 0.900 | 4.000 | – | 4.500 | 0.500 | 0.400 "
        "| 7.000 | 2.500 | GPU |",
    ]


def test_compare_writes_json():
    first, second = json.loads(comparison().to_json())
    assert first["path"] == "full.tflite"
    assert first["size_bytes"] == 14_000_000
    assert (first["ratio"], second["ratio"]) == (1.0, 0.4)


def test_files_with_several_or_integer_inputs_are_timed(two_input_file, tmp_path):
    tokens = keras.Input((5,), dtype="int32")
    model = keras.Model(tokens, layers.Embedding(3, 4)(tokens))
    path = tflite_export.convert(model, tmp_path / "tokens.tflite")
    comparison = tflite_export.compare([two_input_file[1], path], runs=2)
    assert len(comparison.latencies) == 2


@pytest.mark.parametrize("paths", [[], "model.tflite", (), iter(())])
def test_compare_refuses_what_is_no_list_of_files(paths):
    with pytest.raises(ValueError, match="Expected `paths` to be a list"):
        tflite_export.compare(paths)


def test_compare_takes_any_iterable_of_files(file):
    comparison = tflite_export.compare((path for path in [file, file]), runs=1)
    assert len(comparison.latencies) == 2


@pytest.mark.parametrize("time_it", [tflite_export.benchmark, tflite_export.compare])
@pytest.mark.parametrize(
    "options", [{"runs": 0}, {"threads": 0}, {"warmup": -1}, {"runs": 2.5}]
)
def test_numbers_too_small_are_refused(time_it, options, file):
    paths = file if time_it is tflite_export.benchmark else [file]
    ((name, value),) = options.items()
    with pytest.raises(
        ValueError, match=f"Expected `{name}`.*Received: {name}={value}"
    ):
        time_it(paths, **options)


def users_of_a_file():
    return {
        "benchmark": tflite_export.benchmark,
        "compare": lambda path: tflite_export.compare([path]),
        "verify": lambda path: tflite_export.verify(np.zeros((1, 4)), path, np.eye(4)),
    }


@pytest.mark.parametrize("use", users_of_a_file().values(), ids=users_of_a_file())
def test_a_missing_file_is_named(use, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"existing \.tflite.*gone\.tflite"):
        use(tmp_path / "gone.tflite")


@pytest.mark.parametrize("use", users_of_a_file().values(), ids=users_of_a_file())
@pytest.mark.parametrize("content", ["nothing", "text", "a truncated file"])
def test_a_file_that_is_no_model_is_named(use, content, file, tmp_path):
    path = tmp_path / "broken.tflite"
    whole = file.read_bytes()
    contents = {"nothing": b"", "text": b"hello" * 99, "a truncated file": whole[:-99]}
    path.write_bytes(contents[content])
    with pytest.raises(ValueError, match=r"Expected a \.tflite model.*broken\.tflite"):
        use(path)


def test_a_file_with_flex_operations_is_refused(tmp_path):
    model = erfinv_of_singular_values()
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [conversion._trace(model, 1)], tf.Module()
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.SELECT_TF_OPS]
    converter.allow_custom_ops = True
    path = tmp_path / "flex.tflite"
    path.write_bytes(converter.convert())
    with pytest.raises(ValueError, match=r"built-in operations.*flex\.tflite"):
        tflite_export.benchmark(path)


# --- the package


def test_files_are_checked_and_timed_without_keras_and_tensorflow(file, tmp_path):
    np.save(tmp_path / "x.npy", images(2))
    code = f"""
import sys
sys.modules["keras"] = sys.modules["tensorflow"] = None
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


PUBLIC = {name: getattr(tflite_export, name) for name in tflite_export.__all__}
FUNCTIONS = [each for each in PUBLIC if each.islower() and each != "android"]


@pytest.mark.parametrize("public", PUBLIC.values(), ids=PUBLIC)
def test_every_public_name_is_documented(public):
    assert public.__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_of_the_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PUBLIC[name].__doc__
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    for example in examples:
        exec(re.sub(r"^    ", "", example, flags=re.MULTILINE), {})
        assert list(tmp_path.glob("*.tflite"))
    assert examples or name in ("first_divergence", "load_samples")
