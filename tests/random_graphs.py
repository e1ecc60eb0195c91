"""Random small models for property tests, of blocks that cover every channel rule.

A block is a function of a tensor and a `Maker`, from which it takes its choices; a
failing example prints them all. The first of some choices is the plainest, to which
failures shrink.
"""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from hypothesis import strategies as st
from keras import layers, ops
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from models import Residual, Scale, randomize

# What Keras must be told of when it loads a model.
CUSTOM_OBJECTS = {
    cls.__name__: cls for cls in (CustomScaleLayer, LayerScale, Scale, StochasticDepth)
}
ACTIVATIONS = (None, "relu", "gelu", "tanh", "sigmoid", "elu", "hard_swish", "softplus")
ANY = (0, 1, 2, 3)


@keras.saving.register_keras_serializable("tests")
class Doubled(layers.Layer):
    """A layer without weights or a rule, to be probed."""

    def call(self, x):
        return 2 * x + ops.sin(x)

    def compute_output_shape(self, shape):
        return shape


# Name -> block: those of a single layer, which a Sequential can hold, and all.
LAYERS, BLOCKS = {}, {}


@dataclasses.dataclass(frozen=True)
class Block:
    """Makes the next tensor of a Functional, or the next layer of a Sequential.

    Attributes:
        make: `make(x, maker)`.
        axes: How many spatial axes `x` may have.
        least: The least size of each.
        most: The greatest size of each.
        deepest: How many models may be around the one it is part of.
    """

    make: Callable
    axes: tuple[int, ...] = (1, 2, 3)
    least: int = 1
    most: int = 1000
    deepest: int = 9

    def fits(self, x, depth) -> bool:
        sizes = x.shape[1:-1]
        of_size = all(self.least <= size <= self.most for size in sizes)
        return len(sizes) in self.axes and of_size and depth <= self.deepest


def layer(axes=(1, 2, 3), **limits):
    """Registers a function that makes a layer for a tensor like `x`."""

    def register(make):
        def call(x, maker):
            return make(x, maker)(x)

        LAYERS[make.__name__] = Block(make, axes, **limits)
        BLOCKS[make.__name__] = Block(call, axes, **limits)
        return make

    return register


def block(axes=(1, 2, 3), **limits):
    """Registers a function that makes the tensor behind `x`."""

    def register(make):
        BLOCKS[make.__name__] = Block(make, axes, **limits)
        return make

    return register


def random_model(data, most_blocks=5):
    """A model with random weights; those made before are forgotten.

    Args:
        data: What hypothesis' `st.data()` gives.
        most_blocks: How many blocks there are at most, besides those that every model
            begins and ends with and those of models inside.
    """
    # Names begin anew. To collect garbage for each model would take half the time.
    keras.utils.clear_session(free_memory=False)
    return randomize(Maker(data).model(most_blocks))


class Maker:
    """Draws choices, and makes the model that they lead to.

    Attributes:
        inputs: The model's inputs so far.
        outputs: Its outputs so far.
    """

    def __init__(self, data):
        self.inputs, self.outputs = [], []
        self._data, self._block, self._depth = data, "model", 0

    def pick(self, *options):
        return self._data.draw(st.sampled_from(options), label=self._block)

    def one_of(self, **makers):
        """What one of these functions makes."""
        return makers[self.pick(*makers)]()

    def model(self, most_blocks) -> keras.Model:
        shape = self.pick((8, 8), (6, 7), (12,), (4, 4, 3))
        x = keras.Input((*shape, self.pick(3, 1, 4)), name="input_0")
        kind = self.pick("functional", "functional", "sequential")
        count = self.pick(*range(1, most_blocks + 1))
        names = ["stem", *[None] * count, "ending", "classes"]
        if kind == "sequential":
            return self._sequential(x, names)
        self.inputs.append(x)
        for name in names:
            x = self._next(BLOCKS, x, name)
        self.outputs.append(x)
        return keras.Model(_one_or_all(self.inputs), _one_or_all(self.outputs))

    def inner_model(self, shape) -> keras.Model:
        """A model of one input and one output, to be part of the model."""
        x = start = keras.Input(shape)
        kind, names = self.pick("functional", "sequential"), [None] * self.pick(1, 2, 3)
        self._depth += 1
        if kind == "sequential":
            model = self._sequential(x, names)
        else:
            for name in names:
                x = self._next(BLOCKS, x, name)
            model = keras.Model(start, x)
        self._depth -= 1
        return model

    def _sequential(self, x, names) -> keras.Sequential:
        made = [x]
        for name in names:
            made.append(self._next(LAYERS, x, name))
            x = keras.KerasTensor(made[-1].compute_output_shape(x.shape))
        return keras.Sequential(made)

    def _next(self, blocks, x, name=None):
        """What the block of that name, or else any that fits, makes of `x`."""
        fitting = [n for n, block in blocks.items() if block.fits(x, self._depth)]
        around, name = self._block, name or self.pick(*fitting)
        self._block = f"{around}/{name}" if self._depth else name
        made = blocks[name].make(x, self)
        self._block = around
        return made


