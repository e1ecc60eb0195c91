"""A search that is kept as it goes: killed, interrupted, or taken for another."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_greedy
from keras_greedy.batches import Batches
from keras_greedy.checkpoints.checkpoint import HEADER, SUFFIX, Checkpoint
from keras_greedy.checkpoints.fingerprint import fingerprint_of
from keras_greedy.checkpoints.trees import read_tree, write_tree
from keras_greedy.selection.path import MixturePath

layers = keras.layers

KILLED = Path(__file__).with_name("killed.py")


def network(units=16):
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(units, activation="relu", name=name) for name in "ab"]
    model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3, name="c")])
    model.compile(loss="mse")
    return model


X = np.random.default_rng(0).normal(size=(96, 6)).astype("float32")
LABELS = np.random.default_rng(1).normal(size=(96, 3)).astype("float32")

BY_LOSS = keras_greedy.LossSearch(candidates=2, channels_per_step=4)


def search(folder, model=None, data=X, **arguments):
    model = network() if model is None else model
    return keras_greedy.search(
        model, data, checkpoint=folder, **{"verbose": 0, **arguments}
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder of a search that has ended."""
    folder = tmp_path_factory.mktemp("kept") / "search"
    search(folder)
    return folder


@pytest.fixture
def folder(kept, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(kept, tmp_path / "search"))


def assert_same_paths(one, other):
    assert one.paths.keys() == other.paths.keys()
    for name, path in one.paths.items():
        np.testing.assert_array_equal(path.order, other.paths[name].order)
        np.testing.assert_array_equal(path.errors, other.paths[name].errors)
        for field in ("widths", "values"):
            found = getattr(one.divergence[name], field)
            expected = getattr(other.divergence[name], field)
            np.testing.assert_array_equal(found, expected)


def assert_same_weights(one, other):
    for found, expected in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


# --- killed


def checksums(kind, folder, *moments):
    """Those of a search that nobody disturbs, and of those that were killed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, KILLED, kind, folder, *moments]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=600
    )
    assert ended.returncode == 0, ended.stderr
    undisturbed, *killed = ended.stdout.split()
    assert killed
    return undisturbed, killed


def test_a_search_killed_in_three_stages_ends_with_the_same_bits(tmp_path):
    stages = ["moments", "paths-global", "divergences-0"]
    files = [f"{stage}{SUFFIX}" for stage in stages]
    undisturbed, killed = checksums("moments", tmp_path / "search", *files)
    assert killed == [undisturbed]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["moments", "loss", "layers", "tolerance"])
def test_searches_killed_at_20_random_moments_end_with_the_same_bits(kind, tmp_path):
    undisturbed, killed = checksums(kind, tmp_path / "search", "20")
    assert set(killed) == {undisturbed}


def test_what_is_there_is_not_searched_again(kept, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert_same_paths(search(folder), search(None))
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_search_on_moments_is_good_for_any_budget(folder):
    for budget in (0.6, 0.8):
        compact = keras_greedy.prune(network(), X, budget, checkpoint=folder, verbose=0)
        undisturbed = keras_greedy.prune(network(), X, budget, verbose=0)
        assert_same_weights(compact, undisturbed)


def test_a_stage_whose_file_was_removed_is_searched_again(folder):
    (folder / f"paths-global{SUFFIX}").unlink()
    assert_same_paths(search(folder), search(None))
    assert (folder / f"paths-global{SUFFIX}").exists()


def test_files_that_a_search_was_killed_over_are_removed(folder):
    left = folder / f".moments.checkpoint.{'0' * 32}.npz"
    left.write_bytes(b"half of it")
    search(folder)
    assert not left.exists()


def test_a_line_says_that_a_search_goes_on(kept, folder, tmp_path, capsys):
    search(tmp_path / "new", verbose=2)
    assert "Going on" not in capsys.readouterr().out
    search(folder, verbose=2)
    assert f"Going on with the search kept in {folder}" in capsys.readouterr().out


# --- interrupted


class ThreeBatches:
    """Once a file is there, Ctrl-C is pressed before the third batch of a pass."""

    def __init__(self, file=None, number=1):
        self._file = file
        self._passes_left = number

    def __len__(self):
        return 3

    def __iter__(self):
        for i in range(3):
            if i == 2 and self._file is not None and self._file.exists():
                self._passes_left -= 1
                if not self._passes_left:
                    signal.raise_signal(signal.SIGINT)
            yield X[i::3], LABELS[i::3]


@pytest.fixture
def ctrl_c():
    """Ctrl-C is a `KeyboardInterrupt`, wherever the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def batches_observed(folder):
    """The number of batches whose moments are kept; -1 if all are."""
    return read_tree(folder / f"moments{SUFFIX}")["findings"]["observed"][0]


