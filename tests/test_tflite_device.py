"""The command line, and devices that have NumPy and a runtime and nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from exported import images, mobile_block, randomize, tiny

import tflite_export
from tflite_export import __main__ as command_line
from tflite_export import runtime

ROOT = Path(__file__).parent.parent
MODES = [None, "float16", "dynamic", "int8", "int8_full"]


@pytest.fixture(scope="module")
def model():
    return mobile_block()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A file in each mode, samples beside it, and the model."""
    folder = tmp_path_factory.mktemp("device")
    for mode in MODES:
        data = {"representative_data": images(32)} if str(mode)[:4] == "int8" else {}
        path = tflite_export.convert(model, folder / f"{mode}.tflite", mode, **data)
        tflite_export.save_samples(model, path, images(8, seed=2))
    model.save(folder / "model.keras")
    randomize(keras.models.clone_model(model), seed=3).save(folder / "other.keras")
    np.save(folder / "x.npy", images(4))
    return folder


def run(*arguments):
    return command_line.main(list(map(str, arguments)))


# --- samples


def test_samples_are_what_the_model_took_and_gave(model, folder):
    inputs, outputs = tflite_export.load_samples(folder / "None.npz")
    np.testing.assert_array_equal(inputs["image"], images(8, seed=2))
    expected = model.predict(images(8, seed=2), verbose=0)
    np.testing.assert_allclose(outputs["output_0"], expected, atol=1e-6)


def test_samples_of_two_inputs_and_outputs_keep_their_names(tmp_path):
    a, b = keras.Input((2,), name="a"), keras.Input((3,), name="b")
    both = {"s": keras.layers.Dense(2)(a), "t": keras.layers.Dense(4)(b)}
    model = randomize(keras.Model([a, b], both))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    x = {"a": np.ones((3, 2)), "b": np.ones((3, 3))}
    saved = tflite_export.save_samples(model, path, x, samples_path=tmp_path / "s.npz")
    inputs, outputs = tflite_export.load_samples(saved)
    assert {k: v.shape for k, v in outputs.items()} == {"s": (3, 2), "t": (3, 4)}
    assert tflite_export.verify(outputs, path, inputs).ok(1e-6)
    assert run("verify", path, "--samples", saved) == 0
    assert run("run", path, saved) == 0


def test_samples_that_cannot_be_written_are_refused(model, folder):
    with pytest.raises(ValueError, match=r"ending in \.npz"):
        tflite_export.save_samples(
            model, folder / "None.tflite", images(2), samples_path="s.npy"
        )
    with pytest.raises(ValueError, match="max_samples=0"):
        tflite_export.save_samples(model, folder / "None.tflite", images(2), 0)


@pytest.mark.parametrize("content", [b"", b"text", "npy", {"x": 1}, {"input/x": 1}])
def test_a_file_that_holds_no_samples_is_named(content, tmp_path):
    path = tmp_path / "s.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            np.save(file, np.eye(2)) if content == "npy" else np.savez(file, **content)
    with pytest.raises(ValueError, match=r"`save_samples` wrote.*s\.npz"):
        tflite_export.load_samples(path)


# --- the command line


def test_verify_agrees_with_the_samples_beside_the_file(folder, capfd):
    assert run("verify", folder / "None.tflite") == 0
    printed = capfd.readouterr()
    assert "8 samples" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize("mode", ["float16", "dynamic", "int8", "int8_full"])
def test_verify_fails_a_quantized_file_by_tolerance_and_passes_it_by_top1(mode, folder):
    file = folder / f"{mode}.tflite"
    assert run("verify", file) == 1
    assert run("verify", file, "--tolerance", 0.2, "--top1", 0.8) == 0


def test_verify_prints_json(folder, capfd):
    assert run("verify", folder / "int8.tflite", "--json") == 1
    parity = json.loads(capfd.readouterr().out)
    assert parity["samples"] == 8
    assert parity["max_abs_error"] > 1e-4


def test_verify_with_a_model_names_the_layer_where_they_part(folder, capfd):
    good = ["--model", folder / "model.keras"]
    assert run("verify", folder / "None.tflite", *good) == 0
    other = ["--model", folder / "other.keras"]
    assert run("verify", folder / "None.tflite", *other) == 1
    assert "First layer off by 1 %: " in capfd.readouterr().err