def _one_or_all(tensors):
    """The tensors, each once; one alone if there is no other."""
    tensors = [*{id(tensor): tensor for tensor in tensors}.values()]
    return tensors if len(tensors) > 1 else tensors[0]


def _of_axes(x, name, suffix=""):
    """Keras' class of this name for as many spatial axes as `x` has."""
    return getattr(layers, f"{name}{len(x.shape) - 2}D{suffix}")


def _linear(x, width, **kwargs):
    """A layer that makes channels, and leaves the sizes as they are."""
    if len(x.shape) == 2:
        return layers.Dense(width, **kwargs)
    return _of_axes(x, "Conv")(width, 3, padding="same", **kwargs)


def _pooled(x, keepdims=False):
    return _of_axes(x, "GlobalAveragePooling")(keepdims=keepdims)(x)


def _met(x, y, maker):
    return layers.Maximum()([x, y]) if maker.pick(True, False) else x + y


def _divisors(n):
    return [i for i in range(1, n + 1) if n % i == 0]


def _per_channel(x, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, x.shape[-1]).astype("float32")


# Each model begins and ends with these. The end is linear: a saturated softmax would
# hide that what is before it differs.


@layer(ANY, deepest=-1)
def stem(x, maker):
    return _linear(x, maker.pick(4, 3, 5, 6, 8))


@layer(ANY, deepest=-1)
def ending(x, maker):
    pools = {}
    if len(x.shape) > 2:
        pools["mean"] = _of_axes(x, "GlobalAveragePooling")
        pools["max"] = _of_axes(x, "GlobalMaxPooling")
    return maker.one_of(**pools, flatten=layers.Flatten, none=layers.Identity)


@layer(ANY, deepest=-1)
def classes(x, maker):
    return layers.Dense(3)


# Layers that make channels.


@layer()
def convolution(x, maker):
    return _convolution(x, maker, "", maker.pick(4, 2, 3, 6, 8))


@layer()
def grouped_convolution(x, maker):
    groups = maker.pick(*_divisors(x.shape[-1]))
    filters = groups * maker.pick(1, 2, 3)
    return _convolution(x, maker, "", filters, groups=groups)


@layer()
def convolution_per_channel(x, maker):
    filters = x.shape[-1] * maker.pick(1, 2)
    return _convolution(x, maker, "", filters, groups=x.shape[-1])


@layer(axes=(1, 2))
def depthwise(x, maker):
    return _convolution(x, maker, "Depthwise", depth_multiplier=maker.pick(1, 2, 3))


@layer(axes=(1, 2))
def separable(x, maker):
    filters, multiplier = maker.pick(4, 2, 6), maker.pick(1, 2)
    return _convolution(x, maker, "Separable", filters, depth_multiplier=multiplier)


