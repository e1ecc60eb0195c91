"""The commands of `keras-greedy`, on small models, files and folders."""

import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import models
import numpy as np
import pytest
from pytest import approx

import keras_greedy
import keras_greedy_cli as cli
import tflite_export
from keras_greedy.cli import data, pruning
from keras_greedy_cli.parser import COMMANDS, parser

layers = keras.layers
CLASSES = 3


def small_model(name="small", classes=CLASSES, width=16):
    """A classifier of pictures that scales them itself."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(width, 3, activation="relu", name="first"),
            layers.Conv2D(width, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(classes, activation="softmax"),
        ],
        name=name,
    )
    return models.randomize(model)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a model, its `.tflite` file, pictures in folders and in a file."""
    folder = tmp_path_factory.mktemp("made")
    small_model().save(folder / "small.keras")
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (40, 8, 8, 3)).astype("float32")
    y = rng.integers(0, CLASSES, 40)
    np.savez(folder / "both.npz", x=x, y=y)
    np.save(folder / "x.npy", x)
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        inside = folder / "photos" / "abc"[label]
        inside.mkdir(parents=True, exist_ok=True)
        keras.utils.save_img(inside / f"{number}.png", image, scale=False)
    tflite_export.convert(small_model(), folder / "small.tflite")
    return folder


@pytest.fixture(autouse=True)
def inside(made, monkeypatch, tmp_path):
    """Runs each test in an empty folder, beside which the made files are."""
    monkeypatch.chdir(tmp_path)
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)


def run(capfd, *arguments):
    """The exit code, what came to stdout, what came to stderr."""
    capfd.readouterr()
    code = cli.main([str(each) for each in arguments])
    return code, *capfd.readouterr()


def facts_of(capfd, *arguments):
    code, out, _ = run(capfd, *arguments, "--json")
    assert code == 0
    return json.loads(out)


def refused(capfd, *arguments):
    """The only line of a command that the user called wrongly."""
    code, out, err = run(capfd, *arguments)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("keras-greedy: ")
    return line


# --- help


@pytest.mark.parametrize("command", [name for name, *_ in COMMANDS])
def test_each_command_has_help(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main([command, "--help"])
    assert f"usage: keras-greedy {command}" in capsys.readouterr().out


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"keras-greedy {keras_greedy.__version__}\n"


def test_the_package_is_the_command_line_too():
    command = [sys.executable, "-m", "keras_greedy", "inspect", "small.keras", "--json"]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["name"] == "small"


ROOT = Path(cli.__file__).parents[1]
SHOWN = re.findall(
    r"^keras-greedy (.*)$",
    "\n".join(
        (ROOT / page).read_text("utf-8")
        for page in ("README.md", "docs/guides/command-line.md")
    ),
    flags=re.MULTILINE,
)


@pytest.mark.parametrize("shown", SHOWN)
def test_the_commands_of_the_pages_are_understood(shown):
    words = shlex.split(shown.partition(">")[0])
    assert parser().parse_args(words).command


# --- info and inspect


def test_info_tells_the_versions_and_the_backend(capfd):
    facts = facts_of(capfd, "info")
    assert facts["backend"] == "tensorflow" and facts["devices"]
    assert facts["packages"]["keras"] == keras.__version__
    code, out, _ = run(capfd, "info")
    assert code == 0 and keras.__version__ in out


def test_inspect_tells_the_groups_and_their_costs(capfd):
    facts = facts_of(capfd, "inspect", "small.keras")
    assert [group["name"] for group in facts["groups"]] == ["first", "second"]
    assert facts["macs"] == keras_greedy.macs(small_model())
    assert facts["preprocessing"] == "none"
    _, out, _ = run(capfd, "inspect", "small.keras")
    assert "first" in out and f"{facts['macs']:,} MACs" in out


def test_inspect_tells_what_cannot_be_pruned_and_why(capfd):
    inputs = keras.Input((8, 4))
    x = layers.LSTM(6, name="recurrent")(layers.Dense(8, name="before")(inputs))
    keras.Model(inputs, layers.Dense(2)(x)).save("lstm.keras")
    facts = facts_of(capfd, "inspect", "lstm.keras")
    assert facts["unprunable"]["recurrent"]
    _, out, _ = run(capfd, "inspect", "lstm.keras")
    assert f"recurrent: {facts['unprunable']['recurrent']}" in out


# --- models


def test_a_model_that_is_not_there_is_refused(capfd):
    assert "'no.keras', which does not exist" in refused(capfd, "inspect", "no.keras")


def test_a_file_that_is_no_model_is_refused(capfd, tmp_path):
    (tmp_path / "text.keras").write_text("text")
    assert "text.keras" in refused(capfd, "inspect", "text.keras")
    assert "no folder" in refused(capfd, "inspect", "photos")


def test_code_in_a_model_is_not_run(capfd):
    model = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x + 1)])
    model.save("lambda.keras")
    assert "safe" in refused(capfd, "inspect", "lambda.keras")


