"""Small models for the tests.

`TOPOLOGIES` can be pruned throughout, `UNPRUNABLE` only in part, or with a warning. The
layers that make channels are named, so that tests can say what they expect.
"""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

# The raw operations that must have a name of our own.
from keras.src.ops.nn import DotProductAttention, Softmax
from keras.src.ops.numpy import ArraySplit, GetItem, Multiply

OLD_KERAS = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 13)
saved_by_keras_3_13 = pytest.mark.skipif(
    OLD_KERAS, reason="Keras 3.12 cannot read the file"
)

# That the integers among the inputs are numbers of.
WORDS = 9

TOPOLOGIES = {}
# Builder's name -> the builder, the groups left to prune, and which layers forbid
# the others and why.
UNPRUNABLE = {}


def topology(build):
    TOPOLOGIES[build.__name__] = build
    return build


def unprunable(groups, **reasons):
    def register(build):
        UNPRUNABLE[build.__name__] = build, groups, reasons
        return build

    return register


def randomize(model, seed=0):
    """Gives every weight a value no default has, so that nothing cancels out."""
    rng = np.random.default_rng(seed)

    def random(shape):
        if len(shape) < 2:
            return rng.uniform(0.2, 1.2, shape)
        return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))

    for weight in model.weights:
        # What a Normalization layer has adapted to takes effect on loading only.
        if weight.name not in ("mean", "variance", "count"):
            weight.assign(random(weight.shape))
    return model


@functools.cache
def shared(name):
    """The model of a name in TOPOLOGIES or UNPRUNABLE, with random weights.

    There is one for all tests, which leave it as it is.
    """
    build = TOPOLOGIES[name] if name in TOPOLOGIES else UNPRUNABLE[name][0]
    model = randomize(build())
    STATES[name] = state_of(model)
    return model


# Of the shared models, when they were made.
STATES = {}


def inputs_of(model, count=2, seed=1):
    """Random inputs in the structure the model takes."""
    rng = np.random.default_rng(seed)

    def random(tensor):
        batch = tensor.shape[0] or count
        shape = (batch, *(size or 16 for size in tensor.shape[1:]))
        if tensor.dtype == "int32":
            return rng.integers(0, WORDS, shape).astype("int32")
        return rng.normal(size=shape).astype("float32")

    functional = model._functional if isinstance(model, keras.Sequential) else model
    return keras.tree.map_structure(random, functional.input)


def outputs_of(model, x):
    """The model's outputs at inference as a flat list of arrays."""
    outputs = keras.tree.flatten(model(x, training=False))
    return [ops.convert_to_numpy(output).astype("float32") for output in outputs]


def state_of(model):
    """All that must not change: weights, flags, compile state, places in graphs."""
    functional = model._functional if isinstance(model, keras.Sequential) else model
    return {
        "weights": [ops.convert_to_numpy(weight) for weight in model.weights],
        "trainable": [layer.trainable for layer in (model, *model._flatten_layers())],
        "policies": [layer.dtype_policy.name for layer in model.layers],
        "compiled": (model.compiled, *map(vars(model).get, ("optimizer", "loss"))),
        "nodes": [
            (operation.name, len(operation._inbound_nodes + operation._outbound_nodes))
            for operation in functional.operations
        ],
    }


def assert_state(model, before):
    after = state_of(model)
    for was, weight in zip(before.pop("weights"), after.pop("weights"), strict=True):
        np.testing.assert_array_equal(was, weight)
    assert after == before


def image(channels=3, size=16, name=None):
    return keras.Input((size, size, channels), name=name)


def conv(x, filters, kernel=3, name=None, **kwargs):
    return layers.Conv2D(filters, kernel, name=name, **{"padding": "same"} | kwargs)(x)


def depthwise(x, name=None, **kwargs):
    return layers.DepthwiseConv2D(3, name=name, **{"padding": "same"} | kwargs)(x)


def norm(x, activation=None):
    x = layers.BatchNormalization()(x)
    return layers.Activation(activation)(x) if activation else x


def head(x, classes=5):
    x = layers.GlobalAveragePooling2D()(x)
    return layers.Dense(classes, activation="softmax", name="head")(x)


def hard_swish(x):
    """As keras.applications writes it: raw operations."""
    return x * (layers.ReLU(6)(x + 3.0) * (1.0 / 6.0))


def squeeze_excite(x, filters, name):
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = conv(squeezed, filters, 1, f"{name}_squeeze", activation="relu")
    excited = conv(squeezed, x.shape[-1], 1, f"{name}_excite", activation="sigmoid")
    return layers.Multiply()([x, excited])


@topology
def sequential():
    """A Sequential with Flatten -> Dense."""
    return keras.Sequential(
        [
            keras.Input((16, 16, 3), name="picture"),
            layers.Conv2D(8, 3, name="a"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 3, use_bias=False, name="b"),
            layers.Flatten(),
            layers.Dense(10, activation="relu", name="c"),
            layers.Dropout(0.5),
            layers.Dense(5, activation="softmax", name="head"),
        ],
        name="plain",
    )


@topology
def strides_and_dilation():
    x = picture = image()
    x = conv(x, 6, name="a", dilation_rate=2, padding="valid")
    x = norm(conv(x, 8, 5, name="b", strides=(2, 1), use_bias=False), "relu")
    x = conv(x, 7, (1, 3), name="c", strides=2, activation="gelu")
    return keras.Model(picture, head(x))


@topology
def no_bias_anywhere():
    x = picture = image()
    x = conv(x, 6, name="a", use_bias=False)
    x = layers.BatchNormalization(center=False, scale=False)(x)
    x = depthwise(x, use_bias=False)
    x = conv(x, 4, name="b", use_bias=False)
    x = layers.Dense(7, name="c", use_bias=False)(layers.Flatten()(x))
    return keras.Model(picture, layers.Dense(3, use_bias=False)(x))