@layer(most=8)
def transposed(x, maker):
    how = maker.pick({}, {"strides": 2}, {"dilation_rate": 2})
    if len(x.shape) == 5 and "dilation_rate" in how:
        how = {}  # TensorFlow does not have it on the CPU.
    return _of_axes(x, "Conv", "Transpose")(
        *(maker.pick(4, 2, 3), maker.pick(3, 1, 2)),
        padding=maker.pick("same", "valid"),
        use_bias=maker.pick(True, False),
        activation=maker.pick(*ACTIVATIONS),
        **how,
    )


def _convolution(x, maker, kind, *filters, **kwargs):
    name, hows = f"{kind}Conv{len(x.shape) - 2}D", [{}, {"strides": 2}]
    paddings = ["same"]
    if min(x.shape[1:-1]) >= 5:
        paddings, hows = ["same", "valid"], [*hows, {"dilation_rate": 2}]
    if name == "Conv1D":
        paddings.append("causal")
    return getattr(layers, name)(
        *filters,
        maker.pick(3, 1, 2),
        padding=maker.pick(*paddings),
        use_bias=maker.pick(True, False),
        activation=maker.pick(*ACTIVATIONS),
        **maker.pick(*hows),
        **kwargs,
    )


@layer(ANY)
def dense(x, maker):
    width, activation = maker.pick(4, 2, 6, 8), maker.pick(*ACTIVATIONS)
    return layers.Dense(width, activation, use_bias=maker.pick(True, False))


# Layers that normalise.


@layer(ANY)
def batch_norm(x, maker):
    flags = maker.pick({}, {"center": False}, {"scale": False})
    return layers.BatchNormalization(**flags)


@layer(ANY)
def normalization(x, maker):
    normalization = layers.Normalization()
    rng = np.random.default_rng(0)
    normalization.adapt(rng.normal(1.0, 2.0, (8, *x.shape[1:])))
    return normalization


@layer(ANY)
def layer_norm(x, maker):
    flags = maker.pick({}, {"center": False}, {"scale": False})
    axes = maker.pick(-1, [*range(1, len(x.shape))])
    return layers.LayerNormalization(axes, epsilon=1e-3, **flags)


@layer()
def group_norm(x, maker):
    groups = maker.pick(*_divisors(x.shape[-1]), -1)
    return layers.GroupNormalization(groups, scale=maker.pick(True, False))


@layer(ANY)
def rms_norm(x, maker):
    return layers.RMSNormalization(epsilon=1e-3)


@layer(ANY)
def unit_norm(x, maker):
    return layers.UnitNormalization()


# Layers that act on each channel alone.


@layer(ANY)
def activation(x, maker):
    kind = maker.pick("function", "ReLU", "LeakyReLU", "ELU", "PReLU")
    if kind == "function":
        return layers.Activation(maker.pick(*ACTIVATIONS[1:]))
    return getattr(layers, kind)()


@layer()
def prelu_over_positions(x, maker):
    return layers.PReLU(shared_axes=[*range(1, len(x.shape) - 1)])


@layer(ANY)
def rescaling(x, maker):
    scale, offset = (maker.pick("number", "array") for _ in range(2))
    scale = _per_channel(x).tolist() if scale == "array" else 0.5
    offset = _per_channel(x, 1).tolist() if offset == "array" else 1.0
    return layers.Rescaling(scale, offset)


@layer(ANY)
def noise(x, maker):
    of_maps = (None, *[1] * (len(x.shape) - 2), None)
    return maker.one_of(
        dropout=lambda: layers.Dropout(0.2),
        of_maps=lambda: layers.Dropout(0.2, of_maps),
        alpha=lambda: layers.AlphaDropout(0.2),
        gaussian=lambda: layers.GaussianDropout(0.2),
        additive=lambda: layers.GaussianNoise(0.2),
        regularization=lambda: layers.ActivityRegularization(0.1),
        identity=layers.Identity,
    )


@layer()
def spatial_dropout(x, maker):
    return _of_axes(x, "SpatialDropout")(0.2)


@layer(least=2)
def pooling(x, maker):
    name, padding = maker.pick("Max", "Average"), maker.pick("valid", "same")
    return _of_axes(x, f"{name}Pooling")(2, maker.pick(2, 1), padding)


