"""The operations of a `.tflite` file, alone and beside those of another one."""

import json

import exported
import keras
import numpy as np
import pytest
from exported import images
from models import randomize

import keras_greedy
import tflite_export
from tflite_export.__main__ import main
from tflite_export.runtime import TfliteFile
from tflite_export.single_operations import Operations

layers = keras.layers


def counted():
    """Returns a model of all kinds of layers whose multiply-accumulates are counted."""
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    x = layers.Conv2DTranspose(8, 2, strides=2)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(image, layers.Dense(10, activation="softmax")(x)))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tflite_export.convert(
        counted(), tmp_path_factory.mktemp("file") / "a.tflite"
    )


def test_the_multiply_accumulates_are_those_of_the_model(file):
    found = tflite_export.inspect(file, runs=None)
    assert sum(each.macs for each in found.operations) == keras_greedy.macs(counted())


def test_each_operation_says_what_it_is(file):
    found = tflite_export.inspect(file, runs=3)
    first = found.operations[0]
    assert (first.kind, first.shape, first.channels) == ("CONV_2D", (1, 8, 8, 16), 3)
    assert first.weight_bytes == 4 * (3 * 3 * 3 * 16 + 16)
    assert first.moved_bytes == first.weight_bytes + 4 * (8 * 8 * 3 + 8 * 8 * 16)
    assert all(each.p50_ms > 0 for each in found.operations)
    assert found.fallen_off == ()
    assert len(repr(found)) < 200
    assert f"{len(found.operations)} operations" in str(found)
    of_json = json.loads(found.to_json())
    assert of_json["operations"][0]["macs"] == first.macs


def test_nothing_is_timed_where_no_runs_are_asked_for(file):
    found = tflite_export.inspect(file, runs=None)
    assert [each.p50_ms for each in found.operations] == [None] * len(found.operations)


def test_an_operation_alone_computes_what_it_computes_in_the_file(file, tmp_path):
    found = Operations(file)
    index = found.kinds.index("FULLY_CONNECTED")
    alone = tmp_path / "alone.tflite"
    alone.write_bytes(found.alone(index))
    x = np.random.default_rng(0).normal(size=(1, 8)).astype("float32")
    port = TfliteFile(alone).inputs[0].name
    (made,) = tflite_export.run(alone, {port: x}).values()
    dense = counted().layers[-1]
    expected = x @ np.asarray(dense.kernel) + np.asarray(dense.bias)
    np.testing.assert_allclose(made, expected, atol=1e-5)


def test_an_operation_that_xnnpack_does_not_run_is_named(tmp_path):
    x = image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3)(x)
    x = layers.Conv2D(8, 3)(keras.ops.cumsum(x, axis=1))
    path = tflite_export.convert(keras.Model(image, x), tmp_path / "sum.tflite")
    fallen = tflite_export.inspect(path, runs=None).fallen_off
    assert [each.kind for each in fallen] == ["CUMSUM"]


def test_a_quantized_file_is_inspected_too(tmp_path):
    path = tflite_export.convert(
        exported.mobile_block(),
        tmp_path / "int8.tflite",
        quantize="int8",
        representative_data=images(8),
    )
    found = tflite_export.inspect(path, runs=2)
    kinds = {each.kind for each in found.operations}
    assert {"QUANTIZE", "CONV_2D", "FULLY_CONNECTED"} <= kinds
    assert sum(each.macs for each in found.operations) > 0


def of_width(width, folder):
    model = keras.Sequential(
        [
            keras.Input((16, 16, 16)),
            layers.Conv2D(width, 3, activation="relu", padding="same"),
            layers.Conv2D(16, 3),
        ]
    )
    return tflite_export.convert(model, folder / f"{width}.tflite")


def test_an_odd_width_is_the_reason_where_the_time_does_not_follow(tmp_path):
    full, odd = of_width(32, tmp_path), of_width(25, tmp_path)
    one, two = (tflite_export.inspect(path, runs=None) for path in (full, odd))

    def timed(inspection, milliseconds):
        replaced = []
        for each in inspection.operations:
            fields = vars(each) | {"p50_ms": milliseconds}
            replaced.append(tflite_export.InspectedOperation(**fields))
        return tflite_export.Inspection(inspection.path, 1, tuple(replaced))

    slow = timed(one, 1.0).beside(timed(two, 1.0))
    assert "16 to 32, now 16 to 25" in slow
    assert slow.count("25 channels: no multiple of 8") == 2
    fast = timed(one, 1.0).beside(timed(two, 0.5))
    assert "multiple" not in fast


def test_what_only_one_file_has_is_said(file, tmp_path):
    other = of_width(32, tmp_path)
    table = tflite_export.inspect(file, None).beside(tflite_export.inspect(other, None))
    assert "only in the first file" in table


def test_the_command_line_prints_a_table_or_json(file, tmp_path, capsys):
    assert main(["inspect", str(file), "--runs", "0"]) == 0
    assert "| CONV_2D | 1 x 8 x 8 x 16 |" in capsys.readouterr().out
    assert main(["inspect", str(file), str(file), "--runs", "1"]) == 0
    assert "MACs ratio" in capsys.readouterr().out
    assert main(["inspect", str(file), "--runs", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(file)


def test_a_file_that_is_no_tflite_is_refused(tmp_path):
    path = tmp_path / "no.tflite"
    # The second has the mark of the format, and nothing that it promises.
    for content in (b"0123456789", b"\x1c\0\0\0TFL3" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"Expected a \.tflite model.*no\.tflite"):
            tflite_export.inspect(path)
    with pytest.raises(FileNotFoundError):
        tflite_export.inspect(tmp_path / "none.tflite")


@pytest.mark.parametrize("runs", [0, -1, 1.5])
def test_a_number_of_runs_that_is_none_is_refused(file, runs):
    with pytest.raises(ValueError, match="runs"):
        tflite_export.inspect(file, runs=runs)