@topology
def depthwise_multipliers():
    x = picture = image()
    x = norm(conv(x, 4, name="a"), "relu")
    x = norm(depthwise(x, strides=2), "relu")
    x = norm(depthwise(x, depth_multiplier=3, dilation_rate=2), "relu")
    x = depthwise(x, depth_multiplier=2, activation="tanh", padding="valid")
    return keras.Model(picture, head(conv(x, 6, name="b")))


@topology
def inverted_residuals():
    """MobileNetV2: expansions, and a stream that two blocks add into."""
    x = picture = image()
    x = norm(conv(x, 6, name="stem", strides=2, use_bias=False), "relu6")
    x = norm(conv(x, 4, 1, "entry", use_bias=False))
    for i in (1, 2):
        y = norm(conv(x, 9, 1, f"expand_{i}", use_bias=False), "relu6")
        y = norm(depthwise(y, use_bias=False), "relu6")
        x = layers.Add()([x, norm(conv(y, 4, 1, f"project_{i}", use_bias=False))])
    return keras.Model(picture, head(norm(conv(x, 12, 1, "last"), "relu6")))


@topology
def squeeze_excite_keepdims():
    """MobileNetV3: hard swish of raw operations, Multiply by a squeeze-excite."""
    x = picture = image()
    x = hard_swish(norm(conv(x, 8, name="stem")))
    x = hard_swish(norm(depthwise(x)))
    x = squeeze_excite(x, 4, "first")
    x = squeeze_excite(x, 3, "second")
    return keras.Model(picture, head(hard_swish(norm(conv(x, 6, 1, "project")))))


@topology
def squeeze_excite_reshape():
    """EfficientNet: the squeezed channels go through Reshape((1, 1, C))."""
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "swish")
    y = layers.Reshape((1, 1, 8))(layers.GlobalAveragePooling2D()(x))
    y = conv(y, 4, 1, "squeeze", activation="swish")
    y = conv(y, 8, 1, "excite", activation="sigmoid")
    return keras.Model(picture, head(conv(layers.multiply([x, y]), 6, 1, "project")))


@topology
def weighed_by_neighbours():
    """ECA: a convolution along the squeezed channels, once by itself, once on maps."""
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = ops.expand_dims(layers.GlobalAveragePooling2D()(x), -1)
    y = layers.Conv1D(1, 3, padding="same", use_bias=False, name="slide")(y)
    x = conv(x * layers.Reshape((1, 1, 8))(ops.sigmoid(y)), 7, name="a")
    y = layers.Permute((1, 3, 2))(ops.max(x, axis=(1, 2), keepdims=True))
    y = layers.Conv2D(1, (1, 5), padding="same", activation="sigmoid")(y)
    return keras.Model(
        picture, head(conv(x * layers.Permute((1, 3, 2))(y), 6, name="b"))
    )


@topology
def squeeze_excite_dense():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = layers.Dense(4, "relu", name="squeeze")(ops.mean(x, axis=(1, 2)))
    y = layers.Dense(8, "sigmoid", name="excite")(y)
    x = x * ops.reshape(y, (-1, 1, 1, 8))
    return keras.Model(picture, head(conv(x, 6, name="project")))


@topology
def residual_with_projection():
    """ResNet50: bottlenecks, the first with a projected shortcut."""
    x = picture = image()
    x = layers.MaxPooling2D(2)(norm(conv(x, 6, name="stem"), "relu"))
    for i in (1, 2):
        y = norm(conv(x, 4, 1, f"reduce_{i}"), "relu")
        y = norm(conv(y, 5, name=f"middle_{i}"), "relu")
        y = norm(conv(y, 12, 1, f"expand_{i}"))
        shortcut = norm(conv(x, 12, 1, "project")) if i == 1 else x
        x = layers.ReLU()(layers.Add()([shortcut, y]))
    return keras.Model(picture, head(x))


@topology
def preactivated_residual():
    """ResNet50V2: BatchNorm in front, a pooled shortcut."""
    x = picture = image()
    x = conv(x, 8, name="stem")
    y = norm(x, "relu")
    x = layers.Add()([x, conv(norm(conv(y, 5, name="a"), "relu"), 8, name="b")])
    y = conv(norm(x, "relu"), 6, name="c", strides=2)
    x = layers.Add()([layers.MaxPooling2D(1, strides=2)(x), conv(y, 8, name="d")])
    return keras.Model(picture, head(norm(x, "relu")))


@topology
def padded_shortcut():
    """cifar10_resnet56: the shortcut is padded with zeros in the channel axis."""
    x = picture = image()
    x = norm(conv(x, 4, name="stem"), "relu")
    shortcut = ops.pad(x[:, ::2, ::2], [[0, 0], [0, 0], [0, 0], [2, 2]])
    y = norm(conv(x, 5, name="a", strides=2), "relu")
    x = layers.ReLU()(layers.Add()([norm(conv(y, 8, name="b")), shortcut]))
    return keras.Model(picture, head(x))


@topology
def dense_connections():
    """DenseNet: everything made so far is concatenated."""
    x = picture = image()
    x = conv(x, 6, name="stem")
    for i in (1, 2):
        y = norm(conv(norm(x, "relu"), 8, 1, f"bottleneck_{i}"), "relu")
        x = layers.Concatenate()([x, conv(y, 4, name=f"grow_{i}")])
    x = layers.AveragePooling2D(2)(conv(norm(x, "relu"), 7, 1, "transition"))
    return keras.Model(picture, head(x))


@topology
def concatenated_then_added():
    x = picture = image()
    x = ops.concatenate([conv(x, 3, name="a"), conv(x, 5, name="b")], axis=-1)
    x = norm(x + conv(x, 8, name="c"), "relu")
    return keras.Model(picture, head(x))


