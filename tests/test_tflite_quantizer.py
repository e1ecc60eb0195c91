"""Float `.tflite` files quantized by litert-quantizer."""

import importlib
import io
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from exported import (
    ONE_SIDED,
    images,
    mean_shift,
    mobile_block,
    one_sided,
    operations,
    two_inputs_and_outputs,
    with_one_bias,
)

import tflite_export
from tflite_export import activations, recipes
from tflite_export.kernels import layers_of

layers = keras.layers
quantizer = importlib.import_module("tflite_export.quantizer")

DATA_KINDS = ["int8", "int8_full", "int16x8", "int4"]
KINDS = ["float16", "dynamic", *DATA_KINDS]
NAMES = [str(index) for index in range(10)]


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(quantizer, "PACKAGE", "no_such_package")
    (tmp_path / "m.tflite").write_bytes(b"")
    with pytest.raises(ImportError, match="pip install litert-quantizer"):
        tflite_export.quantize(tmp_path / "m.tflite", tmp_path / "n.tflite", "dynamic")
    assert not (tmp_path / "n.tflite").exists()


@pytest.fixture(scope="module")
def model():
    return mobile_block()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    pytest.importorskip("litert_quantizer")
    path = tmp_path_factory.mktemp("float") / "m.tflite"
    return tflite_export.convert(model, path)


@pytest.fixture(scope="module")
def files(file):
    made = {}
    for kind in KINDS:
        data = images(64) if kind in DATA_KINDS else None
        made[kind] = tflite_export.quantize(
            file, file.with_name(f"{kind}.tflite"), kind, data
        )
    return made


def tensors(path):
    found = Interpreter(model_path=str(path)).get_tensor_details()
    return {each["name"]: np.dtype(each["dtype"]).name for each in found}


def weights_of(path):
    """The dtype of each tensor by its shape."""
    found = Interpreter(model_path=str(path)).get_tensor_details()
    return {tuple(each["shape"]): np.dtype(each["dtype"]).name for each in found}


@pytest.mark.parametrize(
    ("kind", "bound"),
    [
        ("float16", 0.01),
        ("dynamic", 0.1),
        ("int8", 0.1),
        ("int8_full", 0.1),
        ("int16x8", 0.01),
        ("int4", 0.5),
    ],
)
def test_each_kind_is_near_the_model_and_smaller(kind, bound, model, file, files):
    parity = tflite_export.verify(model, files[kind], images(64, seed=2))
    assert 0 < parity.max_abs_error < bound * parity.max_abs_output
    assert files[kind].stat().st_size < 0.75 * file.stat().st_size


def test_int8_is_as_near_as_the_converters(model, files, tmp_path):
    own = tflite_export.convert(
        model, tmp_path / "c.tflite", "int8", representative_data=images(64)
    )
    found, expected = (
        tflite_export.verify(model, path, images(64, seed=2))
        for path in (files["int8"], own)
    )
    assert found.mean_abs_error < 1.2 * expected.mean_abs_error


def test_only_the_full_kind_takes_and_gives_integers(files):
    for kind, path in files.items():
        (given,) = Interpreter(str(path)).get_input_details()
        assert given["dtype"] == (np.int8 if kind == "int8_full" else np.float32)


def test_patterns_choose_by_the_name_of_a_layer_and_the_last_one_holds(tmp_path):
    pytest.importorskip("litert_quantizer")
    x = image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(32, activation="tanh", name="body")(x)
    model = keras.Model(image, layers.Dense(5, name="head")(x))
    file = tflite_export.convert(model, tmp_path / "m.tflite")
    recipe = {".*": "int8", "body|head": "int16x8", "body": None}
    path = tflite_export.quantize(file, tmp_path / "o.tflite", recipe, images(64))
    kinds = weights_of(path)
    assert kinds[8, 3, 3, 3] == "int8"
    assert kinds[32, 8] == "float32"
    assert kinds[5, 32] == "int8"
    # What the head reads and makes, and nothing else.
    sixteen = [name for name, kind in tensors(path).items() if kind == "int16"]
    assert sixteen
    assert not any("stem" in name for name in sixteen)


