"""Where a file and its model part ways."""

import keras
import numpy as np
import pytest
from exported import images, mobile_block, randomize

import tflite_export
from tflite_export.layers import LayerError

layers = keras.layers


def chain():
    """Four dense layers, none of which conversion can merge."""
    x = image = keras.Input((6,))
    for index in range(4):
        x = layers.Dense(5, activation="tanh", name=f"dense_{index}")(x)
    return randomize(keras.Model(image, x))


def sample(count=1, size=6):
    return np.random.default_rng(0).normal(size=(count, size)).astype("float32")


def with_other_weights(model, name):
    changed = keras.models.clone_model(model)
    changed.set_weights(model.get_weights())
    layer = changed.get_layer(name)
    layer.set_weights([weight + 0.3 for weight in layer.get_weights()])
    return changed


def test_a_good_file_has_no_divergence(tmp_path):
    model = mobile_block()
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    errors = tflite_export.compare_layers(model, path, images(1))
    assert len(errors) > 8
    assert max(each.relative_error for each in errors) < 1e-5
    assert tflite_export.first_divergence(errors) is None


@pytest.mark.parametrize("name", [f"dense_{index}" for index in range(4)])
def test_the_first_divergence_is_the_layer_whose_weights_differ(name, tmp_path):
    model = chain()
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    other = with_other_weights(model, name)
    assert not tflite_export.verify(other, path, sample()).ok()
    errors = tflite_export.compare_layers(other, path, sample())
    assert tflite_export.first_divergence(errors).layer == name
    assert [each.layer for each in errors] == [f"dense_{index}" for index in range(4)]


@pytest.mark.parametrize("mode", ["dynamic", "int8", "int8_full"])
def test_layers_of_quantized_files_are_compared_in_the_units_of_the_model(
    mode, tmp_path
):
    model = chain()
    data = {"representative_data": sample(64)} if mode != "dynamic" else {}
    path = tflite_export.convert(model, tmp_path / "m.tflite", mode, **data)
    errors = tflite_export.compare_layers(model, path, sample())
    assert len(errors) == 4
    assert 0 < max(each.relative_error for each in errors) < 0.05
    other = with_other_weights(model, "dense_2")
    errors = tflite_export.compare_layers(other, path, sample())
    assert tflite_export.first_divergence(errors, tolerance=0.05).layer == "dense_2"


def test_named_outputs_and_sequential_models_are_compared(tmp_path):
    x = keras.Input((6,))
    hidden = layers.Dense(4, activation="relu", name="hidden")(x)
    tanh = layers.Dense(3, activation="tanh", name="last")(hidden)
    named = randomize(keras.Model(x, {"t": tanh, "h": hidden}))
    sequential = keras.Sequential([keras.Input((6,)), *named.layers[1:]])
    for model in (named, sequential):
        path = tflite_export.convert(model, tmp_path / "m.tflite")
        errors = tflite_export.compare_layers(model, path, sample())
        assert {each.layer for each in errors} == {"hidden", "last"}
        assert tflite_export.first_divergence(errors, 1e-5) is None


def test_layers_of_a_model_with_two_inputs_are_compared(tmp_path):
    a, b = keras.Input((4,), name="z"), keras.Input((3,), name="a")
    left = layers.Dense(2, activation="relu", name="left")(a)
    right = layers.Dense(2, activation="relu", name="right")(b)
    model = randomize(keras.Model([a, b], layers.Multiply(name="both")([left, right])))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    x = {"z": sample(size=4), "a": sample(size=3)}
    errors = tflite_export.compare_layers(model, path, x)
    assert {each.layer for each in errors} >= {"left", "right"}
    assert tflite_export.first_divergence(errors) is None
    errors = tflite_export.compare_layers(with_other_weights(model, "right"), path, x)
    assert tflite_export.first_divergence(errors).layer == "right"


def test_a_layer_called_twice_is_left_out(tmp_path):
    x = keras.Input((5,))
    twice = layers.Dense(5, activation="tanh", name="twice")
    y = layers.Dense(5, activation="tanh", name="between")(twice(x))
    model = randomize(keras.Model(x, layers.ReLU(name="last")(twice(y))))
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    errors = tflite_export.compare_layers(model, path, sample(size=5))
    assert {each.layer for each in errors} == {"between", "last"}
    assert tflite_export.first_divergence(errors, 1e-5) is None


def test_comparing_layers_leaves_the_model_as_it_was(tmp_path):
    model = chain()
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    before = model.get_weights()
    tflite_export.compare_layers(model, path, sample())
    np.testing.assert_equal(model.get_weights(), before)


def test_fixed_batches_are_compared_whole(tmp_path):
    model = chain()
    path = tflite_export.convert(model, tmp_path / "m.tflite", batch_size=3)
    for count in (2, 3, 5):
        errors = tflite_export.compare_layers(model, path, sample(count))
        assert tflite_export.first_divergence(errors, 1e-5) is None


def test_a_layer_error_says_where_and_how_much():
    error = LayerError("conv", "m/conv_1/Relu", 0.02, 4.0)
    assert error.relative_error == pytest.approx(0.005)
    assert str(error) == "conv: max |error| 0.02 of outputs up to 4 (0.50%)"
    assert np.isfinite(LayerError("dead", "m/dead/Relu", 0.0, 0.0).relative_error)