@layer()
def global_pooling(x, maker):
    name, keepdims = maker.pick("Average", "Max"), maker.pick(True, False)
    return _of_axes(x, f"Global{name}Pooling")(keepdims=keepdims)


@layer(most=8)
def padding(x, maker):
    return _of_axes(x, "ZeroPadding")(1)


@layer(least=3)
def cropping(x, maker):
    return _of_axes(x, "Cropping")(1)


@layer(most=6)
def upsampling(x, maker):
    return _of_axes(x, "UpSampling")(2)


# Layers that move channels.


@layer()
def flatten(x, maker):
    return layers.Flatten()


@layer()
def reshape(x, maker):
    *sizes, channels = x.shape[1:]
    positions = int(np.prod(sizes))
    return layers.Reshape(
        maker.pick((positions, channels), (1, 1, positions, channels), (-1, channels))
    )


@layer()
def permute(x, maker):
    """Positions change places, or channels go to the first axis."""
    positions = [*range(1, len(x.shape) - 1)]
    last = len(x.shape) - 1
    return layers.Permute(maker.pick((*positions[::-1], last), (last, *positions)))


# Layers that keep the channels they touch whole.


@layer(ANY)
def no_rule(x, maker):
    positions, channels = [1] * (len(x.shape) - 2), x.shape[-1]
    # Behind an ellipsis Keras tells the sizes of several axes in the wrong order.
    axes = "bxyz"[: len(positions) + 1] if len(positions) > 1 else "..."
    sizes = x.shape[1:-1] if len(positions) > 1 else ()
    return maker.one_of(
        makes=lambda: layers.EinsumDense(f"{axes}c,cd->{axes}d", (*sizes, 4)),
        softmax=layers.Softmax,
        dropout=lambda: layers.Dropout(0.1, (None, *positions, channels)),
    )


@layer(ANY, deepest=1)
def nested(x, maker):
    model = maker.inner_model(x.shape[1:])
    model.trainable = maker.pick(True, False)
    return model


# Blocks of several layers, with joins.


@block()
def own_layer(x, maker):
    return Scale()(x)


@block(ANY, deepest=1)
def nested_twice(x, maker):
    inner = maker.inner_model(x.shape[1:])
    y = inner(x, training=False) if maker.pick(False, True) else inner(x)
    again = y if y.shape == x.shape and maker.pick(False, True) else 0.5 * x
    return layers.Average()([y, inner(again)])


@block()
def nested_of_any_size(x, maker):
    inner = start = keras.Input((*[None] * (len(x.shape) - 2), x.shape[-1]))
    inner = layers.BatchNormalization()(_linear(inner, 5)(inner))
    inner = layers.ReLU()(inner)
    return keras.Model(start, _linear(inner, maker.pick(4, 3))(inner))(x)


@block(ANY)
def nested_with_two_ends(x, maker):
    a, b = keras.Input(x.shape[1:]), keras.Input(x.shape[1:])
    y = _linear(a, 4)(a)
    z = _linear(b, 4)(b)
    ends = maker.one_of(
        apart=lambda: [y, z],
        joined=lambda: [y + z, y],
        itself=lambda: [y, a],
    )
    model = keras.Model([a, b], ends)
    return layers.Concatenate()(model([x, _linear(x, x.shape[-1])(x)]))


@block(ANY)
def residual(x, maker):
    y = layers.ReLU()(layers.BatchNormalization()(_linear(x, maker.pick(4, 6))(x)))
    y = layers.BatchNormalization()(_linear(x, x.shape[-1])(y))
    return layers.ReLU()(layers.Add()([x, y]))


@block(ANY)
def preactivated_residual(x, maker):
    y = layers.ReLU()(layers.BatchNormalization()(x))
    return x + _linear(x, x.shape[-1])(_linear(y, maker.pick(4, 6))(y))


@block()
def projected_residual(x, maker):
    width, stride = maker.pick(6, 4), maker.pick(2, 1)
    y = _linear(x, width, strides=stride)(x)
    z = _of_axes(x, "Conv")(width, 1, strides=stride, use_bias=False)(x)
    return layers.Add()([layers.BatchNormalization()(z), y])