def test_ctrl_c_keeps_all_that_was_found_and_says_how_to_go_on(tmp_path, ctrl_c):
    folder = tmp_path / "search"
    with pytest.raises(KeyboardInterrupt) as info:
        # The first pass counts the examples.
        search(folder, data=ThreeBatches(folder / HEADER, number=2))
    message = str(info.value)
    assert f"kept in {folder}: search again with the same arguments" in message
    assert batches_observed(folder) == 2
    gone_on = search(folder, data=ThreeBatches())
    assert batches_observed(folder) == -1
    assert_same_paths(gone_on, search(None, data=ThreeBatches()))


def test_ctrl_c_between_two_groups_keeps_the_first_one(tmp_path, ctrl_c):
    file = tmp_path / "search" / f"layers{SUFFIX}"

    def prune(folder, data):
        return keras_greedy.prune(
            network(), data, 0.4, method=BY_LOSS, checkpoint=folder, verbose=0
        )

    with pytest.raises(KeyboardInterrupt, match="search again"):
        prune(file.parent, ThreeBatches(file))
    cuts, _ = read_tree(file)["findings"]["pruned"]
    assert list(cuts) == ["a"]
    gone_on = prune(file.parent, ThreeBatches())
    assert_same_weights(gone_on, prune(None, ThreeBatches()))


# --- refused


def refused(folder, **arguments):
    """The error of a search that is given a folder."""
    with pytest.raises(ValueError, match="Expected `checkpoint` to be a new") as info:
        search(folder, **arguments)
    message = str(info.value)
    assert str(folder) in message
    assert "To search anew, give another folder, or remove this one" in message
    return message


def with_other_weights():
    model = network()
    model.layers[0].kernel.assign_add(model.layers[0].kernel * 1e-3)
    return model


class OnlyB(keras_greedy.PruningPolicy):
    def allow_pruning(self, group):
        return group.name == "b"


FOREIGN = {
    "model: 3 operations": lambda: {"model": with_other_weights()},
    "groups that may be pruned: 2 groups": lambda: {"model": network(24)},
    "data: float32 (96, 6), ": lambda: {"data": X + 1},
    ", now float32 (64, 6), ": lambda: {"data": X[:64]},
    "; number of them 1, now ": lambda: {"data": [X, X]},
    'method: ["Imitation", {"divergence": "measured", "objective": "global"': lambda: {
        "objective": "local"
    },
    '"step": "corrective"}], now': lambda: {"step": "uniform"},
    "seed: 0, now 1": lambda: {"seed": 1},
    "groups that may be pruned: 2 groups, ": lambda: {"policy": OnlyB()},
}


@pytest.mark.parametrize("reason", FOREIGN)
def test_a_checkpoint_of_another_search_is_refused(folder, reason):
    assert reason in refused(folder, **FOREIGN[reason]())


def test_a_checkpoint_of_another_version_is_refused(folder, monkeypatch):
    monkeypatch.setattr(keras_greedy, "__version__", "9.0")
    message = refused(folder)
    assert f"version of keras_greedy: {'0.2.0'}, now 9.0" in message


def test_a_checkpoint_of_other_devices_is_refused(folder, monkeypatch):
    # They share each batch otherwise.
    fingerprint = "keras_greedy.checkpoints.fingerprint"
    monkeypatch.setattr(f"{fingerprint}.device_count", lambda: 2)
    assert "devices: 1, now 2" in refused(folder)


def test_a_checkpoint_of_a_newer_layout_is_refused(folder):
    header = json.loads((folder / HEADER).read_text())
    (folder / HEADER).write_text(json.dumps({**header, "format": 99}))
    assert "it is of version 99" in refused(folder)


def test_a_search_by_loss_of_another_budget_is_refused(tmp_path):
    folder = tmp_path / "search"

    def prune(budget):
        keras_greedy.prune(
            network(), (X, LABELS), budget, method=BY_LOSS, checkpoint=folder, verbose=0
        )

    prune(0.7)
    with pytest.raises(ValueError, match=r'budget: \["Budget", .*"macs": 0.7'):
        prune(0.8)
    with pytest.raises(ValueError, match=r"budget: .*, now any"):
        search(folder, data=(X, LABELS), method=BY_LOSS)


