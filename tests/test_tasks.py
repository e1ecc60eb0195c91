"""Models with a preprocessor of their own, as KerasHub's tasks: data are raw."""

import keras
import numpy as np
import pytest
from keras import layers
from models import outputs_of, randomize

import keras_greedy

SIZE = 8


class Task(keras.Model):
    """A model as KerasHub's are: what it is fitted to is preprocessed, by itself."""

    preprocessor = None

    def preprocess_samples(self, x, y=None, sample_weight=None):
        x = self.preprocessor(x)
        return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)

    def predict(self, x, **kwargs):
        return super().predict(self.preprocess_samples(x), **kwargs)


def task(preprocess):
    x = picture = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(24, 3, activation="relu", name="a")(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, name="b")(x))
    model = randomize(Task(picture, layers.Dense(4, "softmax", name="classes")(x)))
    model.preprocessor = preprocess
    return model


def scaled(x):
    return np.asarray(x, "float32") / [127.5, 120, 110] - [1, 0.9, 0.8]


def sharpened(x):
    return (np.asarray(x, "float32") / 255) ** 2


def raw_images(count=160, dtype="uint8"):
    return (
        np.random.default_rng(0).integers(0, 255, (count, SIZE, SIZE, 3)).astype(dtype)
    )


def test_a_compact_task_scales_images_itself():
    model, x = task(scaled), raw_images()
    with pytest.warns(UserWarning, match="it takes images .* of the size 8 x 8 x 3"):
        compact = keras_greedy.prune(model, x, 1.0, verbose=0)
    assert isinstance(compact.layers[1], layers.Rescaling)
    np.testing.assert_allclose(compact.predict(x), model.predict(x), atol=1e-4)


def test_any_other_preprocessor_is_left_out_and_the_user_is_told():
    model, x = task(sharpened), raw_images()
    with pytest.warns(UserWarning, match=r"takes what the preprocessor gives"):
        compact = keras_greedy.prune(model, x, 1.0, verbose=0)
    np.testing.assert_allclose(
        compact.predict(sharpened(x)), model.predict(x), atol=1e-4
    )


@pytest.mark.filterwarnings("ignore:The data go through the preprocessor")
@pytest.mark.parametrize("preprocess", [scaled, sharpened])
def test_all_forms_of_raw_data_give_the_model_of_preprocessed_ones(
    preprocess, tmp_path
):
    model, x = task(preprocess), raw_images()
    network = keras.Model(model.input, model.output)
    expected = keras_greedy.prune(network, preprocess(x), 0.6, verbose=0)
    (expected,) = outputs_of(expected, preprocess(x))
    own = x if preprocess is scaled else preprocess(x)
    paths = keras_greedy.search(model, (x, np.zeros(len(x))), verbose=0)
    paths.save(tmp_path / "paths.npz")
    loaded = keras_greedy.load_paths(tmp_path / "paths.npz", model)
    for compact in (
        keras_greedy.prune(model, [x[:96], x[96:]], 0.6, verbose=0),
        paths.compact(0.6),
        loaded.compact(0.6, data=iter([x])),
    ):
        (found,) = outputs_of(compact, own.astype("float32"))
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore:The data go through the preprocessor")
def test_fine_tuning_takes_the_raw_data_of_the_task():
    model, x = task(scaled), raw_images()
    y = model.predict(x, verbose=0).argmax(axis=-1)
    model.compile("adam", "sparse_categorical_crossentropy")
    tuned = keras_greedy.FineTune(epochs=1)
    compact = keras_greedy.prune(
        model, (x, y), 0.6, finetune=tuned, validation_data=(x, y), verbose=0
    )
    assert compact.compiled and keras_greedy.macs(compact) < keras_greedy.macs(model)
