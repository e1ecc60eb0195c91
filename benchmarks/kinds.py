"""Models of the kinds that keras.applications has none of, small, with random weights.

Blocks are layers of classes of their own, as most people write them.
"""

import keras
from heads import mobilevit, vit
from keras import layers, ops

IMAGE = (32, 32, 3)
CLASSES = 10


def ended(images, x) -> keras.Model:
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(CLASSES)(x))


@keras.saving.register_keras_serializable("benchmarks")
class Convolution(layers.Layer):
    """A convolution, BatchNorm and an activation."""

    def __init__(self, filters, kernel=1, strides=1, activation="silu", **kwargs):
        super().__init__(**kwargs)
        self.settings = {"filters": filters, "kernel": kernel, "strides": strides}
        self.settings["activation"] = activation
        self.convolution = layers.Conv2D(
            filters, kernel, strides, padding="same", use_bias=False
        )
        self.norm = layers.BatchNormalization()
        self.activation = layers.Activation(activation)

    def call(self, x, training=None):
        x = self.norm(self.convolution(x), training=training)
        return self.activation(x)

    def build(self, shape):
        self.convolution.build(shape)
        self.norm.build(self.convolution.compute_output_shape(shape))

    def get_config(self):
        return super().get_config() | self.settings


@keras.saving.register_keras_serializable("benchmarks")
class C2f(layers.Layer):
    """YOLO's block: halves, one of which goes through bottlenecks, all joined."""

    def __init__(self, filters, depth, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        self.first = Convolution(filters)
        self.bottlenecks = []
        for _ in range(depth):
            pair = [Convolution(filters // 2, 3), Convolution(filters // 2, 3)]
            self.bottlenecks.append(keras.Sequential(pair))
        self.last = Convolution(filters)

    def call(self, x, training=None):
        parts = ops.split(self.first(x, training=training), 2, axis=-1)
        for bottleneck in self.bottlenecks:
            made = bottleneck(parts[-1], training=training)
            parts.append(parts[-1] + made)
        return self.last(ops.concatenate(parts, axis=-1), training=training)

    def build(self, shape):
        self.first.build(shape)
        half = (*shape[:-1], self.filters // 2)
        for bottleneck in self.bottlenecks:
            bottleneck.build(half)
        self.last.build((*shape[:-1], (2 + self.depth) * self.filters // 2))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.filters)

    def get_config(self):
        own = {"filters": self.filters, "depth": self.depth}
        return super().get_config() | own


def yolo() -> keras.Model:
    """Layers made of layers, splits, two scales."""
    images = keras.Input(IMAGE)
    x = fine = C2f(32, 1)(Convolution(32, 3, 2)(images))
    x = C2f(64, 2)(Convolution(64, 3, 2)(x))
    x = layers.Concatenate()([layers.UpSampling2D()(x), fine])
    return ended(images, C2f(32, 1)(x))


def shufflenet_v2() -> keras.Model:
    """Half of the channels pass a block, then all are shuffled."""
    images = keras.Input(IMAGE)
    x = Convolution(24, 3, 2, activation="relu")(images)
    x = shuffled(halves(x, 32, 2))
    for _ in range(2):
        x = shuffled(halves(x, 32, 1))
    return ended(images, Convolution(64, activation="relu")(x))


def halves(x, filters, strides):
    """The two halves of a unit, joined; with a stride both are convolved."""
    one, other = (x, x) if strides > 1 else ops.split(x, 2, axis=-1)
    if strides > 1:
        one = layers.DepthwiseConv2D(3, strides, padding="same")(one)
        one = Convolution(filters // 2, activation="relu")(one)
    other = Convolution(filters // 2, activation="relu")(other)
    other = layers.DepthwiseConv2D(3, strides, padding="same")(other)
    other = Convolution(filters // 2, activation="relu")(other)
    return layers.Concatenate()([one, other])


def shuffled(x):
    _, height, width, channels = x.shape
    x = layers.Reshape((height, width, 2, channels // 2))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    return layers.Reshape((height, width, channels))(x)


def eca_resnet() -> keras.Model:
    """Residual blocks whose channels are weighed by their neighbours."""
    images = keras.Input(IMAGE)
    x = Convolution(32, 3, 2)(images)
    for _ in range(2):
        y = Convolution(32, 3, activation="linear")(Convolution(48, 3)(x))
        weights = layers.GlobalAveragePooling2D()(y)[..., None]
        weights = layers.Conv1D(1, 3, padding="same", use_bias=False)(weights)
        weights = layers.Reshape((1, 1, 32))(ops.sigmoid(weights))
        x = ops.silu(x + y * weights)
    return ended(images, x)


def decoder() -> keras.Model:
    """Queries that share keys, RMS norms and gated units, as language models have."""
    sequence = keras.Input((24, 32))
    x = layers.Dense(48)(sequence)
    for _ in range(2):
        y = layers.RMSNormalization()(x)
        attention = layers.GroupQueryAttention(8, 8, 4, use_bias=False)
        x = x + attention(y, y, use_causal_mask=True)
        gate, value = ops.split(layers.Dense(128)(layers.RMSNormalization()(x)), 2, -1)
        x = x + layers.Dense(48)(ops.silu(gate) * value)
    return keras.Model(sequence, layers.Dense(CLASSES)(layers.RMSNormalization()(x)))


KINDS = {
    "ViT": lambda: vit(16),
    "MobileViT": lambda: mobilevit(32),
    "YOLO's C2f": yolo,
    "ShuffleNetV2": shufflenet_v2,
    "ECA-ResNet": eca_resnet,
    "decoder": decoder,
}
"""Name -> the function that builds it."""