@block()
def padded_residual(x, maker):
    before, after = maker.pick((1, 1), (0, 2), (2, 0))
    pads = [*[(0, 0)] * (len(x.shape) - 1), (before, after)]
    y = _linear(x, x.shape[-1] + before + after)(x)
    return layers.ReLU()(y + ops.pad(x, pads))


@block()
def strided_slice(x, maker):
    return x[:, ::2]


@block(ANY)
def convnext(x, maker):
    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=1e-3)(x)
    y = layers.Dense(width)(layers.Dense(maker.pick(6, 8), "gelu")(y))
    return x + StochasticDepth(0.1)(LayerScale(0.5, width)(y))


@block(ANY)
def join(x, maker):
    names = "Add", "Average", "Maximum", "Minimum", "Subtract", "scaled"
    join = maker.one_of(
        **{name: getattr(layers, name) for name in names[:-1]},
        scaled=lambda: CustomScaleLayer(0.3),
    )
    return join([x, _linear(x, x.shape[-1])(x)])


@block(ANY)
def gate(x, maker):
    width = maker.pick(x.shape[-1], 1)
    y = _linear(x, width, activation="sigmoid")(x)
    return layers.Multiply()([x, y]) if maker.pick(True, False) else y * x


@block()
def squeeze_excite(x, maker):
    shape, width = (*[1] * (len(x.shape) - 2), x.shape[-1]), maker.pick(3, 2)
    kind = maker.pick("keepdims", "reshape", "dense")
    y = _pooled(x, keepdims=kind == "keepdims")
    if kind == "reshape":
        y = layers.Reshape(shape)(y)
    y = _linear(y, x.shape[-1], activation="sigmoid")(_linear(y, width)(y))
    if kind == "dense":
        y = ops.reshape(y, (-1, *shape))
    return layers.Multiply()([x, y])


@block(ANY)
def concatenation(x, maker):
    axis = maker.pick(-1, len(x.shape) - 1)
    other = maker.one_of(
        convolved=lambda: _linear(x, maker.pick(3, 2))(x),
        itself=lambda: x,
        activated=lambda: ops.relu(x),
    )
    both = [x, other] if maker.pick(True, False) else [other, x, x]
    return layers.Concatenate(axis=axis)(both)


@block(ANY)
def two_readers(x, maker):
    y, z = (_linear(x, maker.pick(4, 6))(x) for _ in range(2))
    return ops.concatenate([y, z], axis=-1)


@block(ANY)
def clipped(x, maker):
    return ops.clip(x, x_min=-1.0, x_max=1.0)


@block()
def squeezed(x, maker):
    return ops.squeeze(ops.min(x, axis=1, keepdims=True), axis=1)


@block(ANY)
def raw_operations(x, maker):
    return maker.one_of(
        product=lambda: 2.0 * x - 1.0,
        square=lambda: ops.tanh(x) ** 2,
        absolute=lambda: abs(x) + 0.1,
        divide=lambda: x / (ops.exp(-abs(x)) + 1.0),
        where=lambda: ops.where(x > 0.5, x, 0.1 * x),
        array=lambda: ops.maximum(x * _per_channel(x), -_per_channel(x, 1)),
        positions=lambda: x + np.ones((*x.shape[1:-1], 1), "float32"),
        leaky=lambda: ops.leaky_relu(x, negative_slope=0.3),
        softmax=lambda: ops.softmax(x, axis=-1),
    )


@block()
def raw_shapes(x, maker):
    *sizes, channels = x.shape[1:]
    pads = [(0, 0), *[(1, 0)] * len(sizes), maker.pick((0, 0), (1, 0))]
    return maker.one_of(
        flat=lambda: ops.reshape(x, (-1, int(np.prod(x.shape[1:])))),
        positions=lambda: ops.reshape(x, (-1, int(np.prod(sizes)), channels)),
        mean=lambda: ops.mean(x, axis=1, keepdims=maker.pick(True, False)),
        max=lambda: ops.max(x, axis=-2, keepdims=True),
        sum=lambda: ops.sum(x, axis=[*range(1, len(x.shape) - 1)]) * 0.1,
        pad=lambda: ops.pad(x, pads, constant_values=0.5),
    )