@topology
def every_join():
    picture = image()
    a = conv(picture, 6, name="a")
    b, c, d = (conv(a, 6, name=name) for name in "bcd")
    x = layers.Average()([a, b, layers.Maximum()([c, d])])
    x = layers.Minimum()([x, layers.Subtract()([a, d])])
    return keras.Model(picture, head(x))


@topology
def spatial_attention():
    """One channel multiplies all others."""
    x = picture = image()
    x = conv(x, 8, name="a", activation="relu")
    x = layers.Multiply()([x, conv(x, 1, name="map", activation="sigmoid")])
    x = conv(x, 1, name="second_map", activation="sigmoid") * x
    return keras.Model(picture, head(conv(x, 6, name="b")))


@topology
def raw_operations():
    x = picture = image()
    x = conv(x, 8, name="a")
    x = ops.relu(1.0 - x) + 2.0 * ops.leaky_relu(x, negative_slope=0.3) ** 2
    x = ops.where(x > 0.5, x, 0.1 * x) / (ops.exp(-abs(x)) + 1.0)
    x = ops.clip(x, x_min=-1.0, x_max=3.0)
    x = ops.pad(x, pad_width=((0, 0), (1, 1), (2, 0), (1, 2)), constant_values=0.5)
    x = ops.max(conv(x, 6, name="b"), axis=-2, keepdims=True)
    x = ops.squeeze(x, axis=2)
    x = layers.Dense(7, name="c")(ops.expand_dims(x, 1))
    return keras.Model(picture, layers.Dense(3)(ops.sum(x, axis=[1, 2])))


@topology
def constants_per_channel():
    constant = np.linspace(0.5, 2.0, 8, dtype="float32")
    x = picture = image()
    x = layers.Rescaling([1.0, 2.0, 3.0], offset=[0.1, 0.2, 0.3])(x)
    x = ops.subtract(constant, conv(x, 8, name="a")) * constant[None, None, None]
    x = ops.maximum(x, np.zeros((16, 1), "float32"))
    x = layers.Rescaling(list(range(1, 9)), offset=0.5)(x)
    x = layers.Multiply()([x, constant.reshape(1, 1, 1, 8)])
    return keras.Model(picture, head(conv(x, 6, name="b")))


@topology
def reshapes():
    x = picture = image(size=4)
    x = layers.Reshape((16, 6))(conv(x, 6, name="a"))
    x = layers.Dense(5, name="b")(ops.reshape(x, (-1, 6)))
    x = layers.Reshape((4, 20))(ops.reshape(x, (-1, 4, 4, 5)))
    x = layers.Flatten()(layers.Reshape((4, 4, 5))(x))
    x = layers.Flatten()(layers.Reshape((1, 1, 7))(layers.Dense(7, name="c")(x)))
    return keras.Model(picture, layers.Dense(3)(x))


@topology
def two_flattens():
    x = picture = image(size=4)
    x, y = (layers.Flatten()(conv(x, 4, name=name)) for name in "ab")
    x = layers.BatchNormalization()(layers.Concatenate()([x, y]))
    return keras.Model(picture, layers.Dense(3)(layers.Dense(6, name="c")(x)))


@topology
def split_channels():
    """C2f: halves go their own ways; other splits have indices, or part positions."""
    x = picture = image(size=8)
    y, z = ops.split(conv(x, 8, name="a"), 2, axis=-1)
    x = layers.Concatenate()([conv(y, 6, name="b", activation="relu"), y, z])
    y, z, w = ops.split(conv(x, 9, name="c"), [2, 5], axis=3)
    x = layers.Concatenate()([w, conv(y, 4, name="d"), z * ops.sigmoid(z)])
    x = layers.Add()(ops.split(x, 2, axis=1))
    return keras.Model(picture, head(conv(x, 5, name="e")))


@topology
def gated_units():
    """Halves that meet again: values and their gates."""
    x = words = keras.Input((6, 5))
    x = layers.Dense(8, name="stem")(x)
    y, gate = ops.split(layers.Dense(12, name="a")(x), 2, axis=-1)
    x = x + layers.Dense(8, name="b")(y * ops.sigmoid(gate))
    y, gate = ops.array_split(layers.Dense(10, name="c")(x), 2, axis=2)
    x = x + layers.Dense(8, name="d")(y * ops.sigmoid(gate))
    first, *_ = ops.unstack(x, axis=1)
    return keras.Model(words, layers.Dense(3)(first))


@topology
def sliced_channels():
    x = picture = image(size=8)
    x = conv(x, 10, name="a")
    parts = x[..., :4], x[:, :, :, -6:], x[..., 4:-3]
    parts = [conv(part, 3, name=f"b{i}") for i, part in enumerate(parts)]
    x = conv(layers.Concatenate()(parts), 8, name="c")
    x = layers.Concatenate()(
        [x[..., ::2], conv(x[..., 1::2], 4, name="d"), x[..., ::-1]]
    )
    x = conv(x, 9, name="e")
    part = ops.slice(x, (0, 0, 0, 2), (-1, 8, 8, 5))
    x = layers.Concatenate()([part, ops.take(x, [8, 0, 8, 1], axis=-1)])
    return keras.Model(picture, head(conv(x[:, 1:, None, 3], 6, name="f")))