def test_the_layer_of_an_output_is_found_by_its_weights(tmp_path):
    pytest.importorskip("litert_quantizer")
    x = keras.Input((8,))
    hidden = layers.Dense(16, activation="relu", name="body")(x)
    model = keras.Model(x, layers.Dense(3, name="head")(hidden))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    data = np.random.default_rng(0).normal(size=(50, 8))
    made = tflite_export.quantize(path, tmp_path / "o.tflite", {"head": "int8"}, data)
    assert operations(made) >= {"QUANTIZE", "DEQUANTIZE"}
    kinds = weights_of(made)
    assert (kinds[3, 16], kinds[16, 8]) == ("int8", "float32")


def test_int4_is_for_the_layers_that_bear_it(tmp_path):
    pytest.importorskip("litert_quantizer")
    rng = np.random.default_rng(0)
    x = keras.Input((32,))
    model = keras.Model(x, layers.Dense(8)(layers.Dense(64, activation="relu")(x)))
    # The first kernel is of 15 different values, the second one of outliers.
    first = rng.integers(-7, 8, (32, 64)) / 7
    first[0] = 1
    second = rng.normal(size=(64, 8))
    second[0] = 100
    model.set_weights([first, np.zeros(64), second, np.zeros(8)])
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    data = rng.normal(size=(50, 32))
    chosen = tflite_export.quantize(path, tmp_path / "o.tflite", "int4", data)
    eight = tflite_export.quantize(path, tmp_path / "int8.tflite", "int8", data)
    # Half a byte for each weight of the first kernel.
    assert eight.stat().st_size - chosen.stat().st_size == 32 * 64 / 2
    parity = tflite_export.verify(model, chosen, data)
    everywhere = tflite_export.quantize(
        path, tmp_path / "all.tflite", {".*": "int4"}, data
    )
    worse = tflite_export.verify(model, everywhere, data)
    assert worse.mean_abs_error > 2 * parity.mean_abs_error


def test_rules_of_litert_quantizers_own_are_taken(file, tmp_path):
    from litert_quantizer import recipe

    path = tflite_export.quantize(
        file, tmp_path / "o.tflite", recipe.weight_only_wi8_afp32()
    )
    assert "DEQUANTIZE" in operations(path)
    data = {"representative_data": images(8)}
    rules = recipe.static_wi8_ai8()
    path = tflite_export.quantize(file, tmp_path / "o.tflite", rules, **data)
    assert "int8" in tensors(path).values()


def test_two_inputs_are_calibrated_by_their_names(tmp_path):
    pytest.importorskip("litert_quantizer")
    model = two_inputs_and_outputs()
    path = tflite_export.convert(model, tmp_path / "m.tflite", batch_size=4)
    rng = np.random.default_rng(0)
    data = {"first": rng.normal(size=(30, 3)), "second": rng.normal(size=(30, 4))}
    made = tflite_export.quantize(path, tmp_path / "o.tflite", "int8", data)
    parity = tflite_export.verify(model, made, data)
    assert parity.max_abs_error < 0.05 * parity.max_abs_output


def test_samples_beside_the_file_calibrate_it(model, file, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match="samples beside the file"):
        tflite_export.quantize(path, tmp_path / "o.tflite")
    tflite_export.save_samples(model, path, images(32), max_samples=32)
    beside = tflite_export.quantize(path, tmp_path / "o.tflite").read_bytes()
    given = tflite_export.quantize(path, tmp_path / "o.tflite", "int8", images(32))
    assert beside == given.read_bytes()


def test_a_file_without_a_signature_is_quantized(model, file, tmp_path):
    found = flatbuffer_utils.read_model(str(file))
    found.signatureDefs = None
    path = tmp_path / "m.tflite"
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(found))
    made = tflite_export.quantize(path, tmp_path / "o.tflite", "int8", images(64))
    parity = tflite_export.verify(model, made, images(64, seed=2))
    assert parity.max_abs_error < 0.1 * parity.max_abs_output


