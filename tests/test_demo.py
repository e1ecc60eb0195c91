"""The demo, on a small network and small images."""

import contextlib
import io
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_greedy
import tflite_export
from keras_greedy import demo
from keras_greedy.datasets import digits

FILES = {
    "compact.keras",
    "compact.tflite",
    "full.keras",
    "full.tflite",
    "report.json",
    "tradeoff.png",
}


def inverted_residual(shape):
    """MobileNetV2 with one block instead of 17."""
    image = keras.Input(shape)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)
    x = residual = layers.ReLU(6)(layers.BatchNormalization()(x))
    x = layers.Conv2D(48, 1, use_bias=False)(x)
    x = layers.ReLU(6)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6)(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(layers.Add()([residual, x]))
    return keras.Model(image, layers.Dense(10, activation="softmax")(x))


def small_run(folder, seed=0):
    """The demo on a small network and small images: its result, what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "_network", inverted_residual)
        patch.setattr(demo, "IMAGE_SIZE", 16)
        patch.setattr(demo, "CALIBRATION_IMAGES", 64)
        patch.setattr(demo, "TIMED_RUNS", 5)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            facts = demo.run(folder, epochs=1, seed=seed)
    return facts, printed.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "made" / "on the way"


@pytest.fixture(scope="module")
def result(folder):
    return small_run(folder)


@pytest.fixture(scope="module")
def facts(result):
    return result[0]


@pytest.fixture(scope="module")
def models(folder, result):
    names = ("full", "compact")
    return [keras.saving.load_model(folder / f"{name}.keras") for name in names]


def test_the_demo_writes_its_files_and_no_others(folder, result):
    assert {path.name for path in folder.iterdir()} == FILES
    assert (folder / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


def test_the_json_report_is_what_the_demo_returns(folder, facts):
    assert json.loads((folder / "report.json").read_text("utf-8")) == facts


def test_the_compact_model_has_half_the_macs(facts, models):
    full, compact = map(keras_greedy.macs, models)
    assert facts["before"]["macs"] == full
    assert facts["after"]["macs"] == compact <= full / 2


def test_the_models_written_have_the_accuracy_reported(facts, models):
    _, (images, labels) = digits(16)
    for model, reported in zip(models, (facts["before"], facts["after"]), strict=True):
        answers = model.predict(images, verbose=0).argmax(axis=-1)
        assert reported["top1"] == np.mean(answers == labels)
        assert reported["params"] == model.count_params()


def test_the_tflite_files_compute_what_the_models_do(folder, facts, models):
    _, (images, _) = digits(16)
    for name, model in zip(("full", "compact"), models, strict=True):
        path = folder / f"{name}.tflite"
        assert tflite_export.verify(model, path, images).ok()
    sizes = [(folder / f"{n}.tflite").stat().st_size for n in ("full", "compact")]
    assert [facts[n]["tflite_bytes"] for n in ("before", "after")] == sizes


def test_the_tradeoff_has_a_measured_point_per_budget(facts):
    assert [point["macs"] for point in facts["tradeoff"]] == [1.0, *demo.BUDGETS]
    assert facts["tradeoff"][0]["top1"] == facts["before"]["top1"]
    assert facts["predicted"][0] == {"macs": 1.0, "params": 1.0, "divergence": 0.0}


def test_the_demo_ends_with_one_table(facts, result):
    header, *rows = result[1].split("\n\n")[-1].splitlines()
    assert header.split() == ["before", "after", "ratio"]
    before, after = facts["before"], facts["after"]
    assert [row.split("  ")[0] for row in rows] == [
        "top-1",
        "MACs",
        "parameters",
        ".tflite bytes",
        ".tflite p50 latency, ms",
    ]
    assert rows[0].split()[-3:-1] == [f"{before['top1']:.1%}", f"{after['top1']:.1%}"]
    assert rows[1].split()[-3:] == [
        f"{before['macs']:,}",
        f"{after['macs']:,}",
        f"{after['macs'] / before['macs']:.3f}",
    ]


def test_the_same_seed_gives_the_same_models(tmp_path, facts):
    again, _ = small_run(tmp_path)
    for part in ("before", "after"):
        # The file holds the names of the layers, which Keras counts on.
        del again[part]["p50_ms"], again[part]["tflite_bytes"]
        assert again[part].items() <= facts[part].items()
    assert again["predicted"] == facts["predicted"]


@pytest.fixture
def no_work(monkeypatch):
    def trained(*_):
        pytest.fail("Training began before the arguments were checked.")

    monkeypatch.setattr(demo, "_trained", trained)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3"])
def test_wrong_epochs_are_refused_before_any_work(tmp_path, epochs):
    with pytest.raises(ValueError, match="Expected `epochs` to be a positive integer"):
        demo.run(tmp_path / "output", epochs=epochs)
    assert not (tmp_path / "output").exists()


@pytest.mark.usefixtures("no_work")
def test_a_file_in_place_of_the_folder_is_refused_before_any_work(tmp_path):
    (tmp_path / "output").write_text("in the way")
    with pytest.raises(FileExistsError):
        demo.run(tmp_path / "output")


@pytest.mark.usefixtures("no_work")
def test_another_backend_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="Received: KERAS_BACKEND=jax"):
        demo.run(tmp_path)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("package", ["matplotlib.figure", "sklearn.datasets"])
def test_a_missing_package_is_named_before_any_work(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"which is not installed: pip install"):
        demo.run(tmp_path)


def test_a_file_that_computes_another_thing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite_export.Parity, "ok", lambda self: False)
    with pytest.raises(
        RuntimeError, match="The file computes another thing than Keras"
    ):
        small_run(tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.slow
def test_mobilenet_v2_keeps_its_accuracy_at_half_the_macs(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "keras_greedy_cli", "demo", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("TF_")},
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    facts = json.loads((tmp_path / "report.json").read_text("utf-8"))
    before, after = facts["before"], facts["after"]
    assert before["top1"] > 0.97
    assert after["top1"] > 0.96
    assert after["macs"] <= before["macs"] / 2
    assert after["p50_ms"] < before["p50_ms"]
