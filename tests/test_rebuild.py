import inspect
import os
import pathlib
import subprocess
import sys

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import (
    TOPOLOGIES,
    UNPRUNABLE,
    assert_same,
    conv,
    head,
    image,
    inputs_of,
    outputs_of,
    random_selection,
    randomize,
)

from keras_greedy.graph.fold import folded
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.rules import RULES
from keras_greedy.graph.trace import trace, trace_quietly
from keras_greedy.testing import gated


def assert_compact_is_gated(model, share, tolerance=1e-4):
    graph = trace_quietly(model)
    selection = random_selection(graph, share)
    compact, x = rebuild(graph, selection), inputs_of(model)
    assert_same(compact, gated(graph, selection), x, tolerance)
    widths = {name: len(kept) for name, kept in selection.items()}
    # With one channel left, a grouped convolution is like any other.
    assert trace_quietly(compact).widths == widths or not share
    return compact


@pytest.mark.parametrize("share", [0.5, 0.0], ids=["half", "one channel"])
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_compact_model_computes_what_the_gated_one_does(name, share):
    assert_compact_is_gated(models.shared(name), share)


@pytest.mark.parametrize("name", UNPRUNABLE)
def test_compact_is_gated_around_layers_that_cannot_be_pruned(name):
    assert_compact_is_gated(models.shared(name), 0.5)


@pytest.mark.parametrize("name", [*TOPOLOGIES, *UNPRUNABLE])
def test_without_a_selection_the_model_is_copied(name):
    model = models.shared(name)
    graph, x = trace_quietly(model), inputs_of(model)
    assert_same(rebuild(graph, {}), model, x, 1e-6)
    assert_same(gated(graph, {}), model, x, 1e-6)


@pytest.mark.parametrize("name", [*TOPOLOGIES, *UNPRUNABLE])
def test_the_copy_with_batch_norm_folded_has_the_same_groups_and_outputs(name):
    model = models.shared(name)
    graph = trace_quietly(model)
    inference = folded(graph)
    assert_same(inference.functional, model, inputs_of(model))
    assert inference.widths == graph.widths


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_compact_is_gated_in_mixed_precision(name):
    model = randomize(models.mixed_precision(name))
    compact = assert_compact_is_gated(model, 0.5, tolerance=0.02)
    policies = [layer.dtype_policy.name for layer in model.layers]
    assert [layer.dtype_policy.name for layer in compact.layers] == policies


NORMS = {
    "trailing axes": lambda: layers.LayerNormalization(axis=[2, 3]),
    "axes apart": lambda: layers.LayerNormalization(axis=[1, 3]),
    "no gamma": lambda: layers.LayerNormalization(scale=False),
    "groups": lambda: layers.GroupNormalization(2, center=False),
    "root mean square": lambda: layers.RMSNormalization(),
    "unit": lambda: layers.UnitNormalization(),
}


@pytest.mark.parametrize("name", NORMS)
def test_a_normalisation_over_all_channels_is_the_layers_own(name):
    x, norm = inputs_of(models.around(layers.Identity())), NORMS[name]()
    x = np.repeat(x, 2, axis=-1)
    norm.build(x.shape)
    for weight in norm.weights:
        weight.assign(np.random.default_rng(0).uniform(0.2, 1.2, weight.shape))
    own, rule = norm(x), RULES[type(norm)]
    found = rule.over_kept(norm, ops.convert_to_tensor(x), np.ones(6, "float32"))
    np.testing.assert_allclose(found, own, rtol=1e-4, atol=1e-4)


def test_an_inner_model_of_any_width_may_be_called_on_several():
    inner = keras.Input((None, None, None))
    inner = keras.Model(inner, layers.ReLU()(layers.Rescaling(0.5)(inner)))
    picture = image()
    x = conv(inner(conv(picture, 8, name="a")), 5, name="c")
    x = x + conv(inner(conv(picture, 6, name="b")), 5, name="d")
    model = randomize(keras.Model(picture, head(x)))
    with pytest.warns(UserWarning, match="called more than once, on different widths"):
        assert list(trace(model).widths) == ["c"]
    assert_compact_is_gated(model, 0.5)


ACTIVATIONS = dict(inspect.getmembers(keras.activations, inspect.isfunction))
MIXING = {"softmax", "log_softmax", "sparsemax", "glu"}
NO_ACTIVATIONS = {"deserialize", "get", "serialize", "threshold"}
PER_CHANNEL = ACTIVATIONS.keys() - MIXING - NO_ACTIVATIONS


