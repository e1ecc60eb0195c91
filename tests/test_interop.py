"""Models of Keras 3 as models of tf_keras, and back."""

import sys

import keras
import models
import numpy as np
import pytest
from keras import ops
from models import TOPOLOGIES, conv, image, inputs_of, outputs_of

import keras_greedy
from keras_greedy.interop.agreement import relative_error

tf_keras = pytest.importorskip("tf_keras")
tf = pytest.importorskip("tensorflow")

# Their layers and operations are not in tf_keras: RMSNormalization, Bidirectional of
# Keras 3, operations that split or move axes...
INCONVERTIBLE = """
    attention_by_channel_statistics embedded_positions embedded_words gated_units
    layers_made_of_layers moved_axes other_normalizations recurrent_layers resized_maps
    shuffled_channels sliced_channels spectrally_normalized split_channels transformer
"""
CONVERTIBLE = sorted(TOPOLOGIES.keys() - {*INCONVERTIBLE.split()})


def to_legacy(model, **options):
    return keras_greedy.interop.to_tf_keras(model, **options)


def from_legacy(model, **options):
    return keras_greedy.interop.from_tf_keras(model, **options)


def legacy_outputs_of(model, x):
    outputs = tf.nest.flatten(model(x, training=False))
    return [output.numpy().astype("float32") for output in outputs]


def randomized(legacy, seed=0):
    """As `models.randomize`, for a model of tf_keras."""
    rng = np.random.default_rng(seed)

    def random(weight):
        if weight.ndim < 2:
            return rng.uniform(0.2, 1.2, weight.shape)
        return rng.normal(size=weight.shape) * np.sqrt(2 / np.prod(weight.shape[:-1]))

    legacy.set_weights(list(map(random, legacy.get_weights())))
    return legacy


def assert_equal(found, expected, tolerance=2e-6):
    for output, true in zip(found, expected, strict=True):
        assert output.shape == true.shape
        assert np.isfinite(true).all()
        assert np.abs(output - true).max() <= tolerance * max(np.abs(true).max(), 1e-30)


def flags(model):
    """Layer's name -> whether it is trainable."""
    return {layer.name: layer.trainable for layer in model.layers}


# --- whole models


