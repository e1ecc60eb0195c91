"""Parity of a file with its model: the errors found, the data taken and refused."""

import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported import (
    Pieces,
    images,
    mobile_block,
    randomize,
    tiny,
    two_inputs_and_outputs,
)

import tflite_export

layers = keras.layers


@pytest.fixture(scope="module")
def model():
    return mobile_block()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    return tflite_export.convert(model, tmp_path_factory.mktemp("tflite") / "m.tflite")


@pytest.fixture(scope="module")
def two_input_file(file):
    two = two_inputs_and_outputs()
    return two, tflite_export.convert(two, file.with_name("two.tflite"))


@pytest.mark.parametrize(("agreement", "shown"), [(0.5, "50.0%"), (None, "–")])
def test_a_parity_is_a_line_in_the_console_and_a_table_in_a_notebook(agreement, shown):
    parity = tflite_export.Parity("some/m.tflite", 64, 2e-6, 1e-7, 0.98, agreement)
    assert repr(parity) == (
        f"<Parity of 'm.tflite': max |error| 2e-06, same top-1 {shown}, 64 samples>"
    )
    cells = re.findall(">([^<]+)</td>", parity._repr_html_())
    assert cells == ["some/m.tflite", "2e-06", "1e-07", "0.98", shown, "64"]


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
