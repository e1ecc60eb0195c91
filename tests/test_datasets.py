"""Examples of folders, files, data sets by name, and what pictures are made into."""

import functools
import sys

import keras
import numpy as np
import pytest

from keras_greedy import datasets
from keras_greedy.datasets import from_arrays, from_folder, from_tfds, load, preprocess

PICTURES = {"image": (8, 8, 3)}


def save_picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    keras.utils.save_img(path, pixels, scale=False)


def plain(value, size=(12, 16)):
    return np.full((*size, 3), value, "uint8")


@pytest.fixture
def folder(tmp_path):
    """Two classes of pictures, the brightness of each of which is its number."""
    for number in range(6):
        save_picture(tmp_path / "cats" / f"{number}.png", plain(number))
    for number in range(10, 14):
        save_picture(tmp_path / "dogs" / "more" / f"{number}.PNG", plain(number))
    (tmp_path / "dogs" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


# --- folders


def test_each_folder_inside_is_a_class_in_the_order_of_their_names(folder):
    examples = from_folder(folder, (8, 8))
    assert examples.class_names == ("cats", "dogs")
    assert examples.x.shape == (10, 8, 8, 3)
    np.testing.assert_array_equal(examples.y, examples.x[:, 0, 0, 0] >= 10)


def test_names_that_are_numbers_are_the_labels(tmp_path):
    for label in (2, 10):
        save_picture(tmp_path / str(label) / "one.png", plain(label))
    examples = from_folder(tmp_path, (8, 8))
    np.testing.assert_array_equal(examples.y, examples.x[:, 0, 0, 0])


def test_pictures_without_folders_have_no_labels(tmp_path):
    save_picture(tmp_path / "one.jpg", plain(0))
    examples = from_folder(tmp_path, (8, 8))
    assert len(examples) == 1 and examples.y is None
    assert examples.data is examples.x


def test_the_order_is_mixed_and_the_same_each_time(folder):
    whole = from_folder(folder, (8, 8))
    again = from_folder(folder, (8, 8))
    np.testing.assert_array_equal(whole.x, again.x)
    assert len(set(whole.y[:6])) == 2
    other = from_folder(folder, (8, 8), seed=1)
    assert not np.array_equal(whole.x, other.x)


def test_count_and_skip_take_a_part_of_that_order(folder):
    whole = from_folder(folder, (8, 8))
    first = from_folder(folder, (8, 8), count=4)
    rest = from_folder(folder, (8, 8), skip=4)
    np.testing.assert_array_equal(whole.x, np.concatenate([first.x, rest.x]))
    np.testing.assert_array_equal(whole.y, np.concatenate([first.y, rest.y]))


def test_the_middle_of_a_wide_picture_is_read_and_not_squeezed(tmp_path):
    pixels = plain(0, (8, 24))
    pixels[:, 8:16] = 200
    save_picture(tmp_path / "wide.png", pixels)
    assert (from_folder(tmp_path, (8, 8)).x == 200).all()


def test_there_may_be_none_left(folder):
    assert len(from_folder(folder, (8, 8), skip=10)) == 0


def test_channels_are_those_that_the_model_takes(tmp_path):
    keras.utils.save_img(tmp_path / "grey.png", np.full((9, 9, 1), 7), scale=False)
    assert (from_folder(tmp_path, (9, 9), channels=3).x == 7).all()
    assert from_folder(tmp_path, (9, 9), channels=1).x.shape == (1, 9, 9, 1)
    with pytest.raises(ValueError, match=r"Expected `channels`.*channels=2"):
        from_folder(tmp_path, (9, 9), channels=2)


def test_a_picture_that_is_none_is_named(folder):
    (folder / "cats" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"Received: .*broken\.jpg"):
        from_folder(folder, (8, 8))


def test_a_picture_that_is_cut_off_is_named(folder):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    path = folder / "cats" / "cut.jpg"
    save_picture(path, noise)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"Received: .*cut\.jpg"):
        from_folder(folder, (8, 8))


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        from_folder(tmp_path / "nowhere", (8, 8))
    with pytest.raises(ValueError, match=r"\.jpeg.* with none"):
        from_folder(tmp_path, (8, 8))


# --- arrays


def test_a_file_of_x_and_y_gives_both(tmp_path):
    path = tmp_path / "examples.npz"
    np.savez(path, x=np.ones((3, 4)), y=np.arange(3))
    x, y = from_arrays(path).data
    assert x.shape == (3, 4) and list(y) == [0, 1, 2]


