"""The command line, and the names that the package exports."""

import os
import subprocess
import sys

import pytest

import keras_greedy
import keras_greedy_cli as cli
from keras_greedy import demo


@pytest.fixture
def environment(monkeypatch):
    """The process as a shell starts it: nothing set for Keras or TensorFlow."""
    for name in ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def python(*arguments):
    unset = {"KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL"}
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )


def running(monkeypatch, function):
    monkeypatch.setattr(demo, "run", lambda **options: function())


def test_options_reach_the_demo_and_those_not_given_do_not(monkeypatch):
    calls = []
    monkeypatch.setattr(demo, "run", lambda **options: calls.append(options))
    assert cli.main(["demo"]) == 0
    arguments = ["demo", "--output", "there", "--epochs", "3", "--seed", "7"]
    assert cli.main(arguments) == 0
    assert calls == [{}, {"output": "there", "epochs": 3, "seed": 7}]


def test_keras_runs_on_tensorflow_unless_told_otherwise(environment):
    backends = []
    running(environment, lambda: backends.append(os.environ["KERAS_BACKEND"]))
    cli.main(["demo"])
    environment.setenv("KERAS_BACKEND", "jax")
    cli.main(["demo"])
    assert backends == ["tensorflow", "jax"]


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError])
def test_an_error_is_one_line_and_exit_code_2(monkeypatch, capsys, error):
    def fail():
        raise error("Expected this.\n  Received:   that")

    running(monkeypatch, fail)
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr() == ("", "keras-greedy: Expected this. Received: that\n")


def test_a_missing_package_is_an_error_that_says_what_to_install(monkeypatch, capsys):
    def fail():
        raise ImportError("No module named 'sklearn'")

    running(monkeypatch, fail)
    assert cli.main(["demo"]) == 2
    message = capsys.readouterr().err
    assert "No module named 'sklearn'" in message
    assert "pip install 'keras_greedy[datasets,demo]'" in message


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch):
    def fail():
        raise TypeError

    running(monkeypatch, fail)
    with pytest.raises(TypeError):
        cli.main(["demo"])


def test_an_interrupt_ends_the_command_quietly(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    running(monkeypatch, interrupt)
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "arguments", [[], ["prune"], ["nothing"], ["demo", "--epochs", "many"]]
)
def test_unknown_arguments_get_the_usage_and_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert "usage: keras-greedy" in capsys.readouterr().err


def say_both():
    os.write(2, b"from C++\n")
    print("from Python", file=sys.stderr)


def test_what_native_code_says_is_dropped_and_what_python_says_is_not(
    environment, capfd
):
    running(environment, say_both)
    cli.main(["demo"])
    assert capfd.readouterr().err == "from Python\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_everything_is_said_when_the_log_level_asks_for_it(environment, capfd):
    environment.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    running(environment, say_both)
    cli.main(["demo"])
    assert "from C++" in capfd.readouterr().err


def test_a_crash_says_where_python_was():
    crash = "cli._resolved = lambda command: os.abort(); cli.main(['demo'])"
    ended = python("-c", f"import os; import keras_greedy_cli as cli; {crash}")
    assert ended.returncode != 0
    assert "Fatal Python error: Aborted" in ended.stderr
    assert "keras_greedy_cli" in ended.stderr


def test_starting_tensorflow_says_nothing():
    ended = python("-m", "keras_greedy_cli", "demo", "--epochs", "0")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        "keras-greedy: Expected `epochs` to be a positive integer. Received: epochs=0\n"
    )


def test_the_command_line_alone_does_not_start_keras():
    check = "import sys, keras_greedy_cli; sys.exit('keras' in sys.modules)"
    assert python("-c", check).returncode == 0


def test_every_public_name_is_there():
    for name in keras_greedy.__all__:
        assert getattr(keras_greedy, name).__doc__, name
    assert {*keras_greedy.__all__} <= {*dir(keras_greedy)}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'pruned'"):
        keras_greedy.pruned  # noqa: B018
