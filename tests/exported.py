"""Models the export tests convert, and the files looked at by the runtime itself."""

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from models import randomize

import tflite_export

layers = keras.layers


def images(count, size=16, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size, size, 3)).astype("float32")


class Pieces(keras.utils.PyDataset):
    """`images(count)` in batches of this size, with labels."""

    def __init__(self, count, size):
        super().__init__()
        self._x = images(count)
        self._size = size

    def __len__(self):
        # Rounded up: the last batch may be short.
        return -(-len(self._x) // self._size)

    def __getitem__(self, index):
        start = index * self._size
        x = self._x[start : start + self._size]
        return x, np.zeros(len(x))


def mobile_block(size=16):
    """BatchNorm, depthwise, squeeze-excite and a hard swish of raw operations."""
    x = image = keras.Input((size, size, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = x * keras.ops.relu6(x + 3.0) * (1 / 6)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6)(layers.BatchNormalization()(x))
    squeezed = layers.GlobalAveragePooling2D(keepdims=True)(x)
    squeezed = layers.Conv2D(4, 1, activation="relu")(squeezed)
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="hard_sigmoid")(squeezed)])
    x = layers.Add()([x, layers.Conv2D(8, 1)(x)])
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    x = layers.Dense(1024, activation="tanh")(x)
    return randomize(keras.Model(image, layers.Dense(10, activation="softmax")(x)))


def small_sequential():
    return randomize(
        keras.Sequential(
            [
                keras.Input((16, 16, 3)),
                layers.Conv2D(4, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dense(5),
            ]
        )
    )


def tiny(units=3, features=4, **options):
    x = keras.Input((features,), **options)
    return randomize(keras.Model(x, layers.Dense(units)(x)))


def two_inputs_and_outputs():
    """Its inputs have another order than that of their names."""
    second = keras.Input((4,), name="second")
    first = keras.Input((3,), name="first")
    both = layers.Concatenate()([second, first])
    outputs = [layers.Dense(2)(both), layers.Dense(3)(first)]
    return randomize(keras.Model([second, first], outputs))


def erfinv_of_singular_values():
    """Needs two operations that are not built in."""
    x = keras.Input((4, 4))
    return keras.Model(x, keras.ops.erfinv(keras.ops.svd(x, compute_uv=False)))


def operations(path):
    interpreter = Interpreter(model_path=str(path))
    return {each["op_name"] for each in interpreter._get_ops_details()}


def run_file(path, **inputs):
    runner = Interpreter(model_path=str(path)).get_signature_runner()
    return runner(**inputs)


# Layers whose outputs are moved when their weights are rounded to one side.
ONE_SIDED = {
    "dense": lambda: layers.Dense(6),
    "convolution": lambda: layers.Conv2D(6, 3),
    "groups": lambda: layers.Conv2D(6, 3, groups=2),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
}


def one_sided(name):
    """A model of one layer, data for it, and what each output loses by rounding."""
    x = keras.Input((6, 6, 4))
    layer = ONE_SIDED[name]()
    model = keras.Model(x, layer(x))
    rng = np.random.default_rng(0)
    kernel, bias = layer.get_weights()
    taps = 9 if name == "depthwise" else kernel.size // kernel.shape[-1]
    # A bias of zeros would be left out by the converter.
    layer.set_weights([_one_sided_kernel(rng, kernel.shape, taps), bias + 0.1])
    data = rng.random((64, 6, 6, 4)).astype("float32")
    # The inputs have a mean of 0.5.
    return model, data, 0.4 / 127 * 0.5 * (taps - 1)


def _one_sided_kernel(rng, shape, taps):
    # The largest weight of each channel tells the step: all others lose 0.4 of one.
    kernel = (rng.integers(-20, 20, shape) + 0.4) / 127
    kernel.reshape(taps, -1)[0] = 1
    return kernel


def with_one_bias():
    """A model of two layers whose biases are equal, which converters store once."""
    x = keras.Input((6, 6, 4))
    hidden = layers.Conv2D(4, 3, activation="relu")(x)
    model = keras.Model(x, layers.Conv2D(4, 3)(hidden))
    rng = np.random.default_rng(0)
    for layer in model.layers[1:]:
        kernel = _one_sided_kernel(rng, layer.kernel.shape, 36)
        layer.set_weights([kernel, np.full(4, 0.5)])
    return model, rng.random((64, 6, 6, 4)).astype("float32")


def mean_shift(model, path, data):
    """How far the mean of a channel is off in a file, at most."""
    expected = model.predict(data, verbose=0)
    (found,) = tflite_export.run(path, data).values()
    return np.abs((found - expected).mean(axis=(0, 1, 2))).max()
