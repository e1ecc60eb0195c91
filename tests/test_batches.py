import itertools
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_greedy.batches import Batches, LabelledBatches

IMAGES = np.random.default_rng(0).normal(size=(21, 4, 4, 3)).astype("float32")
LABELS = np.arange(21)


@pytest.fixture(scope="module")
def model():
    x = picture = keras.Input((4, 4, 3), name="picture")
    return keras.Model(picture, layers.Conv2D(2, 3)(x))


@pytest.fixture(scope="module")
def two_inputs():
    """Inputs of the same shape, whose names sort the other way round."""
    inputs = [keras.Input((3,), name="z"), keras.Input((3,), name="a")]
    return keras.Model(inputs, layers.Subtract()(inputs))


@pytest.fixture(scope="module")
def named_inputs():
    inputs = {"z": keras.Input((3,), name="z"), "a": keras.Input((2,), name="a")}
    return keras.Model(inputs, layers.Concatenate()([inputs["z"], inputs["a"]]))


class Sequence(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return 3

    def __getitem__(self, index):
        part = slice(7 * index, 7 * index + 7)
        return IMAGES[part], LABELS[part]


class Endless(Sequence):
    @property
    def num_batches(self):
        return None


class Reiterable:
    def __iter__(self):
        yield from np.split(IMAGES, 3)


def in_batches(size=10):
    return [(IMAGES[i : i + size], LABELS[i : i + size]) for i in range(0, 21, size)]


def dataset(arrays=(IMAGES, LABELS)):
    return tf.data.Dataset.from_tensor_slices(arrays)


FORMS = {
    "array": lambda: IMAGES,
    "tensor": lambda: tf.constant(IMAGES),
    "float64": lambda: IMAGES.astype("float64"),
    "x alone in a tuple": lambda: (IMAGES,),
    "x and labels": lambda: (IMAGES, LABELS),
    "x and no labels": lambda: (IMAGES, None),
    "x, labels and weights": lambda: (IMAGES, LABELS, np.ones(21)),
    "dict with the input's name": lambda: {"picture": IMAGES, "label": LABELS},
    "tf.data": lambda: dataset().batch(4),
    "tf.data of x": lambda: dataset(IMAGES).batch(50),
    "tf.data of dicts": lambda: dataset({"picture": IMAGES, "id": LABELS}).batch(4),
    "tf.data of unknown length": lambda: dataset().batch(4).filter(lambda x, y: True),
    "numpy iterator": lambda: dataset().batch(4).as_numpy_iterator(),
    "PyDataset": lambda: Sequence(),
    "list of x": lambda: [x for x, _ in in_batches()],
    "list of (x, y)": in_batches,
    "list of [x, y]": lambda: [[x, y] for x, y in in_batches()],
    "list of single images": lambda: np.split(IMAGES, 21),
    "generator": lambda: (batch for batch in in_batches()),
    "iterable": Reiterable,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_images_as_often_as_asked(form, model):
    batches = Batches(FORMS[form](), model, batch_size=8)
    for _ in range(3):
        parts = [x for (x,) in batches]
        assert [len(part) for part in parts] == [8, 8, 5]
        assert {part.dtype for part in parts} == {np.dtype("float32")}
        np.testing.assert_array_equal(np.concatenate(parts), IMAGES)


def test_batches_can_be_read_again_in_another_size(model):
    batches = Batches((x for x in np.split(IMAGES, 7)), model)
    sizes = [len(x) for (x,) in Batches.of(batches, model, batch_size=16)]
    assert sizes == [16, 5]


def test_taking_some_stops_reading_there(model):
    read = []

    class Watched(Reiterable):
        def __iter__(self):
            for batch in super().__iter__():
                read.append(len(batch))
                yield batch

    batches = Batches(Watched(), model, batch_size=3)
    read.clear()
    assert [len(x) for (x,) in batches.take(5)] == [3, 2]
    assert read == [7]
    assert sum(len(x) for (x,) in batches.take(1000)) == 21


def test_a_last_batch_that_is_not_full_is_not_taken(model):
    batches = Batches(IMAGES, model, batch_size=8)
    assert [len(x) for (x,) in batches.take(64)] == [8, 8]
    assert [len(x) for (x,) in batches] == [8, 8, 5]


def test_less_data_than_a_batch_is_one_batch(model):
    assert [len(x) for (x,) in Batches(IMAGES[:1], model)] == [1]
    assert [len(x) for (x,) in Batches(IMAGES[:3], model).take(64)] == [3]


def test_whole_arrays_are_neither_copied_nor_converted_at_once(model):
    large = np.lib.stride_tricks.as_strided(
        np.zeros((4, 4, 3), "uint8"), (10**9, 4, 4, 3), (0, 12, 3, 1)
    )
    (first,) = next(iter(Batches(large, model)))
    assert first.shape == (32, 4, 4, 3)
    assert first.dtype == "float32"


def test_bytes_become_numbers_not_fractions(model):
    images = np.arange(48, dtype="uint8").reshape(1, 4, 4, 3) + 200
    ((x,),) = Batches(images, model)
    np.testing.assert_array_equal(x, images.astype("float32"))


def test_an_input_of_integers_gets_integers():
    words = keras.Input((5,), dtype="int32")
    model = keras.Model(words, layers.Embedding(10, 3)(words))
    ((x,),) = Batches(np.arange(10).reshape(2, 5), model)
    assert x.dtype == "int32"


def test_shuffling_keeps_the_images_and_changes_their_order(model):
    batches = Batches(IMAGES, model, 8).shuffled(np.random.default_rng(0))
    one, two = (np.concatenate([x for (x,) in batches]) for _ in range(2))
    assert not np.array_equal(one, IMAGES)
    assert not np.array_equal(one, two)
    for shuffled in (one, two):
        np.testing.assert_array_equal(np.sort(shuffled, 0), np.sort(IMAGES, 0))


def test_shuffling_keeps_the_inputs_of_an_example_together(two_inputs):
    x = np.arange(60.0).reshape(20, 3)
    data = ((x, -x), np.zeros(20))
    for one, two in Batches(data, two_inputs, 8).shuffled(np.random.default_rng(0)):
        np.testing.assert_array_equal(one, -two)


Z, A = np.zeros((5, 3), "float32"), np.ones((5, 3), "float32")


@pytest.mark.parametrize(
    "data",
    [
        [Z, A],
        {"a": A, "z": Z},
        {"z": Z, "a": A, "label": LABELS[:5]},
        ({"a": A, "z": Z}, LABELS[:5]),
        ([Z, A], LABELS[:5]),
        ((Z, A), LABELS[:5]),
        [{"a": A, "z": Z}],
        [((Z, A), LABELS[:5])],
        tf.data.Dataset.from_tensor_slices({"a": A, "z": Z}).batch(2),
        tf.data.Dataset.from_tensor_slices(((Z, A), LABELS[:5])).batch(2),
    ],
    ids=lambda data: type(data).__name__,
)
def test_several_inputs_come_in_the_order_of_the_model(data, two_inputs):
    for z, a in Batches(data, two_inputs):
        assert (z == 0).all()
        assert (a == 1).all()


def test_inputs_by_name_come_by_the_names_of_the_structure(named_inputs):
    data = {"z": np.zeros((5, 3)), "a": np.ones((5, 2)), "extra": np.ones(5)}
    (batch,) = Batches(data, named_inputs)
    for array, tensor in zip(batch, named_inputs.inputs, strict=True):
        assert array.shape[1:] == tensor.shape[1:]


def assert_rejected(data, model, match):
    with pytest.raises(ValueError, match=match):
        list(Batches(data, model))


@pytest.mark.parametrize(
    "data", [[], np.zeros((0, 4, 4, 3)), iter([]), dataset().take(0)]
)
def test_no_data_is_an_error(data, model):
    assert_rejected(data, model, "at least one batch")


@pytest.mark.parametrize("data", [None, 5, 0.5, object(), np.mean])
def test_what_is_no_data_is_an_error_that_says_what_is(data, model):
    assert_rejected(data, model, "Expected `data` to be arrays.*Received: data=")


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((5, 4, 4)),
        np.zeros((5, 4, 5, 3)),
        np.zeros((5, 3, 4, 4)),
        np.zeros(5),
        (IMAGES[:, :3], LABELS),
        dataset(IMAGES[..., :1]).batch(2),
    ],
)
def test_a_wrong_shape_is_an_error_that_says_both(data, model):
    assert_rejected(
        data, model, r"of shape \(None, 4, 4, 3\).*Received: a batch of shape \("
    )