# --- prune


PRUNE = ["prune", "small.keras", "-o", "compact.keras", "--macs", "0.6"]


@pytest.fixture
def calls(monkeypatch):
    """Calls of the library's `prune`, which gives a narrow model at once."""
    given = []

    def prune(model, data, budget, **options):
        given.append({"data": data, "budget": budget, **options})
        return small_model(classes=model.outputs[0].shape[-1], width=8)

    monkeypatch.setattr(pruning, "prune_model", prune)
    return given


def test_prune_says_asked_and_got_top_1_and_what_is_next(capfd):
    code, out, err = run(capfd, *PRUNE, "--data", "photos", "--samples", "24")
    assert code == 0
    *_, asked, same, top1, wrote, following = out.splitlines()
    assert asked.startswith("Asked for 60.0% of the MACs, got ")
    assert same.endswith("on 16 other examples")
    assert top1.startswith("Top-1: ")
    assert wrote == "Wrote compact.keras"
    assert following == (
        "Next: keras-greedy export compact.keras --data photos -o compact.tflite"
    )
    assert "Measuring each group's cut" in err
    assert "\b" not in err and "\r" not in err


def test_the_compact_model_and_the_figures_are_those_of_the_library(capfd):
    facts = facts_of(capfd, *PRUNE, "--data", "both.npz", "--samples", "24")
    compact = keras.saving.load_model("compact.keras")
    assert facts["macs"]["after"] == keras_greedy.macs(compact)
    assert facts["macs"]["kept"] <= 0.6
    assert facts["asked"] == {"macs": 0.6}
    with np.load("both.npz") as arrays:
        x, y = arrays["x"], arrays["y"]
    own = keras_greedy.prune(small_model(), (x[:24], y[:24]), 0.6, verbose=0)
    outputs = own.predict(x, verbose=0)
    np.testing.assert_array_equal(outputs, compact.predict(x, verbose=0))
    right = outputs[24:].argmax(axis=-1) == y[24:]
    assert facts["top1_after"] == right.mean()
    assert facts["test_samples"] == 16 and facts["test_is_held_apart"]


def test_the_options_reach_the_library(capfd, calls):
    run(
        capfd, "prune", "small.keras", "--params", "0.4", "--round-to", "4",
        "--objective", "local", "--checkpoint", "kept", "--seed", "7", "--samples", "8",
        "--data", "x.npy", "-o", "compact.keras",
    )  # fmt: skip
    (given,) = calls
    np.testing.assert_array_equal(given.pop("data"), np.load("x.npy")[:8])
    assert given == {
        "budget": keras_greedy.Budget(params=0.4, round_to=4),
        "objective": "local",
        "policy": None,
        "finetune": None,
        "checkpoint": "kept",
        "seed": 7,
    }