def test_a_file_of_one_array_is_the_inputs(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((3, 4)))
    assert from_arrays(tmp_path / "x.npy").data.shape == (3, 4)


def test_several_inputs_are_by_their_names(tmp_path):
    path = tmp_path / "examples.npz"
    np.savez(path, left=np.ones((3, 4)), right=np.zeros((3, 2)))
    examples = from_arrays(path, ["left", "right"])
    assert len(examples) == 3
    assert {name: part.shape for name, part in examples.part(1, None).x.items()} == {
        "left": (2, 4),
        "right": (2, 2),
    }
    with pytest.raises(ValueError, match=r"arrays `x` and `y`.*\['left', 'right'\]"):
        from_arrays(path)


@pytest.mark.parametrize("arrays", [{"x": np.ones(3), "y": np.ones(2)}, {"x": []}])
def test_arrays_of_unlike_length_or_none_are_refused(arrays, tmp_path):
    np.savez(tmp_path / "examples.npz", **arrays)
    with pytest.raises(ValueError, match="not of as many examples"):
        from_arrays(tmp_path / "examples.npz")


@pytest.mark.parametrize("name", ["text.npz", "text.npy"])
def test_a_file_that_is_none_of_arrays_is_refused(name, tmp_path):
    (tmp_path / name).write_text("text")
    with pytest.raises(ValueError, match=r"Expected `path`.*text\.np"):
        from_arrays(tmp_path / name)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "objects.npz", x=np.array([{}, {}]))
    with pytest.raises(ValueError, match="no array of numbers"):
        from_arrays(tmp_path / "objects.npz")


# --- preprocessing


@pytest.mark.parametrize(
    ("preprocessing", "darkest", "brightest"),
    [("none", 0, 255), ("unit", 0, 1), ("mobilenet_v2", -1, 1), ("resnet_v2", -1, 1)],
)
def test_pictures_are_scaled_as_the_family_has_them(preprocessing, darkest, brightest):
    images = np.stack([plain(0), plain(255)])
    made = preprocess(images, preprocessing)
    assert made.dtype == "float32"
    assert (made.min(), made.max()) == (darkest, brightest)
    assert images.max() == 255  # What was given stays.


@pytest.mark.parametrize("family", datasets.preprocessing.FAMILIES)
def test_all_families_are_those_of_keras(family):
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3))
    own = getattr(keras.applications, family).preprocess_input
    np.testing.assert_array_equal(
        preprocess(images, family), own(images.astype("float32"))
    )


def test_an_unknown_preprocessing_is_refused():
    with pytest.raises(ValueError, match=r"Expected `preprocessing`.*'mobilenet_v9'"):
        preprocess(plain(0)[None], "mobilenet_v9")


APPLICATIONS = {
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "none",
    "EfficientNetB0": "none",
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
    "VGG16": "vgg16",
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_models_of_keras_tell_their_preprocessing(name):
    model = getattr(keras.applications, name)(
        input_shape=(64, 64, 3), weights=None, include_top=False
    )
    assert datasets.guess_preprocessing(model) == APPLICATIONS[name]


def test_other_models_tell_it_by_a_layer_that_scales_or_not_at_all():
    inside = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(2, 3)]
    scaled = keras.Sequential([keras.Input((8, 8, 3)), *inside])
    assert datasets.guess_preprocessing(scaled) == "none"
    plain_model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    assert datasets.guess_preprocessing(plain_model) is None


# --- any source


def test_a_source_may_be_a_folder(folder):
    examples = load(folder, PICTURES, "unit", count=4)
    assert examples.x.shape == (4, 8, 8, 3) and examples.x.max() <= 13 / 255
    assert len(examples.y) == 4


def test_the_order_of_a_folder_follows_the_seed(folder):
    first, second = (load(folder, PICTURES, "none", seed=seed) for seed in (0, 1))
    assert not np.array_equal(first.x, second.x)


def test_a_source_may_be_a_file_of_arrays(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12).reshape(6, 2))
    examples = load(tmp_path / "x.npy", {"x": (2,)}, count=2, skip=3)
    assert examples.x.tolist() == [[6, 7], [8, 9]]


def test_a_source_may_be_the_digits():
    train = load("digits", {"image": (16, 16, 3)})
    test = load("digits:test", {"image": (16, 16, 3)}, count=10)
    assert train.x.shape == (1437, 16, 16, 3)
    assert test.x.shape == (10, 16, 16, 3)
    assert train.x.max() == 1


