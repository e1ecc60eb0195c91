"""Edge-popup: random weights whose mask is learned."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_greedy.datasets import digits
from keras_greedy.lottery import PopupConv2D, PopupDense, PopupNeurons

X = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")

LAYERS = {
    "dense": (lambda **o: PopupDense(5, **o), (6,)),
    "neurons": (lambda **o: PopupNeurons(4, **o), (6,)),
    "convolution": (lambda **o: PopupConv2D(5, (3, 3), **o), (6, 6, 2)),
}


def built(name, **options):
    make, shape = LAYERS[name]
    layer = make(**options)
    layer.build((None, *shape))
    return layer, np.random.default_rng(1).normal(size=(3, *shape)).astype("float32")


def mask_of(layer):
    return ops.convert_to_numpy(layer.mask)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("name", LAYERS)
def test_the_weights_of_the_highest_scores_are_left(name, share):
    layer, _ = built(name, share=share)
    mask, scores = mask_of(layer), layer.scores.numpy()
    assert mask.sum() == max(1, round(share * mask.size))
    assert scores[mask].min() >= scores[~mask].max(initial=-np.inf)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_its_masked_kernel_does(name):
    layer, x = built(name)
    masked, _ = built(name, share=1.0)
    masked.kernel.assign(layer.kernel.numpy() * mask_of(layer))
    np.testing.assert_allclose(layer(x), masked(x), rtol=1e-5, atol=1e-6)


def test_a_score_gets_the_gradient_of_its_weight_being_there():
    """d loss / d score = d loss / d (weight * mask) * weight, if masked as well."""
    layer, x = built("dense")
    tf = pytest.importorskip("tensorflow")
    target = np.random.default_rng(2).normal(size=(3, 5)).astype("float32")
    with tf.GradientTape() as tape:
        loss = ops.sum(ops.square(layer(x) - target))
    found = tape.gradient(loss, layer.scores.value)
    masked = layer.kernel.numpy() * mask_of(layer)
    of_kernel = x.T @ (2 * (x @ masked - target))
    np.testing.assert_allclose(found, of_kernel * layer.kernel.numpy(), rtol=1e-4)


def test_training_changes_the_mask_and_no_random_weight():
    (x, y), (x_test, y_test) = digits(8)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            PopupDense(256, name="hidden"),
            layers.ReLU(),
            PopupDense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    hidden = model.get_layer("hidden")
    kernel, mask = hidden.kernel.numpy().copy(), mask_of(hidden)
    assert model.evaluate(x_test, y_test, verbose=0)[1] < 0.4
    model.fit(x, y, epochs=5, verbose=0)
    assert model.evaluate(x_test, y_test, verbose=0)[1] > 0.85
    np.testing.assert_array_equal(hidden.kernel.numpy(), kernel)
    assert (mask_of(hidden) != mask).any()
    assert [w.name for w in hidden.trainable_weights] == ["scores"]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_saves_and_loads(name, tmp_path):
    layer, x = built(name, share=0.3, kernel_initializer="orthogonal")
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))
    assert loaded.layers[0].get_config() == layer.get_config()


@pytest.mark.parametrize("dtype", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_connections_are_0_or_1_whatever_the_scores(dtype):
    layer = PopupDense(8, dtype=dtype)
    layer.build((None, 6))
    layer.scores.assign(1000 * layer.scores.numpy())
    connections = ops.convert_to_numpy(ops.cast(layer.connections, "float32"))
    np.testing.assert_array_equal(connections, mask_of(layer))


def test_convolutions_take_integers_as_keras_does():
    layer = PopupConv2D(3, 3, strides=2, dilation_rate=1)
    assert layer(np.zeros((1, 7, 7, 2), "float32")).shape == (1, 3, 3, 3)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, "many"])
def test_sizes_are_positive_integers(size):
    for make in (PopupDense, PopupNeurons, lambda n: PopupConv2D(n, 3)):
        with pytest.raises(ValueError, match="to be a positive integer"):
            make(size)


@pytest.mark.parametrize("share", [0, -0.5, 1.5, "half"])
def test_a_share_is_above_0_and_at_most_1(share):
    with pytest.raises(ValueError, match="`share`"):
        PopupDense(3, share=share)
