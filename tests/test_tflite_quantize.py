"""What the quantized files compute, against arithmetic and against the float model."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from exported import (
    ONE_SIDED,
    Pieces,
    images,
    mean_shift,
    mobile_block,
    one_sided,
    operations,
    randomize,
    small_sequential,
    tiny,
    with_one_bias,
)

import tflite_export
from tflite_export.converters import keras_export
from tflite_export.converters import tensorflow as conversion
from tflite_export.runtime import Port, TfliteFile

layers = keras.layers
MODES = [None, "float16", "dynamic", "int8", "int8_full"]
CALIBRATED = ["int8", "int8_full"]


def converted(model, folder, quantize, data, **options):
    path = folder / f"{quantize}.tflite"
    if quantize in CALIBRATED:
        options["representative_data"] = data
    return tflite_export.convert(model, path, quantize=quantize, **options)


def weights_of(path):
    """The dtype of each weight of a file, by its shape, and its number of scales."""
    found = {}
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    for each in interpreter.get_tensor_details():
        if each["shape"].size > 1:
            scales = len(each["quantization_parameters"]["scales"])
            found[tuple(each["shape"].tolist())] = np.dtype(each["dtype"]).name, scales
    return found


@pytest.fixture(scope="module")
def model():
    return mobile_block()


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quantized")
    return {mode: converted(model, folder, mode, images(64)) for mode in MODES}


@pytest.mark.parametrize(
    ("mode", "bound"),
    [("float16", 0.01), ("dynamic", 0.1), ("int8", 0.15), ("int8_full", 0.15)],
)
def test_a_quantized_file_is_near_the_float_model_and_not_equal(
    mode, bound, model, files
):
    parity = tflite_export.verify(model, files[mode], images(64, seed=2))
    assert 0 < parity.max_abs_error < bound * parity.max_abs_output
    assert parity.top1_agreement > 0.9


def test_int8_files_are_smaller_though_the_network_is_mostly_structure(files):
    full = files[None].stat().st_size
    for mode in ("dynamic", "int8", "int8_full"):
        assert files[mode].stat().st_size < 0.7 * full


@pytest.mark.parametrize("mode", CALIBRATED)
def test_convolutions_have_a_scale_for_each_output_channel(mode, files):
    weights = weights_of(files[mode])
    assert weights[(8, 3, 3, 3)] == ("int8", 8)
    assert weights[(1, 3, 3, 8)] == ("int8", 8)


@pytest.mark.parametrize(
    ("mode", "dtype"), [("int8", np.float32), ("int8_full", np.int8)]
)
def test_only_int8_full_takes_and_gives_integers(mode, dtype, files):
    interpreter = Interpreter(model_path=str(files[mode]))
    assert interpreter.get_input_details()[0]["dtype"] == dtype
    assert interpreter.get_output_details()[0]["dtype"] == dtype


def test_an_int8_full_file_has_no_float_tensor(files):
    interpreter = Interpreter(model_path=str(files["int8_full"]))
    dtypes = {each["dtype"] for each in interpreter.get_tensor_details()}
    assert dtypes <= {np.int8, np.int32}
    assert not {"QUANTIZE", "DEQUANTIZE"} & operations(files["int8_full"])


def test_an_int8_dense_layer_computes_what_rounding_by_hand_gives(tmp_path):
    """Weights and inputs are whole steps: only the output is rounded."""
    x = keras.Input((2,))
    model = keras.Model(x, layers.Dense(2)(x))
    model.set_weights([np.array([[1.27, 0.2], [-0.5, -2.54]]), np.zeros(2)])
    extremes = np.array([[-1.28, 1.27], [1.27, -1.28]])
    path = converted(model, tmp_path, "int8_full", extremes)
    given = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, -0.5]])
    expected = given @ np.array([[1.27, 0.2], [-0.5, -2.54]])
    step = np.ptp(extremes @ np.array([[1.27, 0.2], [-0.5, -2.54]])) / 255
    (actual,) = tflite_export.run(path, given).values()
    np.testing.assert_allclose(actual, expected, atol=0.501 * step)


def test_numbers_become_the_nearest_step_and_stop_at_the_ends():
    port = Port("x", 0, (1, 6), np.int8, 0.5, -3)
    values = np.array([0.0, 0.5, 0.74, 0.76, 1000.0, -1000.0])
    integers = port.quantized(values)
    assert integers.tolist() == [-3, -2, -2, -1, 127, -128]
    assert integers.dtype == np.int8
    assert port.dequantized(integers).tolist() == [0, 0.5, 0.5, 1.0, 65.0, -62.5]


def test_verify_sees_the_error_of_a_quantized_output_in_the_units_of_the_model(
    model, files
):
    x = images(4)
    expected = model.predict(x, verbose=0)
    shifted = expected.copy()
    shifted[1, 3] += 0.5
    parity = tflite_export.verify(shifted, files["int8_full"], x)
    assert parity.max_abs_error == pytest.approx(0.5, abs=0.1)


def test_ranges_come_from_the_representative_data(tmp_path):
    model = tiny(units=1)
    narrow = converted(model, tmp_path, "int8_full", [[[0.05] * 4, [-0.05] * 4]])
    x = np.full((1, 4), 3.0)
    (clipped,) = tflite_export.run(narrow, x).values()
    wide = converted(model, tmp_path, "int8_full", [[[3.0] * 4, [-3.0] * 4]])
    (right,) = tflite_export.run(wide, x).values()
    small, expected = model.predict(np.array([[0.05] * 4, [3.0] * 4]), verbose=0)
    assert abs(expected[0] - small[0]) > 1
    assert clipped[0, 0] == pytest.approx(small[0], abs=0.05)
    assert right[0, 0] == pytest.approx(expected[0], abs=0.1)


@pytest.mark.parametrize(
    "data",
    [
        images(4),
        tf.constant(images(4)),
        (images(4), np.zeros(4)),
        [images(4)[:3], images(4)[3:]],
        tf.data.Dataset.from_tensor_slices((images(4), np.zeros(4))).batch(2),
        Pieces(4, 2),
        (batch for batch in [images(4)]),
    ],
    ids=["array", "tensor", "tuple", "list", "tf_xy", "pydataset", "generator"],
)
def test_the_usual_forms_of_data_give_the_same_file(data):
    model = small_sequential()
    reference = tflite_export.to_bytes(model, "int8", representative_data=images(4))
    content = tflite_export.to_bytes(model, "int8", representative_data=data)
    assert scales(content) == scales(reference)


def scales(content):
    tensors = Interpreter(model_content=content).get_tensor_details()
    return sorted(each["quantization"] for each in tensors)


def test_no_more_samples_are_read_than_asked_for():
    def endless():
        yield images(2)
        yield images(2)
        pytest.fail("More batches were read than needed.")

    model = small_sequential()
    content = tflite_export.to_bytes(
        model, "int8", representative_data=endless(), representative_samples=3
    )
    reference = tflite_export.to_bytes(
        model,
        "int8",
        representative_data=np.concatenate([images(2), images(2)])[:3],
    )
    assert scales(content) == scales(reference)


def test_a_model_of_two_inputs_is_calibrated_by_their_names(tmp_path):
    a, b = keras.Input((4,), name="small"), keras.Input((3,), name="large")
    both = layers.Add()([layers.Dense(2)(a), layers.Dense(2)(b)])
    model = randomize(keras.Model([a, b], {"scores": both}))
    rng = np.random.default_rng(0)
    x = {"large": 50 * rng.random((40, 3)), "small": rng.random((40, 4))}
    as_list = [x["small"], x["large"]]
    for data in (x, [(as_list, None)]):
        path = converted(model, tmp_path, "int8_full", data)
        steps = {port.name: port.scale for port in TfliteFile(path).inputs}
        assert steps["large"] / steps["small"] > 10
        parity = tflite_export.verify(model, path, x)
        assert parity.max_abs_error < 0.05 * parity.max_abs_output


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("as_dict", [False, True])
def test_inputs_of_one_shape_are_not_mixed_up(names, as_dict, tmp_path):
    small, large = (keras.Input((4,), name=name) for name in names)
    both = layers.Add()([layers.Dense(2)(small), layers.Dense(2)(large)])
    inputs = (
        dict(zip(names, [small, large], strict=True)) if as_dict else [small, large]
    )
    model = randomize(keras.Model(inputs, both))
    rng = np.random.default_rng(0)
    x = {names[0]: rng.random((40, 4)), names[1]: 50 * rng.random((40, 4))}
    path = converted(model, tmp_path, "int8_full", x)
    steps = {port.name: port.scale for port in TfliteFile(path).inputs}
    assert steps[names[1]] / steps[names[0]] > 10
    parity = tflite_export.verify(model, path, x)
    assert parity.max_abs_error < 0.05 * parity.max_abs_output


def test_integer_inputs_stay_integers(tmp_path):
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(10, 4)(tokens))
    model = randomize(keras.Model(tokens, layers.Dense(3)(x)))
    data = np.random.default_rng(0).integers(0, 10, (32, 5))
    for mode in MODES:
        parity = tflite_export.verify(
            model, converted(model, tmp_path, mode, data), data
        )
        assert parity.max_abs_error < 0.1 * parity.max_abs_output


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_takes_a_batch_size(mode, tmp_path):
    model = small_sequential()
    path = converted(model, tmp_path, mode, images(6), batch_size=4)
    parity = tflite_export.verify(model, path, images(6))
    assert parity.samples == 6
    assert parity.max_abs_error < 0.1 * parity.max_abs_output


def test_bytes_are_what_convert_writes(tmp_path):
    model = tiny()
    content = tflite_export.to_bytes(model)
    path = tmp_path / "m.tflite"
    path.write_bytes(content)
    assert tflite_export.verify(model, path, np.eye(4)).ok(1e-6)
    written = tflite_export.convert(model, tmp_path / "n.tflite").read_bytes()
    assert len(written) == len(content)


def test_quantizing_leaves_the_model_as_it_was():
    model = small_sequential()
    before = model.get_weights()
    tflite_export.to_bytes(model, "int8", representative_data=images(4))
    np.testing.assert_equal(model.get_weights(), before)


def test_int8_falls_back_to_float_where_int8_full_refuses(tmp_path):
    x = keras.Input((4,))
    model = randomize(keras.Model(x, keras.ops.sin(layers.Dense(3)(x))))
    path = converted(model, tmp_path, "int8", np.eye(4))
    assert "SIN" in operations(path)
    with pytest.raises(ValueError, match=r"int8 operations.*which needs SIN\."):
        converted(model, tmp_path, "int8_full", np.eye(4))


def test_recurrent_layers_are_quantized_unrolled_and_refused_as_loops(tmp_path):
    def recurrent(**options):
        x = keras.Input((6, 8))
        return randomize(keras.Model(x, layers.LSTM(4, **options)(x)))

    data = np.random.default_rng(0).normal(size=(40, 6, 8))
    path = converted(recurrent(), tmp_path, "dynamic", None)
    assert tflite_export.verify(recurrent(), path, data).ok(0.05)
    with pytest.raises(ValueError, match=r"loops and branches.*`unroll=True`"):
        converted(recurrent(), tmp_path, "int8", data)
    unrolled = recurrent(unroll=True)
    path = converted(unrolled, tmp_path, "int8", data)
    assert tflite_export.verify(unrolled, path, data).ok(0.1)


@pytest.fixture
def no_conversion(monkeypatch):
    def refuse(*_):
        pytest.fail("The error should have come before the conversion.")

    monkeypatch.setattr(conversion, "_trace", refuse)


@pytest.mark.usefixtures("no_conversion")
class TestRefusesBeforeAnyWork:
    @pytest.mark.parametrize("mode", CALIBRATED)
    def test_int8_without_data(self, mode):
        with pytest.raises(ValueError, match=rf"`representative_data` with.*{mode}"):
            tflite_export.to_bytes(tiny(), quantize=mode)

    @pytest.mark.parametrize("mode", [None, "float16", "dynamic"])
    def test_data_that_the_mode_does_not_use(self, mode):
        with pytest.raises(ValueError, match=r"only with.*Received: quantize="):
            tflite_export.to_bytes(tiny(), mode, representative_data=np.eye(4))

    @pytest.mark.parametrize("data", [[], np.zeros((0, 4)), iter(())])
    def test_data_without_samples(self, data):
        with pytest.raises(ValueError, match="`representative_data` to hold samples"):
            tflite_export.to_bytes(tiny(), "int8", representative_data=data)

    def test_data_of_another_shape(self):
        with pytest.raises(ValueError, match=r"`representative_data`.*\(5, 3\)"):
            tflite_export.to_bytes(tiny(), "int8", representative_data=np.zeros((5, 3)))

    def test_data_that_are_not_finite(self):
        with pytest.raises(ValueError, match="`representative_data` to be finite"):
            tflite_export.to_bytes(
                tiny(), "int8", representative_data=np.full((5, 4), np.nan)
            )

    @pytest.mark.parametrize("count", [0, -1, 2.5, None])
    def test_a_number_of_samples_that_is_none(self, count):
        with pytest.raises(ValueError, match=f"representative_samples={count}"):
            tflite_export.to_bytes(
                tiny(),
                "int8",
                representative_data=np.eye(4),
                representative_samples=count,
            )


# --- accuracy


def test_accuracy_is_the_share_of_right_answers(model, files):
    x = images(40, seed=3)
    labels = model.predict(x, verbose=0).argmax(axis=-1)
    assert tflite_export.accuracy(files[None], (x, labels)) == 1.0
    labels[:10] = (labels[:10] + 1) % 10
    assert tflite_export.accuracy(files[None], (x, labels)) == 0.75


@pytest.mark.parametrize("mode", MODES)
def test_accuracy_takes_batches_and_every_kind_of_labels(mode, model, files):
    x = images(20, seed=3)
    labels = model.predict(x, verbose=0).argmax(axis=-1)
    whole = tflite_export.accuracy(files[mode], (x, labels))
    assert whole >= 0.85
    for y in (labels[:, None], np.eye(10)[labels]):
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8)
        assert tflite_export.accuracy(files[mode], batches) == whole


@pytest.mark.parametrize(
    "data",
    [images(4), [images(4)], (images(4), np.zeros(3, int)), (images(4), np.zeros(4))],
)
def test_accuracy_refuses_data_without_proper_labels(files, data):
    with pytest.raises(ValueError, match=r"y the classes of 4 samples.*Received: y"):
        tflite_export.accuracy(files[None], data)


X = images(4)
NO_NUMBER = X * np.where(np.arange(4) == 2, np.nan, 1)[:, None, None, None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((NO_NUMBER, [0] * 4), r"`data` to be finite.*1 of 4 samples.*at index 2"),
        ((X, [0, 1, 2, 10]), r"labels from 0 to 9.*Received: 1 others of 4, 10 for"),
        ((X, [0, 1, 2, -1]), r"labels from 0 to 9.*-1 for"),
        ((X, np.zeros((4, 10))), "one class for each sample.*without a largest"),
        ((X, np.full((4, 10), np.nan)), "or with NaN"),
    ],
)
def test_accuracy_gives_no_number_of_nonsense(files, data, message):
    with pytest.raises(ValueError, match=message):
        tflite_export.accuracy(files[None], data)


def test_accuracy_takes_labels_as_lists_bools_and_by_the_name_of_the_output(files):
    labels = [1, 2, 3, 4]
    whole = tflite_export.accuracy(files[None], (X, labels))
    for y in (np.eye(10, dtype=bool)[labels], {"output_0": np.array(labels)}):
        assert tflite_export.accuracy(files[None], (X, y)) == whole


def test_accuracy_refuses_a_file_of_one_class(tmp_path):
    path = tflite_export.convert(tiny(units=1), tmp_path / "m.tflite")
    with pytest.raises(ValueError, match="of 2 classes or more"):
        tflite_export.accuracy(path, (np.zeros((2, 4)), np.zeros(2, int)))


def test_accuracy_refuses_no_data_and_no_classifier(files, tmp_path):
    with pytest.raises(ValueError, match="to hold samples"):
        tflite_export.accuracy(files[None], [])
    x = keras.Input((4, 4))
    path = tflite_export.convert(
        keras.Model(x, layers.ReLU()(x)), tmp_path / "m.tflite"
    )
    with pytest.raises(ValueError, match=r"one output of shape \(batch, classes\)"):
        tflite_export.accuracy(path, (np.zeros((2, 4, 4)), np.zeros(2, int)))


# --- the real network


@pytest.mark.slow
def test_mobilenet_v2_keeps_its_accuracy_in_every_mode(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    imagenet = pytest.importorskip("imagenet")
    if not imagenet.DATA.is_dir():
        pytest.skip(f"needs the folder {imagenet.DATA}")
    model = imagenet.load_model()
    typical, _ = imagenet.read_images("imagenet_sample/all.tfrecord", 128)
    test = imagenet.read_images("imagenet_val650/val.tfrecord", 200)
    top1, size = {}, {}
    for mode in MODES:
        path = converted(model, tmp_path, mode, typical)
        top1[mode] = tflite_export.accuracy(path, test, threads=2)
        size[mode] = path.stat().st_size
    print(top1, size)
    assert top1[None] > 0.7
    assert all(each > top1[None] - 0.02 for each in top1.values())
    assert size["float16"] < 0.51 * size[None]
    assert max(size[mode] for mode in ("dynamic", "int8", "int8_full")) < size[None] / 3


# --- means


@pytest.mark.parametrize("mode", CALIBRATED)
@pytest.mark.parametrize("name", ONE_SIDED)
def test_outputs_keep_their_means_where_weights_are_rounded_to_one_side(
    name, mode, tmp_path
):
    model, data, lost = one_sided(name)
    path = converted(model, tmp_path, mode, data)
    assert mean_shift(model, path, data) < 0.3 * lost


def test_keras_own_export_keeps_them_too(tmp_path):
    if not keras_export.is_there("tensorflow"):
        pytest.skip("needs Keras 3.13")
    model, data, lost = one_sided("convolution")
    path = converted(model, tmp_path, "int8", data, converter="keras")
    assert mean_shift(model, path, data) < 0.3 * lost


def test_layers_that_have_a_bias_in_common_keep_theirs(tmp_path):
    model, data = with_one_bias()
    path = converted(model, tmp_path, "int8", data)
    assert mean_shift(model, path, data) < 0.02