@pytest.mark.parametrize("name", CONVERTIBLE)
def test_a_model_goes_there_and_back_with_equal_values(name):
    model = models.shared(name)
    before, x = models.state_of(model), inputs_of(model)
    expected = outputs_of(model, x)
    legacy = to_legacy(model, check=False)
    models.assert_state(model, before)
    assert_equal(legacy_outputs_of(legacy, x), expected)
    assert isinstance(legacy, tf_keras.Sequential) == isinstance(
        model, keras.Sequential
    )
    weights = legacy.get_weights()
    assert {*flags(legacy).items()} >= flags(model).items()
    back = from_legacy(legacy, check=False)
    assert type(back) is type(model)
    assert_equal(outputs_of(back, x), expected)
    for weight, before in zip(legacy.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(weight, before)


def test_several_inputs_and_outputs_keep_their_structure():
    model = TOPOLOGIES["several_inputs_and_outputs"]()
    legacy = to_legacy(model)
    assert {name: tensor.shape for name, tensor in legacy.input.items()} == {
        "a": (None, 16, 16, 3),
        "b": (None, 16, 16, 1),
        "c": (None, 4),
    }
    assert [len(tf.nest.flatten(legacy.output[key])) for key in ("label", "map")] == [
        *(1, 2)
    ]
    back = from_legacy(legacy)
    assert back.input.keys() == model.input.keys()
    assert len(back.output["map"]) == 2


def test_a_shared_layer_stays_shared_and_a_model_inside_one_layer():
    legacy = to_legacy(TOPOLOGIES["shared_convolution"]())
    assert len(legacy.get_layer("shared").inbound_nodes) == 2
    legacy = to_legacy(TOPOLOGIES["siamese"]())
    inner = legacy.get_layer("backbone")
    assert inner.get_layer("stem").name == "stem"
    back = from_legacy(legacy).get_layer("backbone")
    assert [layer.name for layer in back.layers] == [la.name for la in inner.layers]


def test_what_is_frozen_stays_frozen():
    model = TOPOLOGIES["inverted_residuals"]()
    for layer in model.layers[3:9]:
        layer.trainable = False
    legacy = to_legacy(model)
    assert flags(legacy) == flags(model)
    assert len(legacy.trainable_weights) == len(model.trainable_weights)
    assert flags(from_legacy(legacy)) == flags(model)
    model.trainable = False
    assert to_legacy(model).trainable_weights == []
    frozen = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    frozen.trainable = False
    assert not to_legacy(frozen).trainable
    assert not from_legacy(to_legacy(frozen)).trainable


def test_names_that_the_other_side_forbids_are_changed_and_no_others():
    x = picture = image(name="my picture")
    x = conv(conv(x, 4, name="a b"), 4, name="_c")
    x = conv(conv(x, 4, name="a_b"), 4, name="éf-g")
    legacy = to_legacy(keras.Model(picture, x, name="my model"))
    names = [layer.name for layer in legacy.layers]
    assert names == ["my_picture", "a_b_", "c", "a_b", "f-g"]
    assert legacy.name == "my_model"
    x = picture = tf_keras.Input((8, 8, 3))
    for name in ("a/b", "a_b", "c"):
        x = tf_keras.layers.Conv2D(2, 1, name=name)(x)
    model = from_legacy(tf_keras.Model(picture, x))
    assert [layer.name for layer in model.layers[1:]] == ["a_b_", "a_b", "c"]


def test_the_compile_state_stays_behind():
    model = TOPOLOGIES["sequential"]()
    model.compile("adam", "mse")
    legacy = to_legacy(model)
    assert legacy.optimizer is None
    legacy.compile("adam", "mse")
    assert not from_legacy(legacy).compiled


def test_mixed_precision_comes_along():
    model = models.randomize(models.mixed_precision())
    legacy, x = to_legacy(model), inputs_of(model)
    assert legacy.get_layer("a").dtype_policy.name == "mixed_float16"
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x), 2e-3)
    back = from_legacy(legacy)
    assert back.get_layer("a").dtype_policy.name == "mixed_float16"
    assert_equal(outputs_of(back, x), outputs_of(model, x), 2e-3)


# --- layers