def test_the_budget_is_by_default_half_of_the_macs(capfd, calls):
    prune = ["prune", "small.keras", "--data", "x.npy", "-o", "compact.keras"]
    assert facts_of(capfd, *prune)["asked"] == {"macs": 0.5}


def test_prune_writes_a_page_with_what_was_typed(capfd, tmp_path):
    typed = [*PRUNE, "--data", "both.npz", "--report", "report.html"]
    code, out, _ = run(capfd, *typed)
    assert code == 0
    assert "Wrote report.html" in out
    page = (tmp_path / "report.html").read_text()
    assert shlex.join(["keras-greedy", *typed]) in page
    assert "Measured top-1" in page
    line = refused(capfd, *PRUNE, "--data", "both.npz", "--report", "report.pdf")
    assert ".html" in line


def test_an_absolute_budget_is_told_as_a_share(capfd, calls):
    half = keras_greedy.macs(small_model()) / 2
    _, out, _ = run(capfd, *PRUNE[:4], "--data", "x.npy", "--macs", half)
    assert "Asked for 50.0% of the MACs" in out


def test_a_quarter_is_left_to_test_on_where_the_data_are_few(capfd, calls):
    facts = facts_of(capfd, *PRUNE, "--data", "x.npy")
    assert facts["test_samples"] == 10 and len(calls[0]["data"]) == 30
    assert "top1_before" not in facts and 0 <= facts["same_answer"] <= 1


def test_other_data_may_be_given_to_test_on(capfd, calls):
    facts = facts_of(capfd, *PRUNE, "--data", "x.npy", "--test", "both.npz")
    assert facts["test_samples"] == 40 and "top1_before" in facts


def test_digits_are_tested_on_their_own_test_set(capfd, calls):
    model = small_model(classes=10)
    model.save("ten.keras")
    facts = facts_of(
        capfd, "prune", "ten.keras", "--data", "digits", "--test-samples", "20",
        "-o", "compact.keras",
    )  # fmt: skip
    assert facts["test_samples"] == 20
    x, y = keras_greedy.datasets.load("digits:test", {"x": (8, 8, 3)}, count=20).data
    right = model.predict(x, verbose=0).argmax(axis=-1) == y
    assert facts["top1_before"] == right.mean()


def test_a_model_of_two_inputs_takes_them_by_name(capfd):
    left, right = keras.Input((6,), name="left"), keras.Input((4,), name="right")
    both = layers.Concatenate()([left, right])
    hidden = layers.Dense(32, activation="relu")(both)
    keras.Model([left, right], layers.Dense(3)(hidden)).save("two.keras")
    rng = np.random.default_rng(0)
    arrays = {"right": rng.random((40, 4)), "left": rng.random((40, 6))}
    np.savez("two.npz", **arrays, y=np.arange(40) % 3)
    two = ["two.keras", "--data", "two.npz", "-o"]
    assert facts_of(capfd, "prune", *two, "compact.keras")["test_samples"] == 10
    assert facts_of(capfd, "export", *two, "two.tflite")["ok"]


def test_labels_of_other_classes_are_not_used(capfd, calls):
    small_model(classes=5).save("five.keras")
    code, out, err = run(
        capfd, "prune", "five.keras", "--data", "photos", "-o", "compact.keras"
    )
    assert code == 0 and "Top-1" not in out and "Same answer" in out
    assert "Labels are not used: they are of 3 classes, and the model has 5" in err


def test_a_layer_that_is_kept_stays_whole(capfd, calls):
    run(capfd, *PRUNE, "--data", "x.npy", "--keep", "first")
    policy = calls[0]["policy"]
    groups = keras_greedy.trace(small_model()).groups
    assert [policy.allow_pruning(group) for group in groups] == [False, True]
    line = refused(capfd, *PRUNE, "--data", "x.npy", "--keep", "third")
    assert "Received: third" in line


