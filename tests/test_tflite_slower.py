"""The notes that say why a file of integers is slower than its float file."""

import collections
import dataclasses

import keras
import numpy as np
import pytest

import tflite_export
from tflite_export.latency import Comparison, Latency
from tflite_export.runtime import TfliteFile
from tflite_export.slower import Contents, contents_of, notes_on

layers = keras.layers
SMALL = (("CONV_2D", (1, 8, 8, 4)),)
FLOAT = Contents(SMALL, False, collections.Counter(), 0, 6)
FELL = collections.Counter({"HARD_SWISH": 3, "SOFTMAX": 1})
INTEGER = Contents(SMALL, True, FELL, 2, 8)
ALL_RUN = dataclasses.replace(INTEGER, fallen_off=collections.Counter())


def latency(name, p50_ms):
    return Latency(f"there/{name}.tflite", 1, 1, 1, p50_ms, None, p50_ms or 1.0, 0.0)


def notes(*files):
    """Of files given as name, milliseconds, contents."""
    latencies = [latency(name, p50_ms) for name, p50_ms, _ in files]
    return notes_on(latencies, [contents for *_, contents in files])


def test_operations_that_xnnpack_does_not_run_in_integers_are_named():
    (note,) = notes(("m", 0.5, FLOAT), ("int8", 1.28, INTEGER))
    assert note.startswith("int8.tflite takes 2.56 x the time of m.tflite, the same")
    assert "does not run these in integers" in note
    assert "HARD_SWISH (3), SOFTMAX (1)" in note


def test_those_that_it_runs_in_floats_neither_are_not():
    before = dataclasses.replace(FLOAT, fallen_off=collections.Counter(SOFTMAX=1))
    (note,) = notes(("m", 0.5, before), ("int8", 1.0, INTEGER))
    assert "HARD_SWISH (3);" in note


def test_short_operations_are_named_where_xnnpack_runs_all():
    (note,) = notes(("m", 0.001, FLOAT), ("int8", 0.002, ALL_RUN))
    assert "too short to gain from integers, and 2 convert the numbers" in note
    dynamic = dataclasses.replace(ALL_RUN, conversions=0)
    (note,) = notes(("m", 0.001, FLOAT), ("dynamic", 0.002, dynamic))
    assert note.endswith("too short to gain from integers.")
    (note,) = notes(("m", 1.0, FLOAT), ("int8", 2.0, ALL_RUN))
    assert "`inspect` times its operations" in note


@pytest.mark.parametrize(
    "files",
    [
        [("m", 1.0, FLOAT), ("int8", 0.5, INTEGER)],
        [("m", 1.0, FLOAT), ("int8", 1.04, INTEGER)],
        [("m", 1.0, FLOAT), ("half", 2.0, FLOAT)],
        [("m", 1.0, FLOAT), ("other", 2.0, dataclasses.replace(INTEGER, layers=()))],
        [("int8", 2.0, INTEGER), ("int8_full", 4.0, INTEGER)],
        [("m", None, FLOAT), ("int8", None, INTEGER)],
        [],
    ],
    ids=["faster", "noise", "floats", "another model", "no float", "no median", "none"],
)
def test_nothing_is_said_of_other_files(files):
    assert notes(*files) == ()


def test_each_file_is_set_beside_the_float_file_of_its_own_model():
    other = (("CONV_2D", (1, 8, 8, 2)),)
    half = dataclasses.replace(FLOAT, layers=other)
    half_integer = dataclasses.replace(INTEGER, layers=other)
    (note,) = notes(
        ("m", 1.0, FLOAT),
        ("int8", 0.9, INTEGER),
        ("half int8", 0.6, half_integer),
        ("half", 0.5, half),
    )
    assert note.startswith("half int8.tflite takes 1.20 x the time of half.tflite")


def test_notes_stand_below_the_table():
    comparison = Comparison((latency("m", 1.0),), ("So it is.",))
    assert str(comparison).splitlines()[-1] == "So it is."
    assert comparison.to_markdown().endswith("|\n\nSo it is.")
    assert comparison._repr_html_().endswith("<p>So it is.</p>")


def test_files_of_one_model_have_the_same_layers_and_other_numbers(tmp_path):
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(4, 3, activation="hard_silu")(x)
    model = keras.Model(x, layers.Dense(3)(layers.Flatten()(y)))
    file = tflite_export.convert(model, tmp_path / "m.tflite")
    data = np.random.default_rng(0).normal(size=(16, 8, 8, 3))
    made = tflite_export.convert(
        model, tmp_path / "int8.tflite", "int8", representative_data=data
    )

    def contents(path):
        return contents_of(TfliteFile(path).interpreter)

    one, two = contents(file), contents(made)
    assert one.layers == two.layers
    assert [kind for kind, _ in one.layers] == ["CONV_2D", "FULLY_CONNECTED"]
    assert (one.is_integer, two.is_integer) == (False, True)
    assert not one.fallen_off
    assert two.fallen_off["HARD_SWISH"] == 1
    assert (one.conversions, two.conversions) == (0, 2)
    assert two.count == one.count + 2