PICTURE, SEQUENCE = (8, 8, 4), (6, 4)
ACTIVATIONS = """
    elu exponential gelu hard_sigmoid linear mish relu selu sigmoid softmax softplus
    softsign swish tanh
"""
# The constructors are the same in both libraries; a name may be there twice.
LAYERS = [
    *((lambda la, f=f: la.Activation(f), PICTURE) for f in ACTIVATIONS.split()),
    *(
        (lambda la, f=f: la.Dense(3, activation=f), PICTURE)
        for f in ACTIVATIONS.split()
    ),
    (lambda la: la.ActivityRegularization(0.1), PICTURE),
    (lambda la: la.AlphaDropout(0.5), PICTURE),
    (lambda la: la.AveragePooling1D(2), SEQUENCE),
    (lambda la: la.AveragePooling2D(3, 2, "same"), PICTURE),
    (lambda la: la.BatchNormalization(momentum=0.7, epsilon=0.01), PICTURE),
    (lambda la: la.BatchNormalization(axis=1, center=False), PICTURE),
    (lambda la: la.BatchNormalization(scale=False), SEQUENCE),
    (lambda la: la.CenterCrop(5, 4), PICTURE),
    (lambda la: la.Conv1D(4, 3, padding="causal", dilation_rate=2), SEQUENCE),
    (lambda la: la.Conv1DTranspose(5, 3, 2), SEQUENCE),
    (lambda la: la.Conv2D(4, 3, 2, "same", groups=2, activation="selu"), PICTURE),
    (lambda la: la.Conv2DTranspose(5, 3, 2, "same", output_padding=1), PICTURE),
    (lambda la: la.Conv3D(4, 3, 2, "same"), (6, 6, 6, 2)),
    (lambda la: la.Conv3DTranspose(5, 3, 2), (4, 4, 4, 2)),
    (lambda la: la.Cropping2D(((1, 2), (0, 3))), PICTURE),
    (lambda la: la.DepthwiseConv1D(3, depth_multiplier=2), SEQUENCE),
    (lambda la: la.DepthwiseConv2D(3, 2, "same", depth_multiplier=2), PICTURE),
    (lambda la: la.Dropout(0.5, noise_shape=(None, 1, 1, 4), seed=3), PICTURE),
    (lambda la: la.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), SEQUENCE),
    (lambda la: la.ELU(0.4), PICTURE),
    (lambda la: la.Flatten(), PICTURE),
    (lambda la: la.GaussianDropout(0.5), PICTURE),
    (lambda la: la.GaussianNoise(0.5), PICTURE),
    (lambda la: la.GlobalAveragePooling2D(keepdims=True), PICTURE),
    (lambda la: la.GlobalMaxPooling1D(), SEQUENCE),
    (lambda la: la.GroupNormalization(2, epsilon=0.1), PICTURE),
    (lambda la: la.GroupNormalization(-1), PICTURE),
    (lambda la: la.GRU(5), SEQUENCE),
    (lambda la: la.GRU(5, reset_after=False, go_backwards=True), SEQUENCE),
    (lambda la: la.Identity(), PICTURE),
    (lambda la: la.LayerNormalization(axis=[1, -1], epsilon=0.1), PICTURE),
    (lambda la: la.LayerNormalization(scale=False), PICTURE),
    (lambda la: la.LeakyReLU(0.17), PICTURE),
    (lambda la: la.LSTM(5, return_sequences=True, dropout=0.2), SEQUENCE),
    (lambda la: la.MaxPooling2D(3, 2, "same"), PICTURE),
    (
        lambda la: la.Normalization(mean=[1.0, 2, 3, 4], variance=[1.0, 2, 3, 4]),
        PICTURE,
    ),
    (lambda la: la.Normalization(None, mean=1.0, variance=2.0, invert=True), PICTURE),
    (lambda la: la.Permute((3, 1, 2)), PICTURE),
    (lambda la: la.PReLU(shared_axes=[1, 2]), PICTURE),
    (lambda la: la.ReLU(1.5, 0.2, 0.3), PICTURE),
    (lambda la: la.RepeatVector(3), (4,)),
    (lambda la: la.Rescaling([1.0, 2.0, 3.0, 4.0], offset=0.5), PICTURE),
    (lambda la: la.Reshape((-1, 8)), PICTURE),
    (lambda la: la.Resizing(5, 7), PICTURE),
    (lambda la: la.Resizing(5, 7, "nearest", crop_to_aspect_ratio=True), PICTURE),
    (lambda la: la.Resizing(5, 7, "bicubic"), PICTURE),
    (lambda la: la.SeparableConv1D(5, 3), SEQUENCE),
    (lambda la: la.SeparableConv2D(5, 3, depth_multiplier=2), PICTURE),
    (lambda la: la.SimpleRNN(5), SEQUENCE),
    (lambda la: la.Softmax(axis=1), PICTURE),
    (lambda la: la.Softmax(axis=[1, 2]), PICTURE),
    (lambda la: la.SpatialDropout2D(0.5), PICTURE),
    (lambda la: la.TimeDistributed(la.Dense(3, activation="relu")), SEQUENCE),
    (lambda la: la.UnitNormalization(), PICTURE),
    (lambda la: la.UpSampling2D((2, 3), interpolation="bilinear"), PICTURE),
    (lambda la: la.ZeroPadding1D((1, 2)), SEQUENCE),
    (lambda la: la.ZeroPadding2D(((1, 2), (0, 3))), PICTURE),
]
# Activations of Keras 3 alone, and of legacy models that have TensorFlow's functions.
NEW_ACTIVATIONS = ["leaky_relu", "relu6"]