@pytest.mark.parametrize("name", sorted(PER_CHANNEL))
def test_compact_is_gated_behind_every_activation(name):
    function = ACTIVATIONS[name]
    x = features = keras.Input((4,))
    x = layers.BatchNormalization()(layers.Dense(6, function, name="a")(x))
    x = layers.Activation(function)(layers.Dense(6, name="b")(x))
    model = randomize(keras.Model(features, layers.Dense(3)(x)))
    assert trace(model).widths == {"a": 6, "b": 6}
    assert_compact_is_gated(model, 0.5)


FOLLOWERS = {
    "layer as activation": lambda: layers.Activation(layers.LeakyReLU(0.2)),
    "ReLU": lambda: layers.ReLU(4.0, negative_slope=0.1, threshold=0.2),
    "LeakyReLU": lambda: layers.LeakyReLU(0.2),
    "ELU": lambda: layers.ELU(0.7),
    "PReLU": layers.PReLU,
    "PReLU, positions shared": lambda: layers.PReLU(shared_axes=[1, 2]),
    "Identity": layers.Identity,
    "ActivityRegularization": lambda: layers.ActivityRegularization(0.1),
    "Dropout": lambda: layers.Dropout(0.2),
    "Dropout of maps": lambda: layers.Dropout(0.2, noise_shape=(None, 1, 1, None)),
    "SpatialDropout2D": lambda: layers.SpatialDropout2D(0.2),
    "GaussianDropout": lambda: layers.GaussianDropout(0.2),
    "GaussianNoise": lambda: layers.GaussianNoise(0.2),
    "AlphaDropout": lambda: layers.AlphaDropout(0.2),
    "MaxPooling2D": lambda: layers.MaxPooling2D(3, strides=2, padding="same"),
    "AveragePooling2D": lambda: layers.AveragePooling2D((2, 1)),
    "GlobalMaxPooling2D": lambda: layers.GlobalMaxPooling2D(keepdims=True),
    "GlobalAveragePooling2D": lambda: layers.GlobalAveragePooling2D(keepdims=True),
    "ZeroPadding2D": lambda: layers.ZeroPadding2D(((1, 0), (2, 1))),
    "Cropping2D": lambda: layers.Cropping2D(2),
    "UpSampling2D": lambda: layers.UpSampling2D(2),
    "Rescaling": lambda: layers.Rescaling(0.5, offset=-1.0),
    "Rescaling by channel": lambda: layers.Rescaling(0.5, np.arange(8.0)),
    "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, depth_multiplier=3),
    "BatchNormalization": lambda: layers.BatchNormalization(axis=3),
}


@pytest.mark.parametrize("name", FOLLOWERS)
def test_compact_is_gated_with_every_layer_that_follows_the_channels(name):
    model = randomize(models.around(FOLLOWERS[name]()))
    assert trace(model).widths == {"a": 8, "b": 6}
    assert_compact_is_gated(model, 0.5)


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV3Small",
        *map(slow, ("MobileNet", "MobileNetV2", "MobileNetV3Large")),
        *map(slow, ("ResNet50", "ResNet50V2", "VGG16")),
    ],
)
def test_compact_is_gated_for_keras_applications(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=10)
    assert_compact_is_gated(randomize(model), 0.5)


@models.saved_by_keras_3_13
def test_compact_is_gated_for_the_pretrained_cifar10_resnet56():
    here = pathlib.Path(__file__).parent
    data = os.environ.get("KERAS_GREEDY_DATA", here / "../../shared/data")
    path = pathlib.Path(data) / "cifar10_resnet56" / "resnet56_cifar10.keras"
    if not path.exists():
        pytest.skip(f"no {path}: set KERAS_GREEDY_DATA")
    assert_compact_is_gated(keras.models.load_model(path, compile=False), 0.7)


def test_a_sequential_gives_a_sequential():
    model = models.sequential()
    compact = rebuild(trace(model), {"a": [5, 2], "c": [0]})
    assert type(compact) is keras.Sequential
    assert (compact.name, compact.inputs[0].name) == ("plain", "picture")
    assert compact.get_layer("a").get_config()["filters"] == 2
    assert compact.get_layer("c").kernel.shape == (2 * 0 + 150, 1)


def test_a_functional_gives_a_plain_functional_of_the_same_structure():
    model = models.several_inputs_and_outputs()
    compact = rebuild(trace(model), {"u": [1, 3]})
    assert type(compact) is type(model)
    names = [layer.name for layer in model.layers]
    assert [layer.name for layer in compact.layers] == names
    assert compact.input.keys() == model.input.keys()
    assert [tensor.name for tensor in compact.inputs] == ["a", "b", "c"]
    output = compact(inputs_of(model))
    assert output.keys() == {"map", "label"} and len(output["map"]) == 2
    assert compact.output_names == model.output_names