@block(axes=(1, 2), most=8)
def attention(x, maker):
    """Over all positions: heads of a layer, or products of queries and keys."""
    *sizes, channels = x.shape[1:]
    x = layers.Reshape((int(np.prod(sizes)), channels))(x)

    def products():
        query, key = (layers.Dense(maker.pick(3, 4))(x) for _ in range(2))
        query = layers.Dense(key.shape[-1])(query)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1)))
        return ops.einsum("bts,bsc->btc", ops.softmax(scores * 0.5), x)

    y = maker.one_of(
        heads=lambda: layers.MultiHeadAttention(2, 3, value_dim=2)(x, x),
        dropped=lambda: layers.MultiHeadAttention(3, 2, dropout=0.1)(x, x),
        without_bias=lambda: layers.MultiHeadAttention(2, 3, use_bias=False)(x, x),
        shared=lambda: layers.GroupQueryAttention(2, 4, 2)(x, x),
        products=products,
    )
    return layers.Reshape((*sizes, y.shape[-1]))(y)


@layer(axes=(2,), deepest=1)
def layer_of_layers(x, maker):
    return Residual(maker.pick(4, x.shape[-1]))


@layer(ANY)
def probed(x, maker):
    return Doubled()


def _with_another_way(one, other):
    """The first part as it is, and what a layer makes of the second."""
    return ops.concatenate([one, _linear(other, 4)(other)], axis=-1)


@block(ANY)
def split(x, maker):
    x = _linear(x, maker.pick(6, 8))(x)
    axis = maker.pick(-1, len(x.shape) - 1)
    one, other = ops.split(x, maker.pick(2, [2], [4]), axis=axis)
    values, gates = ops.array_split(x, 2, axis=-1)
    gated = values * ops.tanh(gates) if maker.pick(False, True) else ops.glu(x)
    return ops.concatenate([_with_another_way(one, other), gated], axis=-1)


@block(ANY)
def slices(x, maker):
    x = _linear(x, maker.pick(6, 8))(x)
    parts = maker.one_of(
        bounds=lambda: (x[..., :4], x[..., -4:]),
        strides=lambda: (x[..., ::2], x[..., 1::2]),
        backwards=lambda: (x[..., ::-1], x[..., 3:1:-1]),
    )
    return _with_another_way(*parts)


@block(ANY)
def taken(x, maker):
    x = _linear(x, maker.pick(6, 8))(x)
    start, size = [0] * len(x.shape), [-1, *x.shape[1:-1], 2]
    start[-1] = 1
    part = maker.one_of(
        slice=lambda: ops.slice(x, start, size),
        indices=lambda: ops.take(x, [4, 0, 1], axis=-1),
    )
    return _with_another_way(part, x)


@block(ANY)
def shuffle(x, maker):
    sizes, groups = x.shape[1:-1], maker.pick(2, 3)
    width = 4 * groups
    x = _linear(x, width)(x)
    x = ops.reshape(x, (-1, *sizes, groups, 4))
    return ops.reshape(ops.swapaxes(x, -1, -2), (-1, *sizes, width))


@block(least=2)
def mixed_positions(x, maker):
    """Dense layers over an axis of positions, whose units are channels, too."""
    last = len(x.shape) - 1
    axes = [*range(last + 1)]
    axes[1], axes[last] = last, 1
    y = ops.transpose(layers.BatchNormalization()(x), axes)
    y = layers.Dense(maker.pick(5, 4), activation="gelu")(y)
    if maker.pick(False, True):
        y = layers.Dense(4)(y)
    y = ops.tanh(layers.Dense(x.shape[1])(y))
    return x + ops.swapaxes(y, 1, -1)