def id_of(argument):
    return argument(keras.layers).name if callable(argument) else ""


@pytest.mark.parametrize(("build", "shape"), LAYERS, ids=id_of)
def test_a_layer_of_keras_3_computes_the_same_in_tf_keras(build, shape):
    model = keras.Sequential([keras.Input(shape), build(keras.layers)])
    models.randomize(model)
    x = 2 * inputs_of(model)
    legacy = to_legacy(model, check=False)
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x))


@pytest.mark.parametrize(("build", "shape"), LAYERS, ids=id_of)
def test_a_layer_of_tf_keras_computes_the_same_in_keras_3(build, shape):
    layer = build(tf_keras.layers)
    legacy = randomized(tf_keras.Sequential([tf_keras.Input(shape), layer]))
    model = from_legacy(legacy, check=False)
    x = 2 * inputs_of(model)
    assert_equal(outputs_of(model, x), legacy_outputs_of(legacy, x))


def test_hard_sigmoids_differ_under_one_name():
    """Else the tests of layers above could not fail."""
    x = tf.linspace(-4.0, 4.0, 9)
    own, legacy = (
        keras.activations.hard_sigmoid(x),
        tf_keras.activations.hard_sigmoid(x),
    )
    assert np.abs(ops.convert_to_numpy(own) - legacy.numpy()).max() > 0.03


@pytest.mark.parametrize("function", [*NEW_ACTIVATIONS, "hard_sigmoid"])
def test_an_activation_that_tf_keras_lacks_becomes_layers_behind(function):
    layer = keras.layers.Conv2D(4, 3, name="a", activation=function)
    model = models.randomize(keras.Sequential([image(), layer]))
    x = inputs_of(model)
    legacy = to_legacy(model, check=False)
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x))
    assert legacy.layers[0].name == "a"
    assert legacy.layers[0].activation is tf_keras.activations.linear
    assert legacy.layers[-1].name == f"a.{function}"
    assert {type(layer).__name__ for layer in legacy.layers[1:]} <= {
        *("ReLU", "LeakyReLU", "Rescaling")
    }


@pytest.mark.parametrize("name", ["relu6", "leaky_relu", "silu", "gelu"])
def test_functions_of_tensorflow_as_activations_come_along(name):
    layer = tf_keras.layers.Conv2D(4, 3, activation=getattr(tf.nn, name))
    legacy = randomized(tf_keras.Sequential([tf_keras.Input(PICTURE), layer]))
    model = from_legacy(legacy, check=False)
    x = 2 * inputs_of(model)
    assert_equal(outputs_of(model, x), legacy_outputs_of(legacy, x))


def test_hard_silu_becomes_a_product_and_is_refused_in_a_sequential():
    x = picture = image()
    model = keras.Model(picture, conv(x, 4, name="a", activation="hard_silu"))
    models.randomize(model)
    x = inputs_of(model)
    legacy = to_legacy(model, check=False)
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x))
    layers = [image(), keras.layers.Activation("hard_silu", name="mine")]
    with pytest.raises(ValueError, match=r"'mine'.*keras\.Model\(inputs, outputs\)"):
        to_legacy(keras.Sequential(layers))


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_an_adapted_normalization_keeps_its_statistics(library):
    of, x = sys.modules[library], np.random.default_rng(0).normal(3, 2, (9, 4))
    layer = of.layers.Normalization()
    layer.adapt(x)
    model = of.Sequential([of.Input((4,)), layer])
    if of is keras:
        found = to_legacy(model, check=False)(x).numpy()
    else:
        found = ops.convert_to_numpy(from_legacy(model, check=False)(x))
    np.testing.assert_allclose(found, (x - x.mean(0)) / x.std(0), atol=1e-5)


