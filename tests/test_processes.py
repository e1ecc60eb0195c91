"""Several processes that search together, each with data of its own."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import together
from test_backends import interpreter_of
from test_devices import classifier

import keras_greedy
from keras_greedy.processes import tasks_of

TESTS = Path(__file__).parent
OTHERS = ["jax", "torch"]

SAME = ["global", "fitted twice", "loss"]
"""What two processes find just as one does that reads a block of each in turn."""

BOUNDED = 120
"""Seconds: within these the others notice that a process has ended."""


def test_workers_of_tensorflow_find_what_one_process_finds(tmp_path):
    workers = run_all("tensorflow", tmp_path, [*SAME, "screened", "refused"])
    alone = tmp_path / "alone"
    alone.mkdir()
    (found,) = run_all("tensorflow", alone, SAME, processes=1)
    check_same(workers, found)
    own_seed = "seed: 0 in process number 0, 1 in number 1"
    messages = list(workers[0]["refused"])
    assert "Expected one process for fine-tuning" in messages.pop(0)
    assert "Expected one process for a budget of latency" in messages.pop(0)
    assert "Expected one process for pruning while training" in messages.pop(0)
    assert own_seed in messages.pop(0)
    assert "another step of the search" in messages.pop(0)
    assert not messages


@pytest.mark.parametrize("backend", OTHERS)
def test_processes_of_other_backends_find_what_one_process_finds(backend, tmp_path):
    processes = run_all(backend, tmp_path, SAME[:2])
    alone = tmp_path / "alone"
    alone.mkdir()
    (found,) = run_all(backend, alone, SAME[:2], processes=1)
    check_same(processes, found)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_search_goes_on_where_a_process_has_ended(backend, tmp_path):
    ended, undisturbed = tmp_path / "ended", tmp_path / "undisturbed"
    for folder in (ended, undisturbed):
        (folder / "search").mkdir(parents=True)
    # A batch of a pass behind the one that observes, whose moments are kept by then.
    codes, errors = run(backend, ended, ["global"], ends_at=8)
    assert codes[1] == 9
    assert codes[0] != 0
    assert "Another one has ended" in errors[0] or "JAX distributed" in errors[0]
    kept = ended / "search" / "process-0" / "moments.checkpoint.npz"
    assert kept.exists()
    resumed = run_all(backend, ended, ["global"])
    for one, other in zip(
        resumed, run_all(backend, undisturbed, ["global"]), strict=True
    ):
        for name, array in one.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_a_call_in_the_scope_of_several_workers_is_refused():
    tf = pytest.importorskip("tensorflow")
    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = classifier()
        with pytest.raises(ValueError, match="behind the `with strategy"):
            keras_greedy.search(model, np.ones((8, 10)))
    # There is one worker: it searches as if there were no strategy.
    compact = keras_greedy.prune(model, np.ones((8, 10)), 0.6, verbose=0)
    assert isinstance(compact, keras.Model)


def test_a_worker_whose_model_is_of_no_strategy_is_told(monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "evaluator": ["d:1"]}
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    model, x = classifier(), np.ones((8, 10), "float32")
    with pytest.warns(UserWarning, match="TF_CONFIG names 3 workers"):
        keras_greedy.search(model, x, verbose=0)


@pytest.mark.parametrize("content", ["", "[]", "{", "{}"])
def test_a_tf_config_without_a_cluster_is_no_matter(monkeypatch, recwarn, content):
    monkeypatch.setenv("TF_CONFIG", content)
    keras_greedy.search(classifier(), np.ones((8, 10), "float32"), verbose=0)
    assert not [each for each in recwarn if "TF_CONFIG" in str(each.message)]


def test_the_chief_of_a_cluster_comes_first():
    cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"], "ps": ["e:1"]}
    assert tasks_of(cluster) == [("chief", 0), ("worker", 0), ("worker", 1)]


# --- Running the processes -----------------------------------------------------------


def run_all(backend, folder, kinds, processes=2):
    """Returns what each process finds; all of them must end well and write nothing."""
    codes, errors = run(backend, folder, kinds, processes)
    assert codes == [0] * processes, "\n".join(errors)
    found = []
    for rank in range(processes):
        with np.load(folder / f"{rank}.npz") as arrays:
            found.append(dict(arrays))
    return found


def run(backend, folder, kinds, processes=2, ends_at=None):
    """Returns the exit codes of the processes, and what they wrote as errors.

    Args:
        backend: Of Keras.
        folder: For what they make.
        kinds: As for `together.py`.
        processes: How many.
        ends_at: The batch at which the last one ends.
    """
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(TESTS.parent),
    }
    python = sys.executable if backend == "tensorflow" else interpreter_of(backend)
    ports = ",".join(map(str, free_ports(processes)))
    running = []
    for rank in range(processes):
        command = [python, TESTS / "together.py", str(rank), ports, folder, *kinds]
        if ends_at and rank == processes - 1:
            command += ["--ends-at", str(ends_at)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=environment, stderr=pipe, text=True)
        running.append(process)
    # The last first: it may end before the others notice.
    ends = [process.communicate(timeout=BOUNDED)[1] for process in running[::-1]]
    return [process.returncode for process in running], ends[::-1]


def free_ports(count):
    """Returns ports of this machine that nothing listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def check_same(processes, found):
    """Checks that all processes have the same models, those that one process finds."""
    first, *others = processes
    for other in others:
        for name, array in first.items():
            if name != "refused":
                np.testing.assert_array_equal(array, other[name], err_msg=name)
    for name, array in found.items():
        np.testing.assert_allclose(first[name], array, atol=1e-5, err_msg=name)
        if name.endswith("widths"):
            assert (array < together.CHANNELS).any()