def test_a_model_without_keras_to_read_it_is_an_error(folder, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    model = ["--model", folder / "model.keras"]
    assert run("verify", folder / "None.tflite") == 0
    assert run("verify", folder / "None.tflite", *model) == 2
    assert "`pip install keras tensorflow`" in capfd.readouterr().err


def test_run_prints_ranges_and_writes_outputs(model, folder, tmp_path, capfd):
    target = tmp_path / "out.npz"
    file = folder / "int8_full.tflite"
    assert run("run", file, folder / "x.npy", "--output", target) == 0
    assert capfd.readouterr().out.startswith("output_0: shape (4, 10), ")
    with np.load(target) as outputs:
        expected = model.predict(images(4), verbose=0)
        np.testing.assert_allclose(outputs["output_0"], expected, atol=0.1)
    assert list(tmp_path.iterdir()) == [target]


def test_benchmark_compares_files_and_prints_three_forms(folder, capfd):
    files = [folder / "None.tflite", folder / "int8.tflite"]
    assert run("benchmark", *files, "--runs", 3) == 0
    header, *rows = capfd.readouterr().out.splitlines()
    assert header.startswith("file ")
    # A note behind them says why the one of integers is slower, if it is.
    assert "None.tflite" in rows[0] and "XNNPACK" in rows[0]
    assert "int8.tflite" in rows[1]
    assert run("benchmark", *files, "--runs", 3, "--threads", 2, "--json") == 0
    first, second = json.loads(capfd.readouterr().out)
    assert (first["threads"], first["ratio"]) == (2, 1.0)
    assert second["size_bytes"] < first["size_bytes"]
    assert first["init_ms"] > 0
    assert run("benchmark", *files, "--runs", 3, "--markdown") == 0
    assert capfd.readouterr().out.startswith("| file | MB |")


def test_quantize_reads_the_samples_beside_the_file(folder, tmp_path, capfd):
    pytest.importorskip("litert_quantizer")
    for kind in ("int8", "dynamic"):
        target = tmp_path / f"{kind}.tflite"
        float_file = folder / "None.tflite"
        assert run("quantize", float_file, "-o", target, "--kind", kind) == 0
        assert f"Wrote {target}: " in capfd.readouterr().out
        tflite_export.quantize(float_file, tmp_path / "expected.tflite", kind)
        assert target.read_bytes() == (tmp_path / "expected.tflite").read_bytes()


def test_quantize_takes_kinds_by_layer_and_data_of_its_own(folder, tmp_path, capfd):
    pytest.importorskip("litert_quantizer")
    target, expected = tmp_path / "o.tflite", tmp_path / "expected.tflite"
    layers = ["--layer", "FULLY_CONNECTED=int4", "--layer", "SOFTMAX=float32"]
    command = ["quantize", folder / "None.tflite", "-o", target, "--json"]
    data = ["--data", folder / "x.npy", "--samples", 2]
    assert run(*command, *layers, *data) == 0
    facts = json.loads(capfd.readouterr().out)
    assert facts["bytes"] == target.stat().st_size < facts["bytes_before"]
    recipe = {".*": "int8", "FULLY_CONNECTED": "int4", "SOFTMAX": None}
    x = np.load(folder / "x.npy")[:2]
    tflite_export.quantize(folder / "None.tflite", expected, recipe, x)
    assert target.read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("layer", ["dense", "dense=int3", "=int8"])
def test_a_layer_without_a_kind_is_a_wrong_call(layer, folder, capfd):
    with pytest.raises(SystemExit, match="2"):
        run("quantize", folder / "None.tflite", "-o", "o.tflite", "--layer", layer)
    assert "expected PATTERN=KIND" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kind", "int4", "--layer", "CONV=int8"], "--kind int4, which is for a"),
        (["--kind", "float32"], "recipe='float32'"),
        (["--layer", "gone=int8"], "'gone', which matches none"),
        (["--data", "gone.npy"], "gone.npy"),
        (["--samples", "0"], "representative_samples=0"),
        (["-o", "o.bin"], "ending in .tflite"),
    ],
)
def test_what_quantize_cannot_do_is_exit_code_2(
    options, message, folder, tmp_path, capfd
):
    pytest.importorskip("litert_quantizer")
    target = tmp_path / "o.tflite"
    assert run("quantize", folder / "None.tflite", "-o", target, *options) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark", "gone.tflite"], "existing .tflite file"),
        (["benchmark", "None.tflite", "--runs", "0"], "runs=0"),
        (["verify", "gone.tflite"], "`save_samples` wrote, on the machine with Keras"),
        (["verify", "None.tflite", "--samples", "None.tflite"], "`save_samples` wrote"),
        (["verify", "None.tflite", "--model", "gone.keras"], "gone.keras"),
        (["run", "None.tflite", "gone.npy"], "gone.npy"),
        (["run", "None.tflite", "x.npy", "--output", "out.txt"], "ending in .npz"),
        (["benchmark", "x.npy"], "Expected a .tflite model"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_exit_code_2(
    arguments, message, folder, capfd, monkeypatch
):
    monkeypatch.chdir(folder)
    assert run(*arguments) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("tflite_export: ")
    assert message in line


# --- memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_is_that_of_the_file_alone(tmp_path):
    """Whatever this process holds, and whatever file came before."""
    x = keras.Input((512,))
    wide = keras.Model(x, keras.layers.Dense(8192, activation="tanh")(x))
    large = tflite_export.convert(wide, tmp_path / "large.tflite")
    small = tflite_export.convert(tiny(), tmp_path / "small.tflite")
    both = tflite_export.compare([large, small], runs=1).latencies
    assert both[0].peak_memory_mb > 512 * 8192 * 4 / 1e6
    assert both[1].peak_memory_mb < both[0].peak_memory_mb / 2


# --- without Keras, with either runtime


def test_a_missing_runtime_is_named(monkeypatch, folder):
    monkeypatch.setattr(runtime, "RUNTIMES", ("no_such_runtime",))
    runtime.import_runtime.cache_clear()
    try:
        with pytest.raises(ImportError, match="pip install ai-edge-litert"):
            tflite_export.benchmark(folder / "None.tflite")
        assert run("benchmark", folder / "None.tflite") == 2
    finally:
        runtime.import_runtime.cache_clear()


def environment_with(packages, folder):
    """A virtual environment of these packages alone; skips where pip cannot."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", *packages]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install {packages}: {done.stderr.strip()[-300:]}")
    return python


RUNTIMES = {
    "litert": ["ai-edge-litert"],
    "tflite_runtime": ["tflite-runtime==2.14.0", "numpy<2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("packages", RUNTIMES.values(), ids=RUNTIMES)
def test_a_bare_device_checks_runs_and_times_every_file(packages, folder, tmp_path):
    python = environment_with(packages, tmp_path / "venv")
    device = tmp_path / "device"
    shutil.copytree(ROOT / "tflite_export", device / "tflite_export")
    for path in [*folder.glob("*.tflite"), *folder.glob("*.np[yz]")]:
        shutil.copy(path, device)

    def on_device(*arguments):
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run(
            [python, *arguments],
            cwd=device,
            env=environment,
            capture_output=True,
            text=True,
        )

    missing = "import importlib.util as u; print(u.find_spec('tensorflow'), "
    missing += "u.find_spec('keras'))"
    assert on_device("-c", missing).stdout == "None None\n"
    for mode in MODES:
        file = f"{mode}.tflite"
        strict = [] if mode is None else ["--tolerance", "0.2", "--top1", "0.8"]
        done = on_device("-m", "tflite_export", "verify", file, *strict)
        assert (done.returncode, done.stderr) == (0, ""), done
        done = on_device(
            "-m", "tflite_export", "run", file, "x.npy", "--output", "y.npz"
        )
        assert done.returncode == 0, done
        with np.load(device / "y.npz") as found:
            (expected,) = tflite_export.run(folder / file, images(4)).values()
            np.testing.assert_allclose(found["output_0"], expected, atol=0.03)
    files = [f"{mode}.tflite" for mode in MODES]
    done = on_device("-m", "tflite_export", "benchmark", *files, "--json")
    assert done.returncode == 0, done
    timed = json.loads(done.stdout)
    assert [each["path"] for each in timed] == files
    assert all(each["p50_ms"] > 0 and each["init_ms"] > 0 for each in timed)
    assert timed[0]["delegate"] == "XNNPACK"


@pytest.mark.slow
def test_the_old_runtime_with_a_new_numpy_says_what_to_do(folder, tmp_path):
    python = environment_with(["tflite-runtime==2.14.0", "numpy>=2"], tmp_path / "venv")
    done = subprocess.run(
        [python, "-m", "tflite_export", "benchmark", str(folder / "None.tflite")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "pip install 'numpy<2'" in done.stderr