def test_regularizers_and_constraints_come_along():
    legacy = to_legacy(TOPOLOGIES["regularized"]())
    layer = legacy.get_layer("a")
    assert layer.kernel_regularizer.l2 == pytest.approx(0.01)
    assert layer.activity_regularizer.l1 == pytest.approx(0.01)
    assert layer.kernel_constraint.max_value == 9.0
    layer = from_legacy(legacy).get_layer("a")
    assert layer.kernel_regularizer.l2 == pytest.approx(0.01)
    assert layer.kernel_constraint.max_value == 9.0


# --- raw operations


def test_raw_operations_become_layers_where_there_are_such():
    x = picture = image()
    y = ops.relu6(conv(x, 4) + conv(x, 4))
    y = 1.0 - y * conv(x, 4) / 2.0
    y = ops.concatenate([y, -y], axis=-1) * np.arange(1.0, 9.0, dtype="float32")
    y = ops.transpose(ops.maximum(y, conv(x, 8)), (0, 2, 1, 3))
    y = ops.reshape(ops.mean(ops.hard_silu(y), (1, 2), keepdims=True), (-1, 8))
    model = models.randomize(keras.Model(picture, ops.softmax(ops.tanh(y))))
    legacy, x = to_legacy(model, check=False), inputs_of(model)
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x))
    assert {type(layer).__name__ for layer in legacy.layers} == {
        *("Activation", "Add", "Concatenate", "Conv2D", "GlobalAveragePooling2D"),
        *("InputLayer", "Maximum", "Multiply", "Permute", "ReLU", "Rescaling"),
        *("Reshape", "Softmax"),
    }


def test_values_broadcast_as_in_numpy_and_not_as_in_a_layer():
    """`Add` of tf_keras would align axes from the front."""
    a, b = keras.Input((3, 3)), keras.Input((3,))
    model = keras.Model([a, b], [a + b, a * b[:, :, None], a[:, 1:, -1]])
    legacy, x = to_legacy(model, check=False), inputs_of(model, count=3)
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x))


UNARY = """
    abs ceil cos erf exp expm1 floor gelu log_softmax negative relu round sigmoid sign
    silu sin softplus softsign square stop_gradient tanh
"""


def test_each_operation_goes_there_and_back():
    x = keras.Input((4, 5))
    positive = ops.abs(x) + 0.5
    outputs = [getattr(ops, name)(x) for name in UNARY.split()]
    outputs += [ops.log(positive), ops.log1p(positive), ops.sqrt(positive)]
    outputs += [ops.rsqrt(positive), ops.reciprocal(positive), positive**2.5]
    outputs += [ops.gelu(x, approximate=False), ops.leaky_relu(x, 0.3)]
    outputs += [f(x, axis=1) for f in (ops.sum, ops.max, ops.min, ops.prod, ops.std)]
    outputs += [ops.var(x, axis=(1, 2), keepdims=True), ops.mean(x, axis=-1)]
    outputs += [x // 2.0, x % 2.0, x / positive, ops.minimum(x, 0.1), x - positive]
    outputs += [x + ops.cast(x, "float16"), x * ops.cast(x, "int32"), x > x * 2.0]
    outputs += [ops.where(x > 0.5, x, -1.0), ops.where(x <= 0.0, 2.0, x)]
    outputs += [ops.cast(x, "float16"), ops.clip(x, -1.0, 0.5), ops.tile(x, (1, 2, 1))]
    outputs += [ops.expand_dims(x, 1), ops.squeeze(x[:, :1], 1), x[..., None, ::2]]
    outputs += [ops.matmul(x, ops.transpose(x, (0, 2, 1))), ops.stack([x, positive], 1)]
    outputs += [ops.pad(x, ((0, 0), (1, 2), (0, 3)), mode="reflect")]
    outputs += [ops.pad(x, ((0, 0), (1, 2), (0, 3)), constant_values=0.5)]
    model = keras.Model(x, outputs)
    legacy, x = to_legacy(model, check=False), inputs_of(model)
    expected = outputs_of(model, x)
    assert_equal(legacy_outputs_of(legacy, x), expected)
    assert_equal(outputs_of(from_legacy(legacy, check=False), x), expected)


# --- what is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("custom_layer", r"'mine' of type Turn: .*no such layer"),
        ("lambda_of_a_function", r"'mine' of type Lambda: .*no such layer"),
        ("activation_of_the_users", r"'a' of type Conv2D: tf_keras has no activation="),
        ("layers_made_of_layers", r"'inner' of type Channels: .*no such layer"),
        (
            "multiplied_by_a_variable",
            r"'multiply' of type Multiply: it reads a variable",
        ),
    ],
)
def test_a_layer_without_a_counterpart_is_named_before_any_work(name, message):
    model = getattr(models, name)()
    with pytest.raises(ValueError, match=f"(?s)counterpart in tf_keras.*{message}"):
        to_legacy(model)


