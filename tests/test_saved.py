"""Files that are read again: checked all through, written whole or not at all."""

import json
import threading
import zipfile

import keras
import numpy as np
import pytest

import keras_greedy
import tflite_export
from keras_greedy import LatencyTable
from keras_greedy.latency.interpolation import BlockTimes
from keras_greedy.lottery import Ticket
from tflite_export.files import replacing

layers = keras.layers

LONGEST = 700
"""Characters of an error: a few lines."""


def network(units=16):
    hidden = [layers.Dense(units, activation="relu", name=name) for name in "ab"]
    return keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3, name="c")])


def small_table():
    ends = {
        "first": BlockTimes([], ["a"], ([0], [8, 16]), [[1.0, 2.0]]),
        "last": BlockTimes(["a"], [], ([8, 16], [0]), [[1.0], [2.0]]),
    }
    return LatencyTable(4.0, {"a": 16}, ends)


X = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def paths(model):
    return keras_greedy.search(model, X, step="line_search", verbose=0)


@pytest.fixture(scope="module")
def fields(paths, tmp_path_factory):
    path = tmp_path_factory.mktemp("fields") / "paths.npz"
    paths.save(path)
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def ticket():
    keras.utils.set_random_seed(0)
    target = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    return keras_greedy.lottery.find_ticket(target, 16, verbose=0)


@pytest.fixture(scope="module")
def parts(ticket, tmp_path_factory):
    path = tmp_path_factory.mktemp("parts") / "ticket.keras"
    ticket.save(path)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.fixture(params=["paths", "table", "ticket", "samples"])
def kind(request, model, paths, ticket, tmp_path):
    """A suffix, a function that writes such a file, and one that reads it."""

    def write_samples(path):
        file = tflite_export.convert(model, tmp_path / "m.tflite")
        tflite_export.save_samples(model, file, X, samples_path=path)
        file.unlink()

    return {
        "paths": (".npz", paths.save, lambda p: keras_greedy.load_paths(p, model)),
        "table": (".json", small_table().save, LatencyTable.load),
        "ticket": (".keras", ticket.save, Ticket.load),
        "samples": (".npz", write_samples, tflite_export.load_samples),
    }[request.param]


# --- Any file


def test_what_was_written_is_read(kind, tmp_path):
    suffix, write, read = kind
    write(tmp_path / f"file{suffix}")
    read(tmp_path / f"file{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"file{suffix}"]


@pytest.mark.parametrize("content", ["noise", "empty", "cut", "npy", "npz", "objects"])
def test_junk_is_named_and_not_unpickled(kind, content, tmp_path):
    suffix, write, read = kind
    path = tmp_path / f"junk{suffix}"
    write(path)
    whole = path.read_bytes()
    if content == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(300))
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    else:
        objects = np.array([{}], dtype=object)
        with path.open("wb") as file:
            if content == "npy":
                np.save(file, objects, allow_pickle=True)
            elif content == "objects":
                np.savez(file, x=objects)
            else:
                np.savez(file, x=np.ones(3))
    with pytest.raises(ValueError, match=r"Expected `path` to be.*junk") as error:
        read(path)
    assert len(str(error.value)) < LONGEST
    assert "pickle" not in str(error.value)


def test_no_file_at_all_is_named(kind, tmp_path):
    _, _, read = kind
    with pytest.raises(FileNotFoundError, match=r"Expected `path` to be.*gone"):
        read(tmp_path / "gone.npz")
    for bad in (None, "", 3, tmp_path):
        with pytest.raises(ValueError, match=r"Expected `path` to be"):
            read(bad)


def test_no_place_to_write_to_is_named(paths, ticket, tmp_path):
    (tmp_path / "folder.npz").mkdir()
    for save in (paths.save, small_table().save, ticket.save):
        for bad in (None, "", 3, tmp_path / "folder.npz"):
            with pytest.raises(ValueError, match="Expected `path` to be"):
                save(bad)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.npz"]


def test_threads_that_write_one_file_leave_one_whole_file(tmp_path):
    path = tmp_path / "file.npz"
    errors = []

    def write(value):
        try:
            for _ in range(20):
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, x=np.full(1000, value))
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            with np.load(path) as arrays:
                assert len(set(arrays["x"])) == 1
    assert not errors
    assert [file.name for file in tmp_path.iterdir()] == ["file.npz"]


