"""Timing files in turns: the order of runs, statistics and tables."""

import importlib
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported import erfinv_of_singular_values, mobile_block, two_inputs_and_outputs

import tflite_export
from tflite_export.converters import tensorflow as conversion
from tflite_export.latency import Comparison, Latency

layers = keras.layers
# As attributes of the package these names are the functions.
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
    two = two_inputs_and_outputs()
    return two, tflite_export.convert(two, file.with_name("two.tflite"))


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

    def get_tensor_details(self):
        return []

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


def test_notebooks_show_the_same_table():
    shown = comparison()._repr_html_()
    printed = [line.split() for line in str(comparison()).splitlines()[1:]]
    rows = re.findall("<tr>(.*?)</tr>", shown)[1:]
    assert [re.findall(">([^<]+)</td>", row) for row in rows] == printed
    assert printed[0][0] in comparison().latencies[0]._repr_html_()


def test_a_latency_is_short_as_the_last_line_of_a_cell():
    first, second = comparison().latencies
    assert repr(first) == "<Latency of 'full.tflite': p50 10.000 ms, mean 10.500 ms>"
    assert repr(second) == "<Latency of 'b.tflite': p50 4.000 ms, mean 4.500 ms>"


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
