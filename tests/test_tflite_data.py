"""The forms of data that the export takes: those of `prune`, and no nonsense."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tflite_export

layers = keras.layers

RNG = np.random.default_rng(0)
X = RNG.random((6, 4), "float32")
FIRST, SECOND = (RNG.random((6, 3), "float32") for _ in range(2))


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(3, "softmax")(x))
    return model, tflite_export.convert(
        model, tmp_path_factory.mktemp("one") / "m.tflite"
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two inputs of one shape, in another order than that of their names."""
    z, a = keras.Input((3,), name="z"), keras.Input((3,), name="a")
    outputs = layers.Dense(2)(layers.Concatenate()([z, layers.Rescaling(9.0)(a)]))
    model = keras.Model([z, a], outputs)
    return model, tflite_export.convert(
        model, tmp_path_factory.mktemp("two") / "m.tflite"
    )


def values(path, data, **options):
    (outputs,) = tflite_export.run(path, data, **options).values()
    return outputs


class Frame:
    """As those of pandas: an array is made of it."""

    def __init__(self, values):
        self.values, self.shape = values, values.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __iter__(self):
        return iter("its columns' names")


class Flow:
    """As those of `ImageDataGenerator`: it has a length, and iterates for ever."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[3 * index : 3 * index + 3], np.zeros(3)

    def __iter__(self):
        return self

    def __next__(self):
        raise AssertionError("read for ever")


class Pieces(Flow, keras.utils.PyDataset):
    """A `PyDataset` that does the same."""


def dataset(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(4)


FORMS = {
    "an array": X,
    "float64": X.astype("float64"),
    "a tensor": tf.constant(X),
    "a frame": Frame(X),
    "nested lists": X.tolist(),
    "a list of samples": list(X),
    "x and y": (X, np.zeros(6)),
    "x, y and weights": (X, np.zeros(6), np.ones(6)),
    "x alone in a tuple": (X,),
    "nested lists and labels": (X.tolist(), [0] * 6),
    "a dict": {"x": X},
    "a dict with more": {"id": np.arange(6), "x": X, "label": np.zeros(6)},
    "batches": [X[:4], X[4:]],
    "batches of one input each": [[X[:4]], [X[4:]]],
    "pairs": [(X[:4], np.zeros(4)), (X[4:], np.zeros(2))],
    "pairs as lists": [[X[:4], np.zeros(4)], [X[4:], np.zeros(2)]],
    "pairs with dicts": [({"x": X}, np.zeros(6))],
    "tf.data": dataset(X),
    "tf.data of pairs": dataset((X, np.zeros(6))),
    "tf.data of dicts, as of tfds": dataset({"x": X, "label": np.zeros(6)}),
    "a flow": Flow(),
    "a PyDataset": Pieces(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_is_read_as_the_array_is(one, form):
    np.testing.assert_array_equal(values(one[1], FORMS[form]), values(one[1], X))


def test_a_generator_is_read_once(one):
    batches = (X[i : i + 2] for i in range(0, 6, 2))
    np.testing.assert_array_equal(values(one[1], batches), values(one[1], X))


BY_NAME = {"a": SECOND, "z": FIRST}
FORMS_OF_TWO = {
    "in the model's order": [FIRST, SECOND],
    "by name": {"z": FIRST, "a": SECOND},
    "with more": {**BY_NAME, "id": np.arange(6)},
    "nested lists": [FIRST.tolist(), SECOND.tolist()],
    "batches of lists": [[FIRST, SECOND]],
    "batches of pairs": [((FIRST, SECOND), np.zeros(6))],
    "batches of pairs as lists": [[[FIRST, SECOND], np.zeros(6)]],
    "tf.data": dataset(((FIRST, SECOND), np.zeros(6))),
}


@pytest.mark.parametrize("form", FORMS_OF_TWO)
def test_several_inputs_are_in_the_order_of_the_model_or_by_name(two, form):
    model, path = two
    data = FORMS_OF_TWO[form]
    assert tflite_export.verify(model, path, data).ok(1e-5)
    whole = tflite_export.to_bytes(model, "int8", representative_data=BY_NAME)
    assert tflite_export.to_bytes(model, "int8", representative_data=data) == whole
    (error, *_) = tflite_export.compare_layers(model, path, data)
    assert error.relative_error < 1e-5


def test_a_file_asks_for_names_where_shapes_do_not_tell_the_order(two):
    model, path = two
    expected = model.predict([FIRST, SECOND], verbose=0)
    np.testing.assert_allclose(values(path, BY_NAME), expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"by the names.*'z'\].*not tell the order"):
        tflite_export.run(path, [FIRST, SECOND])


@pytest.mark.parametrize("swapped", [False, True])
def test_a_file_takes_a_list_where_shapes_tell_the_order(tmp_path, swapped):
    u, v = keras.Input((2,), name="u"), keras.Input((3,), name="v")
    model = keras.Model([u, v], layers.Concatenate()([u, v]))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    data = [X[:, :2], FIRST]
    expected = np.concatenate(data, axis=1)
    np.testing.assert_array_equal(values(path, data[:: -1 if swapped else 1]), expected)


def test_a_model_of_a_dict_takes_its_keys_and_the_names(tmp_path):
    inputs = {"left": keras.Input((3,), name="z"), "right": keras.Input((3,), name="a")}
    both = layers.Concatenate()([inputs["left"], inputs["right"]])
    with pytest.warns(UserWarning, match="must match the names"):
        model = keras.Model(inputs, layers.Dense(2)(both))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    for data in ({"right": SECOND, "left": FIRST}, {"z": FIRST, "a": SECOND}):
        assert tflite_export.verify(model, path, data).ok(1e-5)


def test_a_column_needs_no_axis_of_its_own(tmp_path):
    x = keras.Input((1,), name="age")
    path = tflite_export.convert(
        keras.Model(x, layers.Rescaling(2.0)(x)), tmp_path / "m.tflite"
    )
    np.testing.assert_array_equal(values(path, {"age": np.arange(3)}), [[0], [2], [4]])


def test_data_without_an_end_are_read_as_far_as_needed(one):
    endless = tf.data.Dataset.from_tensors(X).repeat()
    assert values(one[1], endless, max_samples=9).shape == (9, 3)
    for read in (tflite_export.run, tflite_export.accuracy):
        with pytest.raises(ValueError, match=r"`data` to be finite.*take\(n\)"):
            read(one[1], endless)


def test_data_that_go_on_and_on_without_a_length_are_said(one, monkeypatch):
    monkeypatch.setattr(tflite_export.data_forms, "MANY_BATCHES", 3)

    def batches(count):
        return (X for _ in range(count))

    with pytest.warns(UserWarning, match=r"`data` has given 3 batches.*islice") as said:
        assert len(values(one[1], batches(5))) == 5 * len(X)
    assert [warning.filename for warning in said] == [__file__]
    # These say nothing.
    values(one[1], batches(3))
    values(one[1], [X] * 5)
    values(one[1], batches(5), max_samples=9)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (X[0], r"looks unbatched"),
        (dataset(X).unbatch(), r"looks unbatched"),
        ("images/train", r"images/train.*image_dataset_from_directory"),
        ({"picture": X, "label": X}, r"'x'.*as_supervised=True.*'picture'"),
        (np.full((2, 4), 1e39), r"in the range of float32.*1e\+39"),
        ([["a", "b", "c", "d"]], r"numbers in batches"),
        ([[1.0, 2.0], [1.0]], r"`data`"),
        ({}, r"`data`.*'x'"),
    ],
)
def test_data_that_are_none_are_refused_in_short(one, data, match):
    with pytest.raises(ValueError, match=match) as error:
        tflite_export.run(one[1], data)
    assert len(str(error.value)) < 600


def test_data_are_not_printed_in_errors(one):
    with pytest.raises(ValueError, match="hold samples") as error:
        tflite_export.run(one[1], np.zeros((0, 4)))
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("ids", [[[1.5]], [[2**40]], [[-1e12]]])
def test_numbers_that_an_integer_input_does_not_have_are_refused(tmp_path, ids):
    x = keras.Input((1,), dtype="int32", name="ids")
    model = keras.Model(x, layers.Embedding(9, 2)(x))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    assert values(path, [[3.0]]).shape == (1, 1, 2)
    with pytest.raises(ValueError, match="`data` to be integers in the range of int32"):
        tflite_export.run(path, np.array(ids))
    with pytest.raises(ValueError, match="`representative_data` to be integers in"):
        tflite_export.to_bytes(model, "int8", representative_data=np.array(ids))


@pytest.mark.parametrize(
    "data",
    [
        X * np.nan,
        X * np.inf,
        np.full((2, 4), 1e39),
        X[:, :3],
        X[:0],
        [],
        X.astype(str),
        3,
    ],
    ids=str,
)
def test_int8_refuses_representative_data_of_nonsense(one, data):
    with pytest.raises(ValueError, match="`representative_data`") as error:
        tflite_export.to_bytes(one[0], "int8", representative_data=data)
    assert len(str(error.value)) < 300


# --- Arguments


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda file, _: tflite_export.run(file, X, max_samples=0), "max_samples"),
        (lambda file, _: tflite_export.run(file, X, max_samples=1.5), "max_samples"),
        (lambda file, _: tflite_export.run(file, X, threads=0), "threads"),
        (lambda file, _: tflite_export.run(file, X, threads="2"), "threads"),
        (lambda file, _: tflite_export.accuracy(file, (X, [0] * 6), 0), "threads"),
        (lambda *_: tflite_export.run(None, X), "path"),
        (lambda *_: tflite_export.run("", X), "path"),
        (lambda file, _: tflite_export.run(file.parent, X), "path"),
        (lambda *_: tflite_export.benchmark(3), "path"),
        (lambda *_: tflite_export.compare(None), "paths"),
        (lambda *_: tflite_export.compare([None]), "path"),
        (lambda *_: tflite_export.load_samples(None), "path"),
        (lambda _, model: tflite_export.convert(model, None), "path"),
        (lambda file, _: tflite_export.compare_layers(3, file, X), "model"),
        (lambda file, _: tflite_export.verify(["a"] * 6, file, X), "model"),
    ],
)
def test_an_argument_of_nonsense_is_named_in_short(one, call, name):
    model, file = one
    with pytest.raises(ValueError, match=f"`{name}`") as error:
        call(file, model)
    assert len(str(error.value)) < 400


def test_models_that_are_not_built_or_of_other_outputs_are_refused(one):
    unbuilt = keras.Sequential([layers.Dense(3)])
    with pytest.raises(ValueError, match=r"Expected `model`.*is built"):
        tflite_export.verify(unbuilt, one[1], X)
    other = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"Expected `model`.*\(2,\).*\(3,\)"):
        tflite_export.compare_layers(other, one[1], X)