def test_all_layers_without_a_counterpart_are_named_at_once():
    x = picture = image()
    x = keras.layers.RMSNormalization(name="first")(conv(x, 4))
    with pytest.warns(UserWarning, match="rms_scaling"):
        x = keras.layers.LayerNormalization(rms_scaling=True, name="second")(x)
    x = keras.layers.Resizing(4, 4, antialias=True, name="third")(x)
    x = ops.elu(x, 0.5)
    x = ops.max(x, (1, 2), initial=0.25)
    with pytest.raises(ValueError) as error:
        to_legacy(keras.Model(picture, x))
    parts = ("'first'", "rms_scaling=True", "antialias=True", "alpha=0.5")
    for part in (*parts, "initial=0.25"):
        assert part in str(error.value)


def test_legacy_layers_without_a_counterpart_are_named():
    x = picture = tf_keras.Input((8, 8, 4))
    x = tf_keras.layers.ThresholdedReLU(name="first")(x)
    x = tf_keras.layers.BatchNormalization(axis=[1, 3], name="second")(x)
    x = tf.image.adjust_contrast(x, 2.0)
    with pytest.raises(ValueError) as error:
        from_legacy(tf_keras.Model(picture, x))
    for part in ("counterpart in keras", "'first'", "axis=[1, 3]", "adjust_contrast"):
        assert part in str(error.value)


class LegacyScale(tf_keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


def test_layers_of_ones_own_have_counterparts_of_ones_own():
    model = models.randomize(models.around(models.Scale(name="mine")))
    x = inputs_of(model)
    legacy = to_legacy(model, custom_objects={"Scale": LegacyScale})
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x))
    back = from_legacy(legacy, custom_objects={"LegacyScale": models.Scale})
    assert_equal(outputs_of(back, x), outputs_of(model, x))


def test_a_layer_that_computes_something_else_is_named():
    x = keras.Input((3,))
    y = keras.layers.Dense(4)(models.Scale(name="mine")(keras.layers.ReLU()(x)))
    model = models.randomize(keras.Model(x, y))

    class Wrong(LegacyScale):
        def call(self, x):
            return x * self.factor + 0.01

    with pytest.raises(ValueError, match="layer 'mine', whose outputs"):
        to_legacy(model, custom_objects={"Scale": Wrong})
    to_legacy(model, custom_objects={"Scale": Wrong}, check=False)


@pytest.mark.parametrize(
    ("found", "error"),
    [
        ([1.0, 2.0, np.nan], 0.0),
        ([1.0, 2.3, np.nan], 0.1),
        ([1.0, 2.0, 3.0], np.inf),
        ([1.0, 2.0], np.inf),
    ],
)
def test_the_error_is_the_mean_difference_by_the_mean_size(found, error):
    true = np.array([1.0, 2.0, np.nan])
    assert relative_error(true, np.array(found)) == pytest.approx(error)