def damage_middle(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "one bit": damage_middle,
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", [HEADER, f"moments{SUFFIX}", f"paths-global{SUFFIX}"])
def test_a_damaged_checkpoint_is_refused(folder, name, damage):
    DAMAGE[damage](folder / name)
    message = refused(folder)
    assert f"{name} is damaged" in message
    assert "allow_pickle" not in message


def test_a_checkpoint_without_its_header_is_refused(folder):
    (folder / HEADER).unlink()
    assert f"its {HEADER} is missing" in refused(folder)


def test_a_file_of_another_search_is_refused(folder, tmp_path):
    name = f"divergences-0{SUFFIX}"
    search(tmp_path / "other", seed=1)
    shutil.copy(tmp_path / "other" / name, folder / name)
    assert f"{name} is that of another search" in refused(folder)


@pytest.mark.parametrize("checkpoint", [3, "", b"x", True])
def test_a_checkpoint_that_is_no_folder_is_refused(checkpoint):
    with pytest.raises(ValueError, match="Expected `checkpoint` to be the name of a f"):
        search(checkpoint)


def test_a_checkpoint_that_is_a_file_or_in_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="Expected `checkpoint` to be the name of a f"):
        search(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match="Expected `checkpoint` to be in an ex"):
        search(tmp_path / "missing" / "search")


def with_own_objects(factor):
    """Layers whose configs say nothing, or something else each time."""
    keras.utils.set_random_seed(0)
    stack = [
        keras.Input((8, 8, 3)),
        layers.RandomCrop(6, 6, name="crop"),
        layers.Conv2D(8, 3, activation=lambda x: x * factor, name="conv"),
        layers.Lambda(lambda x: x + 1, name="lambda"),
        layers.Dropout(0.5, name="dropout"),
        layers.Flatten(name="flat"),
        layers.Dense(2, name="out"),
    ]
    return keras.Sequential(stack)


def fingerprint(model):
    graph = keras_greedy.trace(model)
    batches = Batches(np.ones((4, 8, 8, 3)), graph.functional)
    return fingerprint_of(graph, batches, keras_greedy.Imitation(), 0, None)


def test_a_model_that_is_built_again_is_the_same():
    first = fingerprint(with_own_objects(2.0))
    assert fingerprint(with_own_objects(2.0)) == first


def test_a_model_with_another_number_in_a_function_is_another():
    first = fingerprint(with_own_objects(2.0))
    other = fingerprint(with_own_objects(3.0))
    assert {name for name in first if first[name] != other[name]} == {"model"}


# --- files


def test_where_there_is_no_room_the_last_state_stays(tmp_path):
    checkpoint = Checkpoint(tmp_path / "search", {"seed": "0"})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoint.open("stage") as record:
        record.put("a", np.arange(10))
    before = {path: path.read_bytes() for path in (tmp_path / "search").iterdir()}
    # Of a file that is being written: no other file is, meanwhile.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with (
            pytest.raises(OSError, match="make room, and search again") as info,
            checkpoint.open("stage") as record,
        ):
            record.put("a", np.arange(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "search") in str(info.value)
    assert "File too large" in str(info.value)
    after = {path: path.read_bytes() for path in (tmp_path / "search").iterdir()}
    assert after == before


TREE = {
    "a/b": [np.arange(3), np.zeros((0, 2)), None, "ü", 1.5, -7],
    "rng": np.random.default_rng(0).bit_generator.state,
    "path": MixturePath(
        np.arange(2), np.zeros(3), np.arange(2), np.ones(2), np.arange(3)
    ),
}


def test_a_tree_is_read_as_it_was_written(tmp_path):
    write_tree(tmp_path / "tree.npz", TREE)
    tree = read_tree(tmp_path / "tree.npz")
    np.testing.assert_array_equal(tree["a/b"][0], np.arange(3))
    assert tree["a/b"][1].shape == (0, 2)
    assert tree["a/b"][2:] == [None, "ü", 1.5, -7]
    assert tree["rng"] == TREE["rng"]
    assert isinstance(tree["path"], MixturePath)
    np.testing.assert_array_equal(tree["path"].sizes, np.ones(2))


def test_no_byte_of_a_tree_changes_unseen(tmp_path):
    path = tmp_path / "tree.npz"
    write_tree(path, TREE)
    content = path.read_bytes()
    seen = 0
    for i in range(0, len(content), 19):
        changed = bytearray(content)
        changed[i] ^= 255
        path.write_bytes(changed)
        try:
            tree = read_tree(path)
        except ValueError:
            seen += 1
            continue
        # The archive has bytes that mean nothing, such as the hour of each entry.
        assert tree["rng"] == TREE["rng"]
        np.testing.assert_array_equal(tree["a/b"][0], np.arange(3))
        np.testing.assert_array_equal(tree["path"].sizes, np.ones(2))
    assert seen > len(content) / 19 / 2