@topology
def shuffled_channels():
    """ShuffleNetV2: half of the channels pass by, then a shuffle."""

    def shuffle(x):
        x = layers.Reshape((8, 8, 2, x.shape[-1] // 2))(x)
        return layers.Reshape((8, 8, -1))(layers.Permute((1, 2, 4, 3))(x))

    x = picture = image(size=8)
    x = norm(conv(x, 12, name="stem"), "relu")
    for i in (1, 2):
        left, right = ops.split(x, 2, axis=-1)
        right = depthwise(norm(conv(right, 10, 1, f"expand_{i}"), "relu"))
        right = norm(conv(right, 6, 1, f"project_{i}"), "relu")
        x = shuffle(layers.Concatenate()([left, right]))
    return keras.Model(picture, head(x))


@topology
def shuffled_groups():
    """ShuffleNet: grouped convolutions, a shuffle between them."""
    x = picture = image(size=8)
    x = conv(x, 24, name="stem")
    y = norm(conv(x, 24, 1, "a", groups=3), "relu")
    y = ops.transpose(ops.reshape(y, (-1, 8, 8, 3, 8)), (0, 1, 2, 4, 3))
    y = depthwise(ops.reshape(y, (-1, 8, 8, 24)))
    x = layers.Add()([x, conv(y, 24, 1, "b", groups=3)])
    return keras.Model(picture, head(conv(x, 6, name="c", groups=2)))


@topology
def mlp_mixer():
    """Dense layers over channels, and between two Permutes over positions."""
    x = picture = image(size=8)
    x = layers.Reshape((16, 6))(conv(x, 6, 2, "stem", strides=2))
    y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    y = layers.Dense(5, name="b")(layers.Dense(7, "gelu", name="a")(y))
    x = layers.Add()([x, layers.Permute((2, 1))(layers.Dense(16)(y))])
    y = layers.Dense(8, activation="gelu", name="c")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(6)(y)])
    return keras.Model(picture, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@topology
def moved_axes():
    x = picture = image(size=8)
    x = conv(x, 6, name="a")
    x = ops.transpose(layers.Permute((2, 1, 3))(x), (0, 2, 1, 3))
    x = ops.moveaxis(ops.relu(ops.moveaxis(x, -1, 1)), 1, 3)
    y = ops.swapaxes(x, 1, -1) * np.linspace(0.5, 1, 6).reshape(6, 1, 1)
    y = ops.softmax(ops.swapaxes(ops.mean(y, axis=3, keepdims=True), -1, 1), axis=2)
    x = ops.roll(ops.flip(x, axis=2), (1, 3), axis=(1, -1)) * y
    x = ops.roll(x, 3, axis=-1) + conv(x, 6, name="b")
    x = ops.sum(ops.stack([x, ops.flip(conv(x, 6, name="c"), axis=3)], axis=1), axis=1)
    weights = ops.softmax(ops.stack([x, conv(x, 6, name="d")], axis=0), axis=0)
    x = ops.max(ops.stack([x * weights[0], x + weights[1]], axis=-1), axis=-1)
    x = ops.repeat(ops.tile(x, (1, 1, 2, 2)), 2, axis=1)
    return keras.Model(picture, head(conv(x, 5, name="e")))


@topology
def generator():
    """A vector becomes a map; sub-pixel convolutions in both orders of the channels."""
    x = noise = keras.Input((5,))
    x = norm(layers.Dense(4 * 4 * 6, name="a")(x), "relu")
    x = layers.Reshape((4, 4, 6))(x)
    x = layers.Conv2DTranspose(5, 4, strides=2, padding="same", name="b")(x)
    x = ops.reshape(conv(x, 16, name="c"), (-1, 8, 8, 2, 2, 4))
    x = ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 4))
    x = layers.Reshape((16, 16, 5, 2, 2))(conv(x, 20, name="d"))
    x = layers.Reshape((32, 32, 5))(layers.Permute((1, 4, 2, 5, 3))(x))
    return keras.Model(noise, conv(x, 2, name="map"))