# --- Searches


def load(fields, model, tmp_path):
    np.savez(tmp_path / "changed.npz", **fields)
    return keras_greedy.load_paths(tmp_path / "changed.npz", model)


def test_a_file_of_the_first_version_is_read(fields, model, paths, tmp_path):
    assert fields["format"] == 3
    later = ("format", "/free")
    first = {name: own for name, own in fields.items() if not name.endswith(later)}
    loaded = load(first, model, tmp_path)
    assert loaded.widths(0.5) == paths.widths(0.5)


ORDER, ERRORS = "path/a/order", "path/a/errors"

WRONG_FIELDS = {
    "a later version": {"format": 4},
    "no version": {"format": "new"},
    "no step": {"step": None},
    "an unknown step": {"step": "other"},
    "no examples": {"examples": None},
    "examples by halves": {"examples": 1.5},
    "a channel twice": {ORDER: np.zeros(16, int)},
    "a channel too high": {ORDER: np.arange(1, 17)},
    "halves of channels": {ORDER: np.arange(16) + 0.5},
    "no order": {ORDER: None},
    "errors cut off": {ERRORS: np.zeros(3)},
    "errors of NaN": {ERRORS: np.full(17, np.nan)},
    "errors of text": {ERRORS: np.full(17, "a")},
    "picks out of range": {"path/a/picks": np.array([99])},
    "infinite sizes": {"path/a/sizes": np.array([np.inf])},
    "steps beyond the picks": {"path/a/steps": np.full(17, 10**6)},
    "divergence cut off": {"divergence/a/values": np.zeros(0)},
    "no divergence": {"divergence/a/values": None, "divergence/a/widths": None},
    "divergence at width 0": {"divergence/a/widths": np.zeros(4, int)},
    "divergence of nothing": {"divergence/z/values": 1.0, "divergence/z/widths": 1},
    "a scatter that is not square": {"scatter/b/scatter": np.ones((3, 16))},
    "a scatter below 0": {"scatter/b/scatter": -np.eye(16)},
    "means of infinity": {"scatter/b/mean": np.full((1, 16), np.inf)},
    "a negative count": {"scatter/b/count": -1},
    "an unknown kind": {"other/a/b": 1.0},
    "a name without a kind": {"other": 1.0},
    "an unknown field": {"path/a/other": 1.0},
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_search_of_wrong_contents_is_refused_where_it_is_read(
    name, fields, model, tmp_path
):
    changed = fields | WRONG_FIELDS[name]
    present = {key: value for key, value in changed.items() if value is not None}
    with pytest.raises(
        ValueError, match=r"SelectionPaths.save wrote.*changed.npz"
    ) as e:
        load(present, model, tmp_path)
    assert len(str(e.value)) < LONGEST


def test_a_search_of_another_model_names_the_first_difference(fields, tmp_path):
    with pytest.raises(ValueError, match=r"group 'a' of 24 channels.*16") as error:
        load(fields, network(24), tmp_path)
    assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize("points", [-1, 0, "a", 2.5, None])
def test_a_curve_has_a_whole_number_of_points(paths, points):
    with pytest.raises(ValueError, match="Expected `points` to be an integer"):
        paths.curve(points)


def test_what_a_search_gives_is_shown_in_a_line(paths):
    for shown in (
        paths,
        paths.graph,
        paths.graph.groups[0],
        paths.moments,
        paths.moments.scatters["b"],
        paths.paths["a"],
        paths.divergence["a"],
        paths.report(0.5),
        small_table(),
    ):
        assert len(repr(shown)) < 150
        assert "\n" not in repr(shown)
    assert repr(paths) == (
        "<SelectionPaths of 2 groups with 32 channels, step='line_search'>"
    )


# --- Tables of latencies


WRONG_TABLES = {
    "a list": [],
    "a field more": {"other": 1},
    "a later version": {"format": 99},
    "no time": {"full_ms": 0},
    "NaN": {"full_ms": float("nan")},
    "text": {"saving": "much"},
    "no groups": {"sizes": 3},
    "halves of channels": {"sizes": {"a": 1.5}},
    "another group": {"sizes": {"b": 16}},
    "another size": {"sizes": {"a": 24}},
    "no blocks": {"blocks": {}},
    "blocks of text": {"blocks": {"first": "x"}},
}


@pytest.mark.parametrize("name", WRONG_TABLES)
def test_a_table_of_wrong_contents_is_refused_where_it_is_read(name, tmp_path):
    path = tmp_path / "table.json"
    small_table().save(path)
    change = WRONG_TABLES[name]
    good = json.loads(path.read_text())
    path.write_text(json.dumps(change if isinstance(change, list) else good | change))
    with pytest.raises(
        ValueError, match=r"LatencyTable.save wrote.*table.json"
    ) as error:
        LatencyTable.load(path)
    assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize(
    "change",
    [
        {"ms": [[-1.0, 2.0]]},
        {"ms": [[float("inf"), 2.0]]},
        {"ms": [[1.0]]},
        {"channels": [[0], [16, 8]]},
        {"channels": [[0], [8, 12]]},
        {"channels": [[0]]},
        {"others": ["z"]},
    ],
    ids=str,
)
def test_a_block_of_wrong_contents_is_named(change, tmp_path):
    path = tmp_path / "table.json"
    small_table().save(path)
    table = json.loads(path.read_text())
    table["blocks"]["first"] |= change
    path.write_text(json.dumps(table))
    with pytest.raises(ValueError, match=r"table.json.*`blocks`.*'first'"):
        LatencyTable.load(path)


def test_a_table_of_the_first_version_is_read(tmp_path):
    path = tmp_path / "table.json"
    small_table().save(path)
    fields = json.loads(path.read_text())
    assert fields.pop("format") == 1
    path.write_text(json.dumps(fields))
    assert LatencyTable.load(path).ms({"a": 8}) == small_table().ms({"a": 8})


# --- Tickets


def write_ticket(parts, path):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in parts.items():
            if content is not None:
                file.writestr(name, content)


WRONG_PARTS = {
    "no JSON": b"{",
    "no text": b"\xff\xfe\x00",
    "a list": [],
    "no fields": {},
    "a field more": {"redundancy": 1, "max_error": 0, "target_size": 1, "other": 1},
    "text": {"redundancy": "1", "max_error": "0", "target_size": "1"},
    "NaN": {"redundancy": 1, "max_error": float("nan"), "target_size": 1},
    "a later version": {
        "format": 9,
        "redundancy": 1,
        "max_error": 0,
        "target_size": 1,
    },
    "none": None,
}


@pytest.mark.parametrize("name", WRONG_PARTS)
def test_a_ticket_of_wrong_figures_is_refused_where_it_is_read(name, parts, tmp_path):
    content = WRONG_PARTS[name]
    if content is not None and not isinstance(content, bytes):
        content = json.dumps(content).encode()
    write_ticket({**parts, "ticket.json": content}, tmp_path / "changed.keras")
    with pytest.raises(ValueError, match=r"Ticket.save wrote.*changed.keras") as error:
        Ticket.load(tmp_path / "changed.keras")
    assert len(str(error.value)) < LONGEST


@pytest.mark.parametrize("part", ["model.weights.h5", "config.json"])
def test_a_ticket_without_a_part_of_its_model_is_refused(part, parts, tmp_path):
    write_ticket({**parts, part: None}, tmp_path / "changed.keras")
    with pytest.raises(
        ValueError, match=r"changed.keras.*Keras does not read"
    ) as error:
        Ticket.load(tmp_path / "changed.keras")
    assert len(str(error.value)) < LONGEST


def test_a_ticket_of_the_first_version_is_read(parts, ticket, tmp_path):
    figures = json.loads(parts["ticket.json"])
    assert figures.pop("format") == 1
    first = {**parts, "ticket.json": json.dumps(figures)}
    write_ticket(first, tmp_path / "first.keras")
    assert str(Ticket.load(tmp_path / "first.keras")) == str(ticket)


def test_a_ticket_whose_weights_are_not_finite_is_refused(ticket, tmp_path):
    broken = keras.models.clone_model(ticket.model)
    broken.set_weights(ticket.model.get_weights())
    kernel = broken.layers[-1].kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    saved = Ticket(broken, ticket.redundancy, ticket.max_error, ticket.target_size)
    saved.save(tmp_path / "broken.keras")
    with pytest.raises(ValueError, match=r"broken.keras.*NaN or infinity"):
        Ticket.load(tmp_path / "broken.keras")