def test_a_list_of_one_output_stays_a_list():
    picture = image()
    model = keras.Model([picture], [head(conv(picture, 8, name="a"))])
    compact = rebuild(trace(model), {"a": [1]})
    assert isinstance(compact.output, list) and isinstance(compact.input, list)


@pytest.mark.skipif(models.OLD_KERAS, reason="Keras 3.12 forgets it in the config")
def test_an_optional_input_stays_optional():
    a, b = image(name="a"), keras.Input((4,), name="b", optional=True)
    model = keras.Model([a, b], [head(conv(a, 8, name="c")), layers.Identity()(b)])
    compact = rebuild(trace(model), {"c": [1]})
    optional = [compact.get_layer(name).optional for name in ("a", "b")]
    assert optional == [False, True]


def test_the_order_of_the_selection_does_not_matter():
    model = randomize(models.sequential())
    graph, x = trace(model), inputs_of(model)
    first = rebuild(graph, {"a": [6, 0, 3], "c": (9, 2)})
    second = rebuild(graph, {"c": np.array([2, 9]), "a": [0, 3, 6]})
    assert_same(first, second, x, 0.0)


def test_kept_weights_are_those_of_the_model():
    model = randomize(models.sequential())
    compact = rebuild(trace(model), {"a": [6, 0], "b": [3]})
    kernel, bias = model.get_layer("a").get_weights()
    np.testing.assert_array_equal(compact.get_layer("a").kernel, kernel[..., [0, 6]])
    np.testing.assert_array_equal(compact.get_layer("a").bias, bias[[0, 6]])
    kernel = model.get_layer("b").get_weights()[0]
    cut = kernel[:, :, [0, 6]][..., [3]]
    np.testing.assert_array_equal(compact.get_layer("b").kernel, cut)
    kernel = model.get_layer("c").get_weights()[0].reshape(5, 5, 6, 10)
    cut = kernel[:, :, 3].reshape(25, 10)
    np.testing.assert_array_equal(compact.get_layer("c").kernel, cut)


def test_given_weights_take_the_place_of_the_models_own():
    model = randomize(models.sequential())
    graph, rng = trace(model), np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 3, 8, 6)), rng.normal(size=6)
    given = {"b": {"kernel": kernel, "bias": bias}, "a": {"bias": np.zeros(8)}}
    compact = rebuild(graph, {"a": [1, 2], "b": [4, 0]}, given)
    b = compact.get_layer("b")
    assert b.use_bias and not model.get_layer("b").use_bias
    np.testing.assert_allclose(b.kernel, kernel[:, :, [1, 2]][..., [0, 4]], rtol=1e-6)
    np.testing.assert_allclose(b.bias, bias[[0, 4]], rtol=1e-6)
    np.testing.assert_array_equal(compact.get_layer("a").bias, [0, 0])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"x": {"kernel": 1}}, r"Received: weights\['x'\]\['kernel'\]"),
        ({"b": {"kernal": 1}}, r"Received: weights\['b'\]\['kernal'\]"),
        ({"b": {"kernel": np.zeros((3, 3, 4, 6))}}, r"full shape \(3, 3, 8, 6\)"),
        ({"b": {"bias": 0.0}}, r"full shape \(6,\). Received: an array of shape \(\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        rebuild(trace(models.sequential()), {"a": [0, 1, 2, 3]}, weights)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"x": [0]}, r"names of groups: a, b, c\. Received: 'x'"),
        ({"a": []}, r"`selection\['a'\]` to be one or more .* Received: \[\]"),
        ({"a": [8]}, "integers from 0 to 7"),
        ({"a": [-1]}, "integers from 0 to 7"),
        ({"a": [1, 1]}, "different integers"),
        ({"a": [0.5]}, "different integers"),
        ({"a": [True] * 8}, "different integers"),
        ({"a": 3}, "Received: 3"),
    ],
)
@pytest.mark.parametrize("function", [rebuild, gated])
def test_selections_that_do_not_fit_are_refused(function, selection, message):
    with pytest.raises(ValueError, match=message):
        function(trace(models.sequential()), selection)


@pytest.mark.parametrize("function", [rebuild, gated])
@pytest.mark.parametrize("name", [*TOPOLOGIES, *UNPRUNABLE])
def test_the_model_is_left_as_it_was(name, function):
    build = TOPOLOGIES[name] if name in TOPOLOGIES else UNPRUNABLE[name][0]
    model = randomize(build())
    model.compile("sgd", "mse")
    before = models.state_of(model)
    graph = trace_quietly(model)
    new = function(graph, random_selection(graph))
    for weight in new.weights:
        weight.assign(ops.zeros_like(weight))
    models.assert_state(model, before)
    assert not new.compiled