@topology
def dense_on_sequences():
    x = words = keras.Input((6, 5))
    x = layers.Dense(8, "relu", name="stem")(x)
    x = x + layers.Dense(8, name="b")(layers.Dense(10, "gelu", name="a")(x))
    return keras.Model(words, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@topology
def encoder_decoder():
    """U-Net: up-sampling, cropping, a skip that is concatenated."""
    x = picture = image()
    x = a = conv(x, 4, name="a", activation="relu")
    x = conv(layers.AveragePooling2D(2)(x), 8, name="b", activation="relu")
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = layers.Cropping2D(1)(layers.Concatenate()([x, a]))
    x = conv(layers.ZeroPadding2D(1)(x), 6, name="c", activation="relu")
    return keras.Model(picture, conv(x, 2, name="map", activation="sigmoid"))


@topology
def several_inputs_and_outputs():
    a, b, c = image(name="a"), image(1, name="b"), keras.Input((4,), name="c")
    x = conv(a, 8, name="x") + conv(b, 8, name="y")
    x = layers.Multiply()([x, layers.Dense(8, name="z")(c)])
    u, v = conv(x, 4, name="u"), conv(x, 5, name="v")
    outputs = {"map": [conv(u, 2), x], "label": head(v)}
    return keras.Model({"a": a, "b": b, "c": c}, outputs)


@topology
def shared_activation():
    relu = layers.ReLU()
    x = picture = image()
    x = relu(conv(relu(conv(x, 8, name="a")), 6, name="b"))
    return keras.Model(picture, head(x))


@topology
def regularized():
    x = picture = image()
    x = conv(
        *(x, 8, 3, "a"),
        kernel_regularizer="l2",
        activity_regularizer="l1",
        kernel_constraint=keras.constraints.MaxNorm(9.0),
        bias_initializer=keras.initializers.Constant(np.arange(8.0)),
    )
    x = layers.BatchNormalization(gamma_regularizer="l1", beta_constraint="non_neg")(x)
    x = conv(layers.ActivityRegularization(0.1)(x), 6, name="b")
    return keras.Model(picture, head(x))


def backbone(name="backbone"):
    """A network to be part of others, of any picture size."""
    x = picture = keras.Input((None, None, 3))
    x = norm(conv(x, 8, name="stem"), "relu")
    y = conv(norm(conv(x, 12, 1, "expand"), "relu"), 8, 1, "project")
    return keras.Model(picture, layers.Add()([x, y]), name=name)


@topology
def transfer_learning():
    """A backbone, frozen, and a new head, whose layers' names are taken."""
    inner = backbone()
    inner.trainable = False
    head = [layers.GlobalAveragePooling2D(), layers.Dense(7, "relu", name="expand")]
    return keras.Sequential([image(), inner, *head, layers.Dense(3, name="stem")])


@topology
def nested_in_nested():
    """Called with training=False, as fine-tuning guides have it."""
    picture = image()
    middle = [image(), backbone(), layers.Conv2D(6, 1, name="a")]
    middle = keras.Sequential(middle, name="middle")
    x = middle(layers.Rescaling(2.0)(picture), training=False)
    return keras.Model(picture, head(conv(x, 5, name="b")))


@topology
def nested_of_several_tensors():
    a, b = image(4, name="a"), image(6, name="b")
    x = conv(a, 8, name="x") * conv(b, 8, name="y")
    inner = keras.Model({"a": a, "b": b}, [x, conv(x, 5, name="z")], name="inner")
    x = picture = image()
    x, y = inner({"a": conv(x, 4, name="p"), "b": conv(x, 6, name="q")})
    return keras.Model(picture, head(layers.Concatenate()([x, y])))


@topology
def siamese():
    """One backbone for two pictures."""
    inner, a, b = backbone(), image(), image(size=12)
    x, y = (layers.GlobalAveragePooling2D()(inner(picture)) for picture in (a, b))
    return keras.Model([a, b], layers.Dense(3, name="head")(abs(x - y)))


@topology
def shared_convolution():
    """The same convolution again and again, and a norm for each time."""
    shared, x = layers.Conv2D(8, 3, padding="same", name="shared"), image()
    y = conv(x, 8, name="a")
    for _ in range(2):
        y = norm(shared(y), "relu")
    return keras.Model(x, head(conv(y, 6, name="b")))


@topology
def shared_per_channel_scale():
    shared = layers.Rescaling(list(range(1, 9)), name="shared")
    x = picture = image()
    y = conv(shared(conv(x, 8, name="a")), 5, name="b")
    x = conv(shared(conv(x, 8)), 6, name="c")
    return keras.Model(picture, head(layers.Concatenate()([x, y])))


@topology
def grouped_convolutions():
    """ResNeXt: groups in the middle of a bottleneck."""
    x = picture = image()
    x = norm(conv(x, 8, name="a"), "relu")
    x = norm(conv(x, 12, name="grouped", groups=2), "relu")
    x = norm(conv(x, 12, 1, "b"), "relu")
    x = conv(x, 24, name="per_channel", groups=12, use_bias=False)
    return keras.Model(picture, head(conv(x, 6, name="c", groups=2)))


@topology
def separable_convolutions():
    """Xception."""
    x = picture = image()
    x = conv(x, 6, name="stem")
    y = layers.SeparableConv2D(8, 3, padding="same", use_bias=False, name="a")(x)
    y = norm(y, "relu")
    y = layers.SeparableConv2D(
        *(6, 3), strides=2, padding="same", depth_multiplier=2, name="b"
    )(y)
    x = layers.Add()([conv(x, 6, 1, strides=2, name="shortcut"), norm(y)])
    return keras.Model(picture, head(x))


@topology
def layer_normalized():
    """ConvNeXt: a depthwise convolution by groups, LayerNorm over the stream."""
    x = picture = image()
    x = stem = layers.LayerNormalization(epsilon=1e-3)(conv(x, 8, name="stem"))
    x = conv(x, 8, 5, "depthwise", groups=8)
    x = layers.LayerNormalization(epsilon=1e-3)(x)
    x = layers.Dense(16, "gelu", name="expand")(x)
    x = layers.Dense(8, name="project")(x)
    x = layers.Add()([stem, layers.Rescaling(list(range(1, 9)))(x)])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(picture, layers.Dense(3, name="head")(x))


@topology
def other_normalizations():
    x = picture = image()
    x = layers.GroupNormalization(2)(conv(x, 8, name="a"))
    x = layers.GroupNormalization(-1)(conv(x, 6, name="b"))
    x = layers.GroupNormalization(1, scale=False)(conv(x, 6, name="c"))
    x = layers.UnitNormalization()(conv(x, 6, name="d"))
    x = layers.LayerNormalization(axis=[2, 3], center=False)(conv(x, 7, name="e"))
    x = layers.RMSNormalization()(conv(x, 5, name="f"))
    return keras.Model(picture, head(conv(x, 6, name="g")))


@topology
def attention_by_channel_statistics():
    """CBAM: maps of statistics over the channels weigh the positions."""
    x = picture = image()
    x = conv(x, 8, name="a", activation="relu")
    maps = [
        ops.mean(x, axis=-1, keepdims=True),
        ops.max(x, axis=3, keepdims=True),
        ops.expand_dims(ops.amin(x - 1, axis=-1), -1),
        ops.expand_dims(ops.std(x, axis=(-1,)), axis=3),
        ops.logsumexp(x, axis=-1, keepdims=True),
        ops.sum(x, axis=-1, keepdims=True) / 8,
        ops.norm(x, axis=-1, keepdims=True),
    ]
    weights = conv(layers.Concatenate()(maps), 1, 7, "maps", activation="sigmoid")
    x = ops.normalize(conv(x * weights, 7, name="b"), axis=-1)
    x = x / (1 + ops.reshape(ops.var(x, axis=(1, 2, 3)), (-1, 1, 1, 1)))
    return keras.Model(picture, head(conv(ops.normalize(x, axis=1), 6, name="c")))


@topology
def resized_maps():
    """Segmentation: maps are resized, and changed at random while training."""
    x = picture = image()
    x = layers.Resizing(12, 20)(conv(x, 6, name="a"))
    x = layers.RandomContrast(0.1)(layers.RandomFlip()(x))
    x = ops.image.resize(conv(x, 5, name="b"), (14, 14), interpolation="bicubic")
    x = ops.image.pad_images(layers.CenterCrop(9, 10)(x), 1, 0, 0, 2)
    return keras.Model(picture, head(conv(x, 6, name="c")))


@topology
def audio():
    """Convolutions along time."""
    x = sound = keras.Input((24, 2))
    x = layers.Conv1D(8, 3, padding="causal", dilation_rate=2, name="a")(x)
    x = layers.PReLU(shared_axes=[1])(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2)(x)
    x = layers.SeparableConv1D(6, 5, strides=2, name="b")(norm(x))
    x = layers.UpSampling1D(2)(layers.ZeroPadding1D(1)(x))
    x = layers.Conv1DTranspose(7, 4, strides=2, padding="same", name="c")(x)
    x = layers.Concatenate()([layers.MaxPooling1D(2)(x), layers.AveragePooling1D(2)(x)])
    x = layers.GlobalMaxPooling1D()(layers.Conv1D(6, 3, strides=2, name="d")(x))
    return keras.Model(sound, layers.Dense(3, name="head")(x))


@topology
def volumes():
    x = volume = keras.Input((8, 8, 6, 2))
    x = layers.Conv3D(6, 3, padding="same", name="a")(x)
    x = norm(layers.MaxPooling3D(2)(x), "relu")
    x = layers.Conv3D(5, 2, strides=(2, 1, 1), name="b")(layers.Cropping3D(0)(x))
    x = layers.GlobalAveragePooling3D()(layers.UpSampling3D(2)(x))
    return keras.Model(volume, layers.Dense(3, name="head")(x))


@topology
def transposed_convolutions():
    """U-Net with learned up-sampling."""
    x = picture = image()
    x = a = conv(x, 4, name="a", activation="relu")
    x = conv(x, 8, name="b", strides=2, activation="relu")
    x = layers.Conv2DTranspose(5, 2, strides=2, name="up", use_bias=False)(x)
    x = layers.Concatenate()([norm(x, "relu"), a])
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", name="again")(x)
    x = layers.Conv2DTranspose(5, 4, name="third")(x)
    return keras.Model(picture, conv(x, 2, name="map", activation="sigmoid"))


@topology
def embedded_words():
    """One table for two texts with padding."""
    table = layers.Embedding(WORDS, 8, mask_zero=True, name="table")
    a, b = (keras.Input((length,), dtype="int32") for length in (6, 5))
    x = layers.Bidirectional(layers.GRU(3), merge_mode="sum")(
        layers.Dense(6, name="a")(table(a))
    )
    y = layers.Dense(4, activation="relu", name="b")(table(b))
    y = layers.Dense(3, name="head")(layers.GlobalAveragePooling1D()(y))
    return keras.Model([a, b], [x, y])


@topology
def recurrent_layers():
    """Sequences read in several ways, one from a state that is given."""
    words, state = keras.Input((6, 5)), keras.Input((4,))
    x = layers.Dense(8, "relu", name="a")(words)
    read = [
        layers.LSTM(4, return_sequences=True, dropout=0.1)(x),
        *layers.GRU(4, return_state=True, use_bias=False)(x, initial_state=state),
        layers.SimpleRNN(3, go_backwards=True, unroll=True)(x),
        layers.Bidirectional(layers.LSTM(3, return_sequences=True))(x),
    ]
    return keras.Model([words, state], read)


@topology
def video():
    """Layers called at each picture, and a recurrent one of convolutions."""

    def each(layer, name=None):
        return layers.TimeDistributed(layer, name=name)

    x = pictures = keras.Input((3, 8, 8, 2))
    x = each(layers.Conv2D(6, 3, use_bias=False), "a")(x)
    x = each(layers.LayerNormalization())(each(layers.BatchNormalization())(x))
    x = each(layers.SeparableConv2D(5, 2, activation="relu"), "b")(x)
    y = each(layers.Dense(4, name="inner"), "c")(each(layers.Flatten())(x))
    y = layers.GlobalAveragePooling1D()(each(layers.ReLU())(y))
    x = layers.ConvLSTM2D(2, (2, 3), strides=2, name="conv_lstm")(x)
    return keras.Model(pictures, [x, layers.Dense(3, name="head")(y)])


@topology
def spectrally_normalized():
    """The discriminator of a GAN."""
    x = picture = image(size=8)
    for name, layer in {
        "a": layers.Conv2D(6, 3, use_bias=False),
        "b": layers.Conv2DTranspose(5, 2),
    }.items():
        x = layers.SpectralNormalization(layer, name=name)(x)
        x = layers.LeakyReLU()(x)
    x = layers.Flatten()(x)
    return keras.Model(picture, layers.SpectralNormalization(layers.Dense(1))(x))


@topology
def transformer():
    """Heads of attention of two kinds, one with scores to be dropped."""
    x = words = keras.Input((6, 5))
    x = layers.Dense(8, name="stream")(x)
    for attention in (
        layers.MultiHeadAttention(4, 2, value_dim=3, dropout=0.1, name="heads"),
        layers.GroupQueryAttention(3, 4, 2, use_bias=False, name="shared_heads"),
    ):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, attention(y, y)])
    x = layers.EinsumDense("abc,cd->abd", (6, 5), activation="relu", name="einsum")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(words, layers.Dense(3, name="head")(x))