@pytest.mark.parametrize("convert", [to_legacy, from_legacy])
def test_what_is_no_model_of_layers_is_refused(convert):
    library = keras if convert is to_legacy else tf_keras

    class Own(library.Model):
        def call(self, x):
            return x

    for wrong in (Own(), "model", library.layers.Dense(2)):
        with pytest.raises(
            ValueError, match=r"Functional or Sequential|to be a keras\.Model"
        ):
            convert(wrong)
    with pytest.raises(ValueError, match=r"to be built.*`model\.build"):
        convert(library.Sequential([library.layers.Dense(2)]))
    x = library.Input((2,))
    with pytest.raises(ValueError, match="custom_objects=3"):
        convert(library.Model(x, library.layers.Dense(2)(x)), custom_objects=3)


def test_inputs_that_cannot_be_are_refused():
    maybe = keras.Input((3,), optional=True, name="maybe")
    with pytest.raises(ValueError, match="'maybe' of type InputLayer: it is optional"):
        to_legacy(keras.Model(maybe, keras.layers.Dense(2)(maybe)))
    ragged = tf_keras.Input((None, 3), ragged=True, name="ragged")
    legacy = tf_keras.Model(ragged, tf_keras.layers.Dense(2)(ragged))
    with pytest.raises(ValueError, match="'ragged' of type InputLayer: it is ragged"):
        from_legacy(legacy)


def test_a_missing_tf_keras_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(ImportError, match="pip install tf_keras"):
        to_legacy(TOPOLOGIES["sequential"]())


# --- legacy models that users have


@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small", "ResNet50"])
def test_a_legacy_network_is_brought_in(name):
    legacy, model = brought_in(name)
    x = inputs_of(model)
    assert_equal(outputs_of(model, x), legacy_outputs_of(legacy, x), 5e-5)
    assert keras_greedy.count_params(model) == legacy.count_params()


def brought_in(name):
    build = getattr(tf_keras.applications, name)
    legacy = randomized(build(weights=None, input_shape=(32, 32, 3), classes=10))
    return legacy, from_legacy(legacy, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small"])
def test_a_legacy_network_is_pruned_and_handed_back(name):
    _, model = brought_in(name)
    assert_pruned_and_handed_back(model, keras_greedy.Budget(macs=0.6))


@pytest.mark.parametrize("name", ["inverted_residuals", "squeeze_excite_reshape"])
def test_a_small_legacy_network_is_pruned_and_handed_back(name):
    legacy = to_legacy(models.randomize(TOPOLOGIES[name]()))
    budget = keras_greedy.Budget(macs=0.6, round_to=1)
    assert_pruned_and_handed_back(from_legacy(legacy), budget)


def assert_pruned_and_handed_back(model, budget):
    x = inputs_of(model, count=8)
    compact = keras_greedy.prune(model, x, budget, verbose=0)
    assert keras_greedy.macs(compact) <= 0.6 * keras_greedy.macs(model)
    back = to_legacy(compact)
    assert_equal(legacy_outputs_of(back, x), outputs_of(compact, x), 5e-5)


@pytest.mark.parametrize("name", ["MobileNetV3Small", "EfficientNetV2B0"])
def test_a_network_of_keras_applications_goes_there(name):
    build = getattr(keras.applications, name)
    model = models.randomize(build(weights=None, input_shape=(32, 32, 3), classes=10))
    x = inputs_of(model)
    legacy = to_legacy(model, check=False)
    assert_equal(legacy_outputs_of(legacy, x), outputs_of(model, x), 5e-5)


def test_what_was_handed_over_is_saved_loaded_and_trained(tmp_path):
    model = models.randomize(TOPOLOGIES["inverted_residuals"]())
    x, legacy = inputs_of(model), to_legacy(model)
    legacy.save(tmp_path / "legacy.keras")
    loaded = tf_keras.models.load_model(tmp_path / "legacy.keras", compile=False)
    assert_equal(legacy_outputs_of(loaded, x), outputs_of(model, x))
    loaded.compile("adam", "sparse_categorical_crossentropy")
    loaded.fit(x, np.zeros(len(x)), verbose=0)
    assert_equal(outputs_of(from_legacy(loaded), x), legacy_outputs_of(loaded, x))