def test_pictures_need_a_preprocessing(folder):
    with pytest.raises(ValueError, match=r"Expected `preprocessing` to say.*'unit'"):
        load(folder, PICTURES)


@pytest.mark.parametrize("shape", [(None, None, 3), (10,)])
def test_pictures_need_a_model_of_a_known_size(folder, shape):
    with pytest.raises(ValueError, match="Expected a model with one input of pictures"):
        load(folder, {"image": shape}, "unit")


@pytest.mark.parametrize("source", ["nowhere", "digits:many", "tfds:", "nowhere.txt"])
def test_an_unknown_source_is_refused(source):
    with pytest.raises(FileNotFoundError, match="Expected `source` to be a folder"):
        load(source, PICTURES, "unit")


# --- TensorFlow Datasets


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_greedy\[datasets\]'"):
        from_tfds("beans")


def dataset_of(elements):
    """What `tfds.load` gives for these elements."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(elements)


PIXELS = np.random.default_rng(0).integers(0, 255, (6, 10, 12, 3), "uint8")


def test_dictionaries_and_pairs_give_the_same():
    dictionaries = dataset_of({"image": PIXELS, "label": np.arange(6), "id": range(6)})
    pairs = dataset_of((PIXELS, np.arange(6)))
    first = from_tfds(dictionaries, size=(8, 8), count=3, skip=2)
    second = from_tfds(pairs, size=(8, 8), count=3, skip=2)
    assert first.x.shape == (3, 8, 8, 3)
    np.testing.assert_array_equal(first.x, second.x)
    assert list(first.y) == list(second.y) == [2, 3, 4]


def test_examples_without_labels_have_none():
    assert from_tfds(dataset_of({"image": PIXELS})).y is None
    assert from_tfds(dataset_of(PIXELS)).y is None


def test_other_keys_are_told_or_refused():
    features = dataset_of({"features": np.ones((4, 5)), "target": np.arange(4)})
    examples = from_tfds(features, keys=("features", "target"))
    assert examples.x.shape == (4, 5) and len(examples.y) == 4
    with pytest.raises(ValueError, match=r"'image'.*\['features', 'target'\]"):
        from_tfds(features)


def test_none_may_be_left_but_not_from_the_start():
    assert from_tfds(dataset_of(PIXELS), size=(8, 8), skip=9).x.shape == (0, 8, 8, 3)
    with pytest.raises(ValueError, match="Expected `dataset` to hold examples"):
        from_tfds(dataset_of(PIXELS).take(0))


@pytest.fixture(scope="module")
def tfds():
    return pytest.importorskip("tensorflow_datasets")


@pytest.fixture(scope="module")
def built(tfds, tmp_path_factory):
    """The name of a small data set of the package's own kind, built in a folder."""

    class SmallPets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(None, None, 3)),
                "kind": tfds.features.ClassLabel(names=["cat", "dog"]),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("picture", "kind"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6)}

        def _generate_examples(self, count=6):
            for number in range(count):
                yield number, {"picture": PIXELS[number], "kind": number % 2}

    folder = tmp_path_factory.mktemp("tfds")
    SmallPets(data_dir=folder).download_and_prepare()
    load_there = functools.partial(tfds.load, data_dir=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tfds, "load", load_there)
        yield "small_pets"


@pytest.mark.filterwarnings("default")
def test_a_data_set_of_a_builder_is_loaded_by_its_name(built):
    examples = from_tfds(built, size=(8, 8))
    assert examples.class_names == ("cat", "dog")
    assert examples.x.shape == (6, 8, 8, 3)
    source = load(f"tfds:{built}:train[:50%]", PICTURES, "unit")
    assert len(source) == 3 and source.x.max() <= 1


@pytest.mark.filterwarnings("default")
def test_a_split_or_a_name_that_is_not_there_is_refused(built, tfds):
    with pytest.raises(ValueError, match="Unknown split"):
        from_tfds(built, "testing")
    with pytest.raises(
        ValueError, match=r"^Expected `dataset`.*nothing_of_that_name'$"
    ):
        from_tfds("nothing_of_that_name")


@pytest.mark.filterwarnings("default")
def test_a_data_set_of_the_catalogue_is_loaded_by_its_name(tfds):
    with tfds.testing.mock_data(num_examples=5):
        examples = load("tfds:cifar10:test", PICTURES, "mobilenet_v2", count=4)
    assert examples.x.shape == (4, 8, 8, 3)
    assert examples.y.shape == (4,)