@unprunable(
    {"a": 6, "key": 4, "one": 3, "b": 5},
    pool="it takes the channels on axis -2 for positions",
)
def products_of_tensors():
    """Attention written out, over positions that a softmax weighs."""
    x = picture = image(size=4)
    x = layers.Reshape((16, 6))(conv(x, 6, name="a"))
    weights = ops.softmax(layers.Dense(2, name="weights")(x), axis=1)
    query, key = layers.Dense(4, name="query")(x), layers.Dense(4, name="key")(x)
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
    x = ops.einsum("bts,bsc->btc", ops.softmax(scores), x)
    one, other = layers.Dense(3, name="one")(x), layers.Dense(3, name="other")(x)
    x = layers.Dot(axes=(2, 1))([layers.Dot(axes=2)([one, other]), x])
    by_matmul = ops.matmul(ops.transpose(weights, (0, 2, 1)), x)
    by_einsum = ops.einsum("btk,btc->bkc", weights, x)
    by_dot = layers.Dot(axes=(1, 1))([weights, x])
    x = layers.Add()([by_matmul, by_einsum, by_dot])
    x = layers.Dense(5, "relu", name="b")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(picture, layers.Dense(3, name="head")(x))


@keras.saving.register_keras_serializable("tests")
class Residual(layers.Layer):
    """A block of the user's: what it drops in training is dropped in training alone."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.expand = layers.Conv2D(2 * filters, 1, use_bias=False)
        self.inner = [layers.BatchNormalization()]
        self.drop = layers.Dropout(0.5)
        self.project = layers.Conv2D(filters, 3, padding="same", name="last")

    def build(self, shape):
        self.expand.build(shape)
        self.inner[0].build((*shape[:-1], 2 * self.filters))
        self.project.build((*shape[:-1], 2 * self.filters))

    def call(self, x, training=None):
        y = ops.relu(self.inner[0](self.expand(x), training=training))
        if training:
            y = self.drop(y, training=training)
        y = self.project(y)
        return x + y if x.shape[-1] == self.filters else y

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.filters)

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


@keras.saving.register_keras_serializable("tests")
class Channels(keras.Model):
    """A subclassed model."""

    def __init__(self, filters=8, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.first = layers.Conv2D(filters, 3, padding="same", name="conv")
        self.blocks = [Residual(filters) for _ in range(2)]

    def build(self, shape):
        self.first.build(shape)
        for block in self.blocks:
            block.build((*shape[:-1], self.filters))

    def call(self, x):
        x = ops.relu(self.first(x))
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self):
        return super().get_config() | {"filters": self.filters}


@topology
def layers_made_of_layers():
    """Blocks of a class of its own, one called twice, and a subclassed model."""
    picture = image(size=8)
    block = Residual(6, name="block")
    x = block(block(conv(picture, 6, name="a")))
    x = Channels(5, name="inner")(Residual(7, name="wider")(x))
    return keras.Model(picture, head(x))


@keras.saving.register_keras_serializable("tests")
class Positioned(layers.Layer):
    """A projection of each position, and an embedding of its number."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.projection = layers.Dense(width)
        self.position = layers.Embedding(16, width)

    def call(self, x):
        numbers = ops.arange(x.shape[1])
        return self.projection(x) + self.position(numbers)

    def get_config(self):
        return super().get_config() | {"width": self.width}


