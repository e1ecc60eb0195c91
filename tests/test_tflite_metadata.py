"""Labels and normalisation in the file, read back as apps read them."""

import struct
import sys
import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils
from exported import images, small_sequential, tiny

import tflite_export

LABELS = ["katze", "hund", "kuh", "schwein", "hühnchen"]


@pytest.fixture
def file(tmp_path):
    return tflite_export.convert(small_sequential(), tmp_path / "m.tflite")


def test_the_labels_are_a_file_in_the_file(file):
    tflite_export.add_metadata(file, labels=LABELS)
    with zipfile.ZipFile(file) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode().splitlines() == LABELS


def test_the_file_computes_what_it_did(file):
    before = tflite_export.run(file, images(3))
    tflite_export.add_metadata(file, LABELS, mean=[1, 2, 3], std=[4, 5, 6])
    np.testing.assert_equal(tflite_export.run(file, images(3)), before)


def metadata_of(path):
    model = flatbuffer_utils.read_model(str(path))
    (entry,) = [each for each in model.metadata if each.name == b"TFLITE_METADATA"]
    return bytes(model.buffers[entry.buffer].data)


def test_the_metadata_are_those_of_the_standard(file):
    tflite_export.add_metadata(file, LABELS, mean=127.5, std=[1, 2, 4], description="d")
    packed = metadata_of(file)
    assert packed[4:8] == b"M001"
    assert b"labels.txt" in packed
    assert struct.pack("<f", 127.5) in packed
    assert struct.pack("<fff", 1, 2, 4) in packed


def test_metadata_without_labels_have_no_archive(file):
    tflite_export.add_metadata(file, mean=0, std=255)
    assert not zipfile.is_zipfile(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": LABELS[:3]}, "name the 5 classes.*3 labels"),
        ({"mean": 1.0}, "`mean` and `std` together"),
        ({"std": 1.0}, "`mean` and `std` together"),
        ({"mean": [1, 2], "std": 1}, "`mean` to be a number, or one for each of 3"),
        ({"labels": "abcde"}, "`labels` to be a list of the names"),
        ({"labels": 5}, "`labels` to be a list of the names"),
        ({"labels": dict.fromkeys("abcde", 0)}, "`labels` to be a list of the names"),
        ({"labels": [""] * 5}, "`labels` to be texts of one line, not empty"),
        ({"labels": [*LABELS[:4], "a\nb"]}, "`labels` to be texts of one line"),
        ({"labels": [*LABELS[:4], "\u2028x"]}, "`labels` to be texts of one line"),
        ({"labels": range(5)}, "`labels` to be texts of one line"),
        ({"mean": 0, "std": 0}, "`std` to be above 0"),
        ({"mean": 0, "std": [1, 1, -1]}, "`std` to be above 0"),
        ({"mean": 0, "std": 1e-50}, "`std` to be above 0"),
        ({"mean": 0, "std": np.nan}, "`std` to be a number"),
        ({"mean": np.inf, "std": 1}, "`mean` to be a number"),
        ({"mean": 1e300, "std": 1}, "`mean` to be a number"),
        ({"mean": 0, "std": "b"}, "`std` to be a number"),
        ({"mean": [[1], [1, 2]], "std": 1}, "`mean` to be a number"),
        ({"description": 3}, "`description` to be a text"),
    ],
)
def test_metadata_that_do_not_fit_the_file_are_refused(file, options, message):
    before = file.read_bytes()
    with pytest.raises(ValueError, match=message):
        tflite_export.add_metadata(file, **options)
    assert file.read_bytes() == before


def test_metadata_are_not_written_twice(file):
    tflite_export.add_metadata(file, labels=LABELS)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"without metadata.*Convert the model again"):
        tflite_export.add_metadata(file, labels=LABELS)
    assert file.read_bytes() == before


def test_a_file_with_two_outputs_is_refused(tmp_path):
    x = keras.Input((4,))
    two = keras.Model(x, [keras.layers.Dense(2)(x), keras.layers.Dense(2)(x)])
    path = tflite_export.convert(two, tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=r"one input and one output.*1 and 2"):
        tflite_export.add_metadata(path)


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("flatbuffers", "flatbuffers"),
        ("ai_edge_litert.tools.flatbuffer_utils", "ai-edge-litert>=2.1"),
    ],
)
def test_a_missing_package_says_how_to_install_it(file, module, package, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install '{package}'"):
        tflite_export.add_metadata(file, labels=LABELS)
    assert file.read_bytes() == before


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        tflite_export.add_metadata(tmp_path / "gone.tflite")


def test_a_quantized_file_takes_metadata(tmp_path):
    path = tflite_export.convert(
        tiny(), tmp_path / "m.tflite", "int8_full", representative_data=np.eye(4)
    )
    before = tflite_export.run(path, np.eye(4))
    tflite_export.add_metadata(path, labels=["a", "b", "c"])
    np.testing.assert_equal(tflite_export.run(path, np.eye(4)), before)


def test_labels_may_be_any_iterable_and_mean_of_any_shape(file):
    mean = np.array([1, 2, 3], "float32").reshape(1, 1, 1, 3)
    path = tflite_export.add_metadata(file, labels=iter(LABELS), mean=mean, std=1)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == LABELS
