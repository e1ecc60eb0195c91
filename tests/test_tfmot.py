"""Pruned here, then through TF-MOT, in a process and an environment of its own."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tfmot
from tfmot import FLOAT, ROADS, full_and_compact, measured, through_tfmot

import tflite_export
from tflite_export.runtime import import_runtime

ROOT = Path(__file__).parent.parent
pytest.importorskip("tf_keras")


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {line for line in lines if re.match(r"\w", line)}


def test_the_environment_differs_by_what_tfmot_asks_for():
    own, there = pins("constraints.txt"), pins("constraints-tfmot.txt")
    assert {line.split("==")[0] for line in own - there} == {"absl-py"}
    assert {line.split("==")[0] for line in there - own} == {
        *("absl-py", "dm-tree", "mock", "tensorflow-model-optimization")
    }


def test_a_failure_over_there_is_told(monkeypatch, tmp_path):
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)], name="tiny")
    monkeypatch.setattr(tfmot, "TFMOT", tmp_path / "gone.py")
    with pytest.raises(RuntimeError, match=r"gone\.py int8: .*No such file"):
        through_tfmot(model, "int8", tmp_path, epochs=1)


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An interpreter with TF-MOT: this one, or one made for the purpose."""
    if importlib.util.find_spec("tensorflow_model_optimization"):
        return sys.executable
    folder = tmp_path_factory.mktemp("tfmot") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    packages = ["tensorflow", "tensorflow-model-optimization", "tf_keras"]
    packages += ["scikit-learn", "scipy", "-c", ROOT / "constraints-tfmot.txt"]
    install = [python, "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install TF-MOT: {done.stderr.strip()[-300:]}")
    return python


@pytest.fixture(scope="module")
def compact():
    _, model = full_and_compact(macs=0.5, epochs=4, seed=0)
    return model


@pytest.fixture(scope="module")
def by_road(compact, python, tmp_path_factory):
    """Road -> what was measured, the file, and what its kernels are like."""
    folder = tmp_path_factory.mktemp("roads")
    file = tflite_export.convert(compact, folder / "compact.tflite")
    found = {FLOAT: measured(file) | {"file": file}}
    for road in ROADS:
        file, kernels = through_tfmot(compact, road, folder, 3, python=python)
        found[road] = measured(file) | kernels | {"file": file}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("road", ROADS)
def test_accuracy_stays_that_of_the_compact_model(road, by_road):
    assert by_road[FLOAT]["accuracy"] > 0.95
    assert by_road[road]["accuracy"] > by_road[FLOAT]["accuracy"] - 0.03


@pytest.mark.slow
def test_quantized_in_training_the_file_computes_in_int8(by_road):
    interpreter = import_runtime().Interpreter(model_path=str(by_road["int8"]["file"]))
    interpreter.allocate_tensors()
    ends = interpreter.get_input_details() + interpreter.get_output_details()
    floats = [
        tensor["name"]
        for tensor in interpreter.get_tensor_details()
        if tensor["dtype"] == np.float32
    ]
    assert {*floats} == {tensor["name"] for tensor in ends}
    assert by_road["int8"]["bytes"] < 0.4 * by_road[FLOAT]["bytes"]


@pytest.mark.slow
def test_clustered_kernels_have_sixteen_values(by_road):
    assert len(by_road["clustered"]["values"]) == 5
    assert max(by_road["clustered"]["values"]) <= 16
    assert by_road["clustered"]["gzipped"] < 0.4 * by_road[FLOAT]["gzipped"]


@pytest.mark.slow
def test_half_of_the_sparse_kernels_is_zero(by_road):
    assert by_road["sparse"]["zeros"] == pytest.approx([0.5] * 5, abs=0.01)
    assert by_road["sparse"]["gzipped"] < 0.7 * by_road[FLOAT]["gzipped"]
    assert max(by_road[FLOAT]["bytes"], 1) > 0.9 * by_road["sparse"]["bytes"]