@topology
def embedded_positions():
    """A block that calls one of its layers on a constant."""
    sequence = keras.Input((16, 5))
    x = layers.LayerNormalization()(Positioned(9, name="first")(sequence))
    x = layers.Dense(7, "relu", name="dense")(x)
    x = Positioned(6, name="second")(x)
    return keras.Model(sequence, layers.Dense(4)(layers.Flatten()(x)))


def mixed_precision(policy="mixed_float16"):
    x = picture = image()
    x = layers.Conv2D(8, 3, name="a", dtype=policy)(x)
    x = layers.ReLU(dtype=policy)(layers.BatchNormalization(dtype=policy)(x))
    x = layers.Conv2D(6, 3, name="b", dtype=policy)(x * 0.5)
    return keras.Model(picture, head(x))


def around(layer):
    """A convolution "a" whose channels `layer` gets, and "b", which can be pruned."""
    x = picture = image()
    return keras.Model(picture, head(conv(layer(conv(x, 8, name="a")), 6, name="b")))


class Scale(layers.Layer):
    """A layer of the user's: a factor per channel."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")

    def call(self, x):
        return x * self.factor


def twice(x):
    return factor_of_this_module * x


factor_of_this_module = 2.0


class Turn(layers.Layer):
    """A layer of the user's: a matrix of channels."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), name="matrix")

    def call(self, x):
        return x @ self.matrix


@unprunable(
    {"b": 6},
    mine="no channel rule for Turn, and made for fewer channels it is not alike: it "
    "reads other channels, too",
)
def custom_layer():
    return around(Turn(name="mine"))


@unprunable({"a": 8, "b": 6})
def lambda_of_a_lambda():
    return around(layers.Lambda(lambda x: factor_of_this_module * x, name="mine"))


@unprunable({"a": 8, "b": 6})
def lambda_of_a_function():
    return around(layers.Lambda(twice, output_shape=lambda s: s, name="mine"))


@unprunable({"a": 8, "b": 6})
def activation_of_the_users():
    x = picture = image()
    x = conv(conv(x, 8, name="a", activation=twice), 6, name="b")
    return keras.Model(picture, head(x))


@unprunable({"a": 8, "inner/inner": 8, "b": 6})
def nested_sequential_called_twice():
    inner = keras.Sequential([image(8), layers.Conv2D(8, 1), layers.Lambda(twice)])
    inner.name, inner.layers[0].name, inner.layers[1].name = "inner", "inner", "mine"
    return around(lambda x: inner(x) + inner(2 * x))