def trainable_flags(model):
    return [(layer.name, layer.trainable) for layer in model._flatten_layers(False)]


def freeze_one(model):
    model.layers[1].trainable = False


def freeze_all(model):
    model.trainable = False


def freeze_all_but_one(model):
    model.trainable = False
    model.layers[1].trainable = True


@pytest.mark.parametrize("freeze", [freeze_one, freeze_all, freeze_all_but_one])
@pytest.mark.parametrize(
    "build",
    [models.sequential, models.inverted_residuals, models.nested_in_nested],
)
def test_trainable_flags_are_kept_of_the_model_and_of_every_layer(build, freeze):
    model = build()
    freeze(model)
    graph = trace_quietly(model)
    compact = rebuild(graph, random_selection(graph))
    assert compact.trainable == model.trainable
    assert trainable_flags(compact) == trainable_flags(model)
    names = [w.path for w in model.trainable_weights]
    assert [w.path for w in compact.trainable_weights] == names


def test_models_that_share_layers_are_rebuilt_alone():
    picture = image()
    shared = conv(picture, 8, name="a")
    one = randomize(keras.Model(picture, head(conv(shared, 6, name="b"))))
    other = keras.Model(shared, one.output)
    for model in (one, other):
        assert_compact_is_gated(model, 0.5)


def test_an_adapted_normalization_keeps_its_statistics():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3.0, 5.0, (20, 16, 16, 3)))
    picture = image()
    model = keras.Model(picture, head(conv(normalization(picture), 8, name="a")))
    assert_same(rebuild(trace(model), {}), model, inputs_of(model), 1e-6)


def test_a_quantized_layer_is_copied():
    x = picture = image()
    x = layers.GlobalAveragePooling2D()(conv(x, 8, name="a"))
    model = keras.Model(picture, layers.Dense(3)(layers.Dense(6, name="b")(x)))
    with pytest.warns(UserWarning, match="does not have a `quantize` method"):
        randomize(model).quantize("int8")
    assert_same(rebuild(trace_quietly(model), {}), model, inputs_of(model), 1e-6)


def test_an_operations_name_may_be_that_of_a_new_one():
    keras.utils.clear_session()
    x = picture = image(name="multiply_1")
    x = conv(x, 8, name="rescaling") * 2.0
    x = conv(x, 6, name="rescaling_1")
    keras.utils.clear_session()
    assert_compact_is_gated(randomize(keras.Model(picture, head(x))), 0.5)


LOADS_WITHOUT_US = """
import sys, keras, numpy as np
model, x = keras.models.load_model(sys.argv[1]), np.load(sys.argv[2])
x = {name: x[name] for name in x.files}
np.savez(sys.argv[3], *keras.tree.flatten(model(x)))
assert not any(name.startswith("keras_greedy") for name in sys.modules)
"""


def test_the_compact_model_saves_and_loads_where_nothing_of_ours_is(tmp_path):
    model = randomize(models.several_inputs_and_outputs())
    compact, x = rebuild(trace(model), {"u": [1], "v": [0, 3]}), inputs_of(model)
    compact.save(tmp_path / "compact.keras")
    np.savez(tmp_path / "x.npz", **x)
    paths = [tmp_path / name for name in ("compact.keras", "x.npz", "y.npz")]
    command = [sys.executable, "-c", LOADS_WITHOUT_US, *map(str, paths)]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    loaded = np.load(tmp_path / "y.npz")
    for name, true in zip(loaded.files, outputs_of(compact, x), strict=True):
        np.testing.assert_allclose(loaded[name], true, atol=1e-5)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_compact_model_saves_and_loads(name, tmp_path):
    model = models.shared(name)
    compact = rebuild(trace(model), random_selection(trace(model)))
    compact.save(tmp_path / "compact.keras")
    loaded = keras.models.load_model(tmp_path / "compact.keras")
    assert_same(loaded, compact, inputs_of(model), 1e-6)


def test_a_layer_that_is_given_a_policy_is_made_anew_without_a_config_of_its_own():
    policy = keras.DTypePolicy("float32")
    picture = image(size=8)
    x = layers.Identity(dtype=policy, name="same")(conv(picture, 6, name="a"))
    model = keras.Model(picture, head(conv(x, 5, name="b")))
    with pytest.raises(NotImplementedError):
        model.get_layer("same").get_config()
    compact = rebuild(trace_quietly(model), {"a": [0, 1]})
    assert compact.get_layer("same").get_config()["name"] == "same"