def test_too_few_inputs_are_an_error(two_inputs):
    assert_rejected(Z, two_inputs, r"Received: a batch of shape \(5, 3\)")
    assert_rejected({"z": Z}, two_inputs, r"\['z', 'a'\].*a dict with \['z'\]")


def test_inputs_of_different_length_are_an_error(two_inputs):
    assert_rejected(((Z, A[:4]), None), two_inputs, "as many examples for each")


@pytest.mark.parametrize("form", [dataset(IMAGES), dataset(), list(IMAGES)])
def test_unbatched_data_are_an_error_that_tells_to_batch(form, model):
    assert_rejected(form, model, r"looks unbatched: batch it.*dataset.batch\(32\)")


@pytest.mark.parametrize(
    "data", [dataset().batch(4).repeat(), Endless()], ids=["tf.data", "PyDataset"]
)
def test_endless_data_are_an_error_that_tells_to_limit_them(data, model):
    assert_rejected(data, model, r"to be finite.*dataset.take\(n\)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite_are_an_error(value, model):
    images = IMAGES.copy()
    images[20, 1, 2, 0] = value
    assert_rejected(images, model, "NaN or infinite values")
    assert_rejected(iter(np.split(images, 7)), model, "NaN or infinite values")


def test_the_first_batch_is_checked_at_once(model):
    images = IMAGES.copy()
    images[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        Batches(images, model)


def test_a_dataset_is_read_one_batch_at_a_time(model):
    alive = []

    def stream():
        for _ in range(50):
            alive.append(1)
            yield IMAGES

    class Stream:
        def __iter__(self):
            return stream()

    batches = iter(Batches(Stream(), model, batch_size=21))
    alive.clear()
    next(batches)
    assert len(alive) == 1
    assert sum(1 for _ in itertools.islice(batches, 9)) == 9
    assert len(alive) == 10


# --- Forms that are nearly data ------------------------------------------------------


class Series:
    """As a pandas Series: an array by its values, no list of batches."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape = self.values.shape

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        return self.values[index]


class Flow(Sequence):
    """A `PyDataset` that is an endless iterator as well."""

    def __iter__(self):
        return self

    def __next__(self):
        raise AssertionError("its length counts, not its iterator")


class ByNumber:
    """Nothing but a length and items, which go round."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return np.split(IMAGES, 3)[index % 3]


class EndlessLoader(ByNumber):
    def __iter__(self):
        return itertools.cycle(np.split(IMAGES, 3))


class OneIterator:
    """An iterable that hands out the same iterator each time."""

    def __init__(self):
        self.iterator = iter(np.split(IMAGES, 3))

    def __iter__(self):
        return self.iterator


MORE_FORMS = {
    "nested lists": lambda: IMAGES.tolist(),
    "nested lists and a list of labels": lambda: (IMAGES.tolist(), LABELS.tolist()),
    "x and a list of labels": lambda: (IMAGES, LABELS.tolist()),
    "x and a series": lambda: (IMAGES, Series(LABELS)),
    "array-like": lambda: Series(IMAGES),
    "batches with lists of labels": lambda: [(x, y.tolist()) for x, y in in_batches()],
    "flow": Flow,
    "by number": ByNumber,
    "endless loader with a length": EndlessLoader,
    "one iterator": OneIterator,
}


@pytest.mark.parametrize("form", MORE_FORMS)
def test_what_is_nearly_data_gives_the_same_images_as_often_as_asked(form, model):
    batches = Batches(MORE_FORMS[form](), model, batch_size=8)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([x for (x,) in batches]), IMAGES)


@pytest.mark.parametrize("form", MORE_FORMS)
def test_labels_come_along_whatever_their_form(form, model):
    data = MORE_FORMS[form]()
    if not isinstance(data, tuple | list | Flow) or isinstance(data[0], list):
        return
    labelled = LabelledBatches(data, average_of(model))
    labels = np.concatenate([targets[0] for _, targets in labelled.pairs()])
    np.testing.assert_array_equal(labels, LABELS)


def average_of(model):
    x = layers.GlobalAveragePooling2D()(model.output)
    return keras.Model(model.input, x)


def endless(batch):
    """The batch again and again, and no more often than it should be asked for."""
    for _ in range(1500):
        yield batch
    raise AssertionError("1500 batches were read of data without an end")


class WithoutEnd:
    def __iter__(self):
        return endless(IMAGES[:1])


@pytest.mark.parametrize(
    "data",
    [
        endless(IMAGES[:1]),
        WithoutEnd(),
        tf.data.Dataset.from_generator(
            lambda: endless(IMAGES[:1]),
            output_signature=tf.TensorSpec((None, 4, 4, 3)),
        ),
    ],
    ids=["generator", "iterable", "tf.data"],
)
def test_data_that_never_end_are_an_error_before_thousands_are_read(data, model):
    assert_rejected(data, model, "Expected `data` to be finite.*1024|1025 batches")


def test_an_iterator_of_large_batches_is_an_error_before_memory_is_full(model):
    image = np.lib.stride_tricks.as_strided(
        np.zeros((4, 4, 3), "float32"), (10**7, 4, 4, 3), (0, 48, 12, 4)
    )
    read = []
    batches = (read.append(1) or image for _ in range(100))
    assert_rejected(batches, model, "short enough to be kept in memory")
    assert len(read) < 5


def test_the_end_is_looked_for_once(model):
    passes = []

    class Counted:
        def __iter__(self):
            passes.append(1)
            yield from np.split(IMAGES, 3)

    batches = Batches(Counted(), model, batch_size=7)
    for _ in range(3):
        batches.check_ends()
    assert len(passes) == 1 + 1


def test_data_that_run_dry_are_an_error_that_says_so(model):
    class RunsDry:
        reads = 0

        def __iter__(self):
            self.reads += 1
            yield from np.split(IMAGES, 3) if self.reads < 4 else []

    batches = Batches(RunsDry(), model)
    list(batches)
    with pytest.raises(ValueError, match="`data` to give its batches as often"):
        for _ in range(3):
            list(batches)


@pytest.mark.parametrize(
    "data",
    ["images/train", pathlib.Path("images/train"), ["images/train/0.png"]],
    ids=["name", "path", "list"],
)
def test_the_name_of_a_folder_is_an_error_that_says_how_to_read_one(data, model):
    assert_rejected(data, model, "images/train.*image_dataset_from_directory")


def test_single_images_of_another_size_are_said_to_be_both(model):
    data = dataset(np.zeros((5, 7, 6, 3), "float32"))
    assert_rejected(data, model, r"\(None, 4, 4, 3\).*\(7, 6, 3\).*looks unbatched")


@pytest.mark.parametrize("batched", [False, True])
def test_a_dict_without_the_input_is_an_error_that_says_how_to_map_it(batched, model):
    data = dataset({"image": IMAGES, "label": LABELS})
    data = data.batch(4) if batched else data
    assert_rejected(data, model, r"\['image', 'label'\].*\(x, y\).*as_supervised=True")


@pytest.mark.parametrize(
    "data, match",
    [
        (IMAGES.astype("complex64"), "real numbers.*complex64"),
        (IMAGES.astype(object), "real numbers.*object"),
        (IMAGES.astype(str), "real numbers.*<U"),
        (IMAGES.astype("float64") * 1e300, "NaN or infinite"),
        ([[1.0, 2.0], [1.0]], "nested lists"),
        ([(IMAGES,) * 5], r"Received: a tuple of 5"),
    ],
    ids=["complex", "objects", "strings", "too large", "ragged", "five parts"],
)
def test_what_is_no_number_is_an_error(data, match, model):
    assert_rejected(data, model, match)


@pytest.mark.parametrize(
    "value, match", [(np.nan, "NaN or infinite"), (2.0**40, "of dtype int32")]
)
def test_an_input_of_integers_does_not_get_what_is_none(value, match):
    words = keras.Input((5,), dtype="int32")
    model = keras.Model(words, layers.Embedding(10, 3)(words))
    numbers = np.arange(10.0).reshape(2, 5)
    numbers[1, 2] = value
    assert_rejected(numbers, model, match)


def test_images_without_a_channel_axis_get_one():
    picture = keras.Input((4, 4, 1))
    model = keras.Model(picture, layers.Conv2D(2, 3)(picture))
    ((x,),) = Batches(IMAGES[..., 0], model)
    np.testing.assert_array_equal(x, IMAGES[..., :1])


def test_a_fixed_batch_size_is_kept_and_the_rest_left_out():
    picture = keras.Input(batch_shape=(8, 4, 4, 3))
    model = keras.Model(picture, layers.Conv2D(2, 3)(picture))
    batches = Batches(IMAGES, model, batch_size=5)
    for some in (batches, batches.of_size(3), Batches(in_batches(), model)):
        assert [len(x) for (x,) in some] == [8, 8]
    assert [len(x) for (x,) in batches.take(9)] == [8, 8]
    assert_rejected(IMAGES[:7], model, "at least one batch of 8 examples")


@pytest.mark.parametrize(
    "weights, match",
    [
        (-np.ones(21), "at least 0.*-1"),
        (np.ones(20), "sample weights"),
        (np.nan, "at least 0"),
    ],
)
def test_sample_weights_that_do_not_fit_are_an_error(weights, match, model):
    weights = np.full(21, weights) if np.isscalar(weights) else weights
    with pytest.raises(ValueError, match=match):
        LabelledBatches((IMAGES, LABELS, weights), average_of(model))