def test_metadata_and_labels_stay(file, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(file.read_bytes())
    tflite_export.add_metadata(path, labels=NAMES)
    made = tflite_export.quantize(path, tmp_path / "o.tflite", "dynamic")
    archive = zipfile.ZipFile(io.BytesIO(made.read_bytes()))
    assert archive.read("labels.txt").decode().split() == NAMES
    names = [entry.name for entry in flatbuffer_utils.read_model(str(made)).metadata]
    assert b"TFLITE_METADATA" in names


def test_the_bias_of_a_channel_without_a_kernel_is_kept(tmp_path):
    pytest.importorskip("litert_quantizer")
    x = keras.Input((6, 6, 3))
    model = keras.Model(x, layers.Conv2D(4, 3)(x))
    kernel, bias = model.layers[-1].get_weights()
    kernel[..., 1] = 0
    kernel[..., 2] *= 1e-9
    bias[:] = [1, -2.5, 2.5, 0]
    model.layers[-1].set_weights([kernel, bias])
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    made = tflite_export.quantize(path, tmp_path / "o.tflite", "int8", images(32, 6))
    parity = tflite_export.verify(model, made, images(32, 6))
    assert parity.max_abs_error < 0.03 * parity.max_abs_output


@pytest.mark.parametrize("name", ONE_SIDED)
def test_outputs_keep_their_means_where_weights_are_rounded_to_one_side(name, tmp_path):
    pytest.importorskip("litert_quantizer")
    model, data, lost = one_sided(name)
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    made = tflite_export.quantize(path, tmp_path / "o.tflite", "int8", data)
    assert mean_shift(model, made, data) < 0.25 * lost


def test_layers_that_have_a_bias_in_common_get_their_own(tmp_path):
    pytest.importorskip("litert_quantizer")
    model, data = with_one_bias()
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    assert not all(layer.has_own_bias for layer in layers_in(path))
    made = tflite_export.quantize(path, tmp_path / "o.tflite", "int8", data)
    assert all(layer.has_own_bias for layer in layers_in(made))
    assert mean_shift(model, made, data) < 0.02


def layers_in(path):
    return layers_of(bytearray(path.read_bytes()))


def test_the_range_of_one_large_value_is_narrowed_but_not_of_inputs_and_outputs(
    file,
):
    content = file.read_bytes()
    operations = recipes.operations_of(content)
    rng = np.random.default_rng(0)
    values = rng.uniform(0, 1, activations.SAMPLED_VALUES)
    values[0] = 10
    ends = {"min": values.min(), "max": values.max()}
    names = list(tensors(file))
    given = dict.fromkeys(names, ends)
    seen = dict.fromkeys(names, values)

    def largest(kind):
        rules = recipes.rules_of(kind, operations)
        found = activations.narrowed(content, rules, given, seen)
        return {name: float(found[name]["max"]) for name in names}

    eight, sixteen = largest("int8"), largest("int16x8")
    port = Interpreter(str(file))
    for details in (*port.get_input_details(), *port.get_output_details()):
        assert eight.pop(details["name"]) == ends["max"]
    assert min(eight.values()) < 0.95 * ends["max"]
    # Steps that are as small as those of int16 leave nothing to win.
    assert min(sixteen.values()) == ends["max"]


@pytest.mark.parametrize("kind", ["int8", "int16x8", "int4"])
def test_an_activation_that_is_0_on_all_data_is_no_trouble(kind, tmp_path):
    pytest.importorskip("litert_quantizer")
    x = keras.Input((4,))
    dead = layers.Dense(3, "relu", bias_initializer=keras.initializers.Constant(-100))
    model = keras.Model(x, layers.Dense(2, bias_initializer="ones")(dead(x)))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    data = np.random.default_rng(0).normal(size=(20, 4))
    made = tflite_export.quantize(path, tmp_path / "o.tflite", kind, data)
    assert tflite_export.verify(model, made, data).ok(0.01)


def test_a_file_whose_activations_cannot_be_observed_is_refused(tmp_path):
    pytest.importorskip("litert_quantizer")
    x = keras.Input((6, 5))
    model = keras.Model(x, layers.LSTM(4)(x))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    data = np.random.default_rng(0).normal(size=(20, 6, 5))
    with pytest.raises(ValueError, match=r'recurrent layers.*Use "dynamic"'):
        tflite_export.quantize(path, tmp_path / "o.tflite", "int8", data)
    made = tflite_export.quantize(path, tmp_path / "o.tflite", "dynamic")
    assert tflite_export.verify(model, made, data).ok(0.02)


def test_it_needs_no_tensorflow_and_no_keras(file, tmp_path):
    np.save(tmp_path / "x.npy", images(8))
    code = (
        "import sys, numpy as np, tflite_export\n"
        f"x = np.load({str(tmp_path / 'x.npy')!r})\n"
        f"tflite_export.quantize({str(file)!r}, {str(tmp_path / 'o.tflite')!r}, "
        "'int8', x)\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # No progress bars.
    assert "it/s" not in done.stderr
    assert (tmp_path / "o.tflite").exists()


# --- bad input


@pytest.mark.parametrize(
    ("recipe", "data", "message"),
    [
        ("int2", images(4), "recipe='int2'"),
        (None, None, "recipe=None"),
        ({}, None, "recipe={}"),
        ({"(": "int8"}, images(4), "regular expressions"),
        ({"dense": "int3"}, images(4), r"recipe\['dense'\]"),
        ({"no_such_layer": "int8"}, images(4), "'no_such_layer', which matches none"),
        ({"TANH": "int4", "pooling": "dynamic"}, images(4), "stored and computed so"),
        ([{"regex": ".*"}], None, "'operation'"),
        ("dynamic", images(4), "`representative_data` only"),
        ("int8", images(4, size=8), r"shape \('n', 16, 16, 3\)"),
        ("int8", np.full((4, 16, 16, 3), np.nan), "NaN"),
        ("int8", images(0), "hold samples"),
        ("int8", "images", "Names of files are not read"),
    ],
)
def test_wrong_recipes_and_data_are_named_and_nothing_is_written(
    recipe, data, message, file, tmp_path
):
    with pytest.raises(ValueError, match=message):
        tflite_export.quantize(file, tmp_path / "o.tflite", recipe, data)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_tflite_is_refused(tmp_path):
    pytest.importorskip("litert_quantizer")
    path = tmp_path / "m.tflite"
    path.write_bytes(b"no flatbuffer" * 10)
    with pytest.raises(ValueError, match=r"Expected a \.tflite model"):
        tflite_export.quantize(path, tmp_path / "o.tflite", "dynamic")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        tflite_export.quantize(tmp_path / "none.tflite", tmp_path / "o.tflite")
    assert [each.name for each in tmp_path.iterdir()] == ["m.tflite"]


@pytest.mark.parametrize("kind", ["float16", "dynamic", "int8"])
def test_a_file_that_is_quantized_already_is_refused(kind, files, tmp_path):
    with pytest.raises(ValueError, match="not quantized yet"):
        tflite_export.quantize(files[kind], tmp_path / "o.tflite", "int8", images(4))


def test_a_wrong_target_is_named(file, tmp_path):
    with pytest.raises(ValueError, match=r"`target` to be a file name ending"):
        tflite_export.quantize(file, tmp_path / "o.bin", "dynamic")
    with pytest.raises(FileNotFoundError, match="`target`"):
        tflite_export.quantize(file, tmp_path / "none" / "o.tflite", "dynamic")


def test_floats_that_would_be_left_are_named(tmp_path):
    pytest.importorskip("litert_quantizer")
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.sin(layers.Dense(3)(x)))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    data = np.random.default_rng(0).normal(size=(20, 4))
    with pytest.raises(ValueError, match="SIN"):
        tflite_export.quantize(path, tmp_path / "o.tflite", "int8_full", data)


def test_equal_vectors_are_stored_once_and_change_no_output(file, tmp_path):
    from tflite_export.calibration import apply_rules, ranges_of, with_signature
    from tflite_export.recipes import operations_of, rules_of
    from tflite_export.shared_vectors import with_shared_vectors

    content = with_signature(file.read_bytes())
    rules = rules_of("int8", operations_of(content))
    batches = [{name: images(1) for name in input_names(file)}]
    made = apply_rules(content, rules, ranges_of(content, rules, batches))
    shared = with_shared_vectors(made)
    zero_points = 8 * sum(channels_of_integers(made))
    assert len(made) - len(shared) > 0.5 * zero_points
    for name, each in {"one": made, "shared": shared}.items():
        (tmp_path / f"{name}.tflite").write_bytes(each)
    found, expected = (
        tflite_export.run(tmp_path / f"{name}.tflite", images(8))
        for name in ("shared", "one")
    )
    for name, output in expected.items():
        np.testing.assert_array_equal(found[name], output)


def input_names(path):
    (signature,) = Interpreter(str(path)).get_signature_list().values()
    return signature["inputs"]


def channels_of_integers(content):
    found = Interpreter(model_content=content).get_tensor_details()
    return [len(each["quantization_parameters"]["scales"]) for each in found]


def test_weights_are_aligned_as_the_format_wants_them(files):
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAsModel(files["int8"].read_bytes(), 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    places = [
        each._tab.Vector(each._tab.Offset(4)) for each in buffers if each.DataLength()
    ]
    assert places
    assert {place % 16 for place in places} == {0}