@block()
def weighed_by_neighbours(x, maker):
    """ECA: channels weighed by a convolution along them."""
    squeezed = ops.mean(x, axis=[*range(1, len(x.shape) - 1)])
    kernel = maker.pick(3, 2)
    slide = layers.Conv1D(1, kernel, padding=maker.pick("same", "causal"))
    weights = ops.sigmoid(ops.squeeze(slide(ops.expand_dims(squeezed, -1)), -1))
    return x * layers.Reshape((*[1] * (len(x.shape) - 2), x.shape[-1]))(weights)


@block()
def moved(x, maker):
    return maker.one_of(
        flip=lambda: ops.flip(x, axis=maker.pick(1, -1)),
        roll=lambda: ops.roll(x, (1, 1), axis=(1, -1)),
        scan=lambda: ops.cumsum(x, axis=1),
        moveaxis=lambda: ops.moveaxis(ops.relu(ops.moveaxis(x, -1, 1)), 1, -1),
    )


@block(most=8)
def repeated(x, maker):
    if len(x.shape) == 4 and maker.pick(False, True):
        return ops.space_to_depth(ops.depth_to_space(_linear(x, 8)(x), 2), 2)
    x = ops.repeat(x, 2, axis=maker.pick(1, -1))
    return ops.tile(x, (1,) * (len(x.shape) - 1) + (2,))


@layer(axes=(0,))
def repeat_vector(x, maker):
    return layers.RepeatVector(2)


@block(least=2)
def stacked(x, maker):
    return maker.one_of(
        stack=lambda: ops.mean(ops.stack([x, 0.5 * x], axis=1), axis=1),
        stack_behind=lambda: ops.max(ops.stack([x, -x], axis=-1), axis=-1),
        unstack=lambda: ops.add(*ops.unstack(x, axis=1)[:2]),
    )


@block((0, 1))
def expanded(x, maker):
    return ops.expand_dims(x, 1)


@block(ANY)
def shared_over_two(x, maker):
    """A layer with weights reads two tensors, which must have the same channels."""
    width = maker.pick(4, 6)
    y, z = (_linear(x, width)(x) for _ in range(2))
    shared = maker.one_of(
        linear=lambda: _linear(x, 5),
        dense=lambda: layers.Dense(5),
        norm=layers.BatchNormalization,
        layer_norm=layers.LayerNormalization,
        prelu=layers.PReLU,
        rescaling=lambda: layers.Rescaling(_per_channel(y)),
    )
    return _met(shared(y), shared(z), maker)


@block()
def shared_convolution(x, maker):
    y, z = (_linear(x, 4)(x) for _ in range(2))
    shared = _of_axes(x, "Conv")(8, 2, groups=maker.pick(4, 2), padding="same")
    return _met(shared(y), shared(z), maker)


@block(ANY)
def shared_over_widths(x, maker):
    """A layer without weights reads tensors of any widths."""
    y, z = (_linear(x, maker.pick(4, 3))(x) for _ in range(2))
    shared = maker.one_of(
        relu=layers.ReLU,
        dropout=lambda: layers.Dropout(0.1),
        unit_norm=layers.UnitNormalization,
        flatten=layers.Flatten,
    )
    return layers.Concatenate()([shared(y), shared(z)])


@block(ANY)
def shared_in_a_row(x, maker):
    """What a layer makes, it reads."""
    layer = _linear(x, x.shape[-1], activation=maker.pick("relu", "tanh"))
    norm = layers.BatchNormalization()
    return norm(layer(norm(layer(x))))


@block(ANY, deepest=0)
def another_input(x, maker):
    shape, name = (*x.shape[1:-1], maker.pick(2, 1)), f"input_{len(maker.inputs)}"
    other = keras.Input(shape, name=name)
    maker.inputs.append(other)
    return x + _linear(other, x.shape[-1])(other)


@block(ANY, deepest=0)
def another_output(x, maker):
    maker.outputs.append(
        maker.one_of(
            itself=lambda: x,
            linear=lambda: _linear(x, 2)(x),
            activation=lambda: ops.relu(x),
        )
    )
    return _linear(x, maker.pick(4, 5))(x)