@unprunable({"b": 5}, shared="it is called more than once, on different widths")
def shared_over_different_widths():
    shared = layers.Reshape((16, 16, -1), name="shared")
    x = picture = image()
    x = shared(conv(shared(conv(x, 8, name="a")), 6))
    return keras.Model(picture, head(conv(x, 5, name="b")))


@unprunable({"b": 6}, norm="it normalises axis 1, not the last")
def channels_first():
    def inner(x):
        x = layers.Permute((3, 1, 2))(x)
        x = layers.BatchNormalization(axis=1, name="norm")(x)
        x = layers.MaxPooling2D(2, data_format="channels_first")(x)
        return layers.Permute((2, 3, 1))(x)

    return around(inner)


@unprunable(
    {"d": 5},
    a="its activation softmax may mix the channels",
    softmax="a softmax mixes the channels",
    raw_softmax="a softmax mixes the channels",
)
def softmax_inside():
    x = picture = image()
    x = conv(conv(x, 8, name="a", activation="softmax"), 7, name="b")
    x = conv(layers.Softmax(name="softmax")(x), 6, name="c")
    x = conv(Softmax(name="raw_softmax")(x), 5, name="d")
    return keras.Model(picture, head(x))


@unprunable(
    {"z": 7, "a": 9, "b": 8, "attention/query": 2, "attention/attention_output": 8},
    lstm="the units of a recurrent layer feed back into all of them",
)
def recurrence_and_attention():
    x = words = keras.Input((6, 5))
    x = layers.LSTM(4, return_sequences=True, name="lstm")(layers.Dense(7, name="z")(x))
    x = layers.Dense(8, name="b")(layers.Dense(9, "relu", name="a")(x))
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    return keras.Model(words, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


@unprunable(
    {"c": 3, "b": 4},
    rnn="no channel rule for RNN of SimpleRNNCell",
    lstm="the channels of its initial state are its units, which stay",
)
def recurrence_of_other_kinds():
    """A cell in a layer for any cell; an initial state that a layer makes."""
    x = words = keras.Input((6, 5))
    x = layers.Dense(7, name="a")(x)
    x = layers.RNN(layers.SimpleRNNCell(4), return_sequences=True, name="rnn")(x)
    x = layers.Dense(3, name="c")(x)
    state = [layers.Dense(2, name=name)(words[:, 0]) for name in ("h", "s")]
    y = layers.Dense(4, name="b")(x)
    y = layers.LSTM(2, name="lstm")(y, initial_state=state)
    return keras.Model(words, y)


@unprunable({"b": 6}, slide="it takes the channels on axis -2 for positions")
def convolved_channels():
    """A convolution along the channels that makes less of them."""

    def weighed(x):
        y = ops.expand_dims(layers.GlobalAveragePooling2D()(x), -1)
        y = layers.Conv1D(1, 3, strides=2, padding="same", name="slide")(y)
        return x * ops.mean(y, axis=1)[:, None, None]

    return around(weighed)


@unprunable({"b": 6}, attend="it takes the channels on axis -3 for positions")
def attended_channels():
    """Attention of the channels to each other, each of them a map."""

    def attended(x):
        maps = layers.Reshape((8, 1, 256))(layers.Permute((3, 1, 2))(x))
        maps = DotProductAttention(name="attend")(maps, maps, maps)
        maps = layers.Reshape((8, 16, 16))(maps)
        return layers.Permute((2, 3, 1))(maps)

    return around(attended)


@unprunable(
    {"b": 6, "c": 5},
    parts="its 3 parts have unequal widths",
    channel="it takes entry 2 of axis -1, the channels'",
)
def parted_channels():
    x = picture = image()
    parts = ArraySplit(3, axis=-1, name="parts")(conv(x, 8, name="a"))
    x = conv(parts[0], 6, name="b")
    channel = GetItem(name="channel")(conv(x, 7, name="d"), (..., slice(2, 3), 2))
    x = conv(x * channel[:, :, None], 5, name="c")
    return keras.Model(picture, head(x))


@unprunable(
    {"c": 5},
    dropout="its noise_shape=(None, 1, 1, 8) fixes the number of channels",
    alpha="its noise_shape=(None, 1, 1, 6) fixes the number of channels",
)
def fixed_noise_shapes():
    x = picture = image()
    x = layers.Dropout(0.1, (None, 1, 1, 8), name="dropout")(conv(x, 8, name="a"))
    x = layers.AlphaDropout(0.1, (None, 1, 1, 6), name="alpha")(conv(x, 6, name="b"))
    return keras.Model(picture, head(conv(x, 5, name="c")))


@unprunable({"b": 6}, multiply="it combines the channels with a variable")
def multiplied_by_a_variable():
    variable = keras.Variable(np.arange(8.0), dtype="float32")
    return around(lambda x: Multiply(name="multiply")(x, variable))


@unprunable({"b": 6}, concatenate="it puts the channels in a row with a constant")
def concatenated_with_a_constant():
    picture = keras.Input(batch_shape=(2, 16, 16, 3))
    constant = np.ones((2, 16, 16, 2), "float32")
    x = layers.Concatenate(name="concatenate")([conv(picture, 8, name="a"), constant])
    return keras.Model(picture, head(conv(x, 6, name="b")))


def random_selection(graph, share=0.5, seed=2):
    """For every group a random part of its channels, in no order."""
    rng = np.random.default_rng(seed)
    return {
        group.name: rng.choice(group.size, max(1, int(share * group.size)), False)
        for group in graph.groups
    }


def assert_same(model, expected, x, tolerance=1e-4):
    """The models compute the same, up to a part of the outputs' scale."""
    pairs = zip(outputs_of(model, x), outputs_of(expected, x), strict=True)
    for output, true in pairs:
        assert output.shape == true.shape
        assert np.abs(output - true).max() <= tolerance * np.abs(true).max()