def test_training_follows_as_asked_for(capfd, calls):
    for options in (["--finetune"], ["--finetune", "3"], ["--finetune", "--distill"]):
        run(capfd, *PRUNE, "--data", "both.npz", *options)
    whole, on_labels, distilled = (given["finetune"] for given in calls)
    assert whole is True
    assert (on_labels.epochs, on_labels.distill) == (3, False)
    assert (distilled.epochs, distilled.distill) == (None, True)


def test_a_training_without_labels_or_alone_is_refused(capfd):
    line = refused(capfd, *PRUNE, "--data", "x.npy", "--finetune", "2")
    assert "Expected --data with labels" in line
    line = refused(capfd, *PRUNE, "--data", "x.npy", "--distill")
    assert "--distill together with --finetune" in line


@pytest.mark.parametrize("output", ["nowhere/compact.keras", "compact.txt", "photos"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(capfd, output):
    line = refused(capfd, "prune", "no.keras", "--data", "x.npy", "-o", output)
    assert output in line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data", "nowhere"], "source='nowhere'"),
        (["--data", "small.tflite"], "source='small.tflite'"),
        (["--data", "x.npy", "--macs", "-1"], "`macs`"),
        (["--data", "x.npy", "--macs", "0.0001"], "can be met"),
        (["--data", "x.npy", "--samples", "0"], "`samples`"),
        (["--data", "x.npy", "--seed", "-1"], "`seed`"),
        (["--data", "photos", "--preprocessing", "mobile"], "'mobile'"),
        (["--data", "photos", "--objective", "loss", "--round-to", "0"], "round_to"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(capfd, tmp_path, options, named):
    assert named in refused(capfd, *PRUNE, *options)
    assert not (tmp_path / "compact.keras").exists()


def test_an_interrupt_leaves_no_file_and_says_how_to_go_on(
    capfd, monkeypatch, tmp_path
):
    def interrupt(*_, **__):
        raise KeyboardInterrupt("All found so far\nis kept.")

    monkeypatch.setattr(pruning, "prune_model", interrupt)
    code, out, err = run(capfd, *PRUNE, "--data", "x.npy")
    assert (code, out) == (130, "")
    assert err.endswith("keras-greedy: All found so far is kept.\n")
    assert not (tmp_path / "compact.keras").exists()


def test_a_warning_is_a_line_without_our_code(capfd, monkeypatch):
    def warn(*_, **__):
        warnings.warn("Mind\n  this.", UserWarning, stacklevel=1)
        return small_model()

    monkeypatch.setattr(pruning, "prune_model", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        _, _, err = run(capfd, *PRUNE, "--data", "x.npy")
    assert "keras-greedy: warning: Mind this.\n" in err


@pytest.mark.slow
def test_a_budget_of_latency_is_told_in_milliseconds(capfd):
    code, out, _ = run(
        capfd, "prune", "small.keras", "--latency", "0.95", "--data", "x.npy",
        "-o", "compact.keras",
    )  # fmt: skip
    assert code == 0
    assert "Asked for 95.0% of the latency in ms, as predicted, got" in out


# --- sweep


def test_sweep_tests_each_budget_after_one_search(capfd):
    facts = facts_of(
        capfd, "sweep", "small.keras", "--data", "both.npz", "--samples", "24",
        "--budgets", "0.8", "0.5", "-o", "models",
    )  # fmt: skip
    full, mild, deep = facts["points"]
    assert (full["macs_kept"], full["same_answer"]) == (1, None)
    assert deep["macs_kept"] <= 0.5 < mild["macs_kept"] <= 0.8
    compact = keras.saving.load_model("models/compact-0.5.keras")
    assert keras_greedy.macs(compact) == deep["macs"]
    assert all(0 <= point["top1"] <= 1 for point in facts["points"])


# --- files


def test_export_writes_a_file_and_compares_it(capfd, tmp_path):
    code, out, _ = run(
        capfd, "export", "small.keras", "--data", "photos", "-o", "new.tflite"
    )
    assert code == 0
    assert out.splitlines()[-1] == "Next: keras-greedy benchmark new.tflite"
    assert tflite_export.verify(small_model(), "new.tflite", np.load("x.npy")).ok()


@pytest.mark.parametrize("form", ["float16", "dynamic", "int8", "int8-full"])
def test_export_writes_each_form(capfd, form):
    facts = facts_of(
        capfd, "export", "small.keras", f"--{form}", "--data", "x.npy",
        "-o", "new.tflite", "--top1", "0.5",
    )  # fmt: skip
    assert facts["ok"] and facts["bytes"] > 0


def test_export_without_data_compares_on_random_numbers(capfd):
    code, _, err = run(capfd, "export", "small.keras", "-o", "new.tflite")
    assert code == 0 and "random numbers" in err
    line = refused(capfd, "export", "small.keras", "--int8", "-o", "new.tflite")
    assert "Expected --data for --int8" in line


def test_a_file_that_is_off_is_exit_code_1(capfd):
    export = ["export", "small.keras", "--data", "x.npy", "-o", "new.tflite"]
    code, out, _ = run(capfd, *export, "--float16", "--tolerance", "1e-12")
    assert code == 1 and out.splitlines()[-1].startswith("Off: not within")
    models.randomize(small_model(), seed=5).save("other.keras")
    data = ["--data", "x.npy"]
    verify = ["verify", "small.tflite", *data, "--model"]
    assert run(capfd, *verify, "small.keras")[0] == 0
    code, out, err = run(capfd, *verify, "other.keras")
    assert code == 1 and "max |error|" in out and "First layer off" in err


def test_quantize_makes_a_file_of_any_data_as_the_library_does(capfd):
    pytest.importorskip("litert_quantizer")
    quantize = ["quantize", "small.tflite", "-o"]
    facts = facts_of(capfd, *quantize, "a.tflite", "--data", "both.npz")
    assert 0 < facts["bytes"] < facts["bytes_before"]
    photos = ["--data", "photos", "--preprocessing", "none"]
    code, out, _ = run(capfd, *quantize, "b.tflite", *photos, "--samples", "40")
    assert code == 0 and out.startswith("Wrote b.tflite: ")
    x = np.load("x.npy")
    tflite_export.quantize("small.tflite", "expected.tflite", "int8", x)
    assert Path("a.tflite").read_bytes() == Path("expected.tflite").read_bytes()
    # Pictures of a folder are in another order.
    files = ("b.tflite", "expected.tflite")
    found, expected = (tflite_export.run(file, x)["output_0"] for file in files)
    np.testing.assert_allclose(found, expected, atol=0.02)
    line = refused(capfd, *quantize, "c.tflite", "--data", "photos")
    assert "Expected `preprocessing` to say how pictures are scaled" in line
    line = refused(capfd, *quantize, "c.tflite")
    assert "samples beside the file" in line
    assert not Path("c.tflite").exists()


def test_verify_reads_samples_as_on_a_device(capfd):
    tflite_export.save_samples(
        small_model(), "small.tflite", np.load("x.npy"), samples_path="given.npz"
    )
    code, out, _ = run(capfd, "verify", "small.tflite", "--samples", "given.npz")
    assert code == 0 and "16 samples" in out
    line = refused(capfd, "verify", "small.tflite", "--data", "x.npy")
    assert "Expected --data with --model" in line


def test_accuracy_is_the_same_of_a_model_and_its_file(capfd):
    of_model = facts_of(capfd, "accuracy", "small.keras", "--data", "both.npz")
    of_file = facts_of(capfd, "accuracy", "small.tflite", "--data", "both.npz")
    assert of_model["top1"] == of_file["top1"]
    of_photos = facts_of(
        capfd, "accuracy", "small.tflite", "--data", "photos", "--preprocessing", "none"
    )
    assert of_photos["top1"] == of_model["top1"]


def test_accuracy_reads_the_data_in_pieces(capfd, monkeypatch):
    photos = ["accuracy", "small.keras", "--data", "photos"]
    whole = facts_of(capfd, *photos)
    for size in (7, 20):
        monkeypatch.setattr(data, "PIECE", size)
        assert facts_of(capfd, *photos) == {**whole, "top1": approx(whole["top1"])}
    assert facts_of(capfd, *photos, "--samples", "15")["samples"] == 15


def test_accuracy_needs_labels_and_a_classifier(capfd):
    for file in ("small.keras", "small.tflite"):
        line = refused(capfd, "accuracy", file, "--data", "x.npy")
        assert "Expected --data with labels" in line
    small_model(classes=5).save("five.keras")
    line = refused(capfd, "accuracy", "five.keras", "--data", "photos")
    assert "Expected --data with labels" in line
    keras.Sequential([keras.Input((4,)), layers.Dense(1)]).save("one.keras")
    np.savez("four.npz", x=np.ones((3, 4)), y=np.ones(3))
    line = refused(capfd, "accuracy", "one.keras", "--data", "four.npz")
    assert "Expected a classifier" in line


def test_files_are_timed_and_run_as_on_a_device(capfd):
    code, out, _ = run(
        capfd, "benchmark", "small.tflite", "small.tflite", "--runs", "5", "--json"
    )
    assert code == 0 and len(json.loads(out)) > 0
    code, out, _ = run(capfd, "run", "small.tflite", "x.npy", "--output", "out.npz")
    assert code == 0 and "output_0: shape (40, 3)" in out
    expected = small_model().predict(np.load("x.npy"), verbose=0)
    with np.load("out.npz") as arrays:
        np.testing.assert_allclose(arrays["output_0"], expected, atol=1e-5)


# --- report


def test_a_page_compares_a_model_with_a_compact_one(capfd, tmp_path):
    assert run(capfd, *PRUNE, "--data", "both.npz")[0] == 0
    typed = ["report", "small.keras", "compact.keras", "-o", "report.html"]
    facts = facts_of(capfd, *typed, "--data", "both.npz")
    assert facts["macs"]["after"] < facts["macs"]["before"]
    assert {"top1_before", "top1_after"} <= set(facts)
    page = (tmp_path / "report.html").read_text()
    assert shlex.join(["keras-greedy", *typed]) in page
    assert "Measured top-1" in page
    assert "Latency, median" not in page
    code, out, _ = run(capfd, *typed, "--files", "small.tflite", "small.tflite")
    assert code == 0
    assert "Wrote report.html" in out
    assert "Latency, median" in (tmp_path / "report.html").read_text()


def test_what_a_page_cannot_be_made_of_is_refused_before_the_work(capfd):
    page = ["small.keras", "small.keras", "-o"]
    assert ".html" in refused(capfd, "report", *page, "report.pdf")
    files = ["--files", "small.tflite", "nothing.tflite"]
    assert "nothing.tflite" in refused(capfd, "report", *page, "r.html", *files)


# --- ticket


def test_a_ticket_is_found_and_written(capfd):
    kernel = keras.initializers.Constant(0.1)
    dense = layers.Dense(3, kernel_initializer=kernel)
    keras.Sequential([keras.Input((4,)), dense]).save("dense.keras")
    facts = facts_of(
        capfd, "ticket", "dense.keras", "--redundancy", "21", "-o", "ticket.keras"
    )
    ticket = keras_greedy.lottery.Ticket.load("ticket.keras")
    assert ticket.sparsity == facts["sparsity"]


# --- the reader of the output


def test_a_reader_that_goes_away_ends_the_command_quietly(monkeypatch, capfd):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        def flush(self):
            raise BrokenPipeError

        def fileno(self):
            raise OSError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert cli.main(["inspect", "small.keras"]) == 141
    assert capfd.readouterr().err == ""
