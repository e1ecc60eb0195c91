"""Transformers on digits at half of their multiply-accumulates: heads and all else.

    python benchmarks/heads.py

A ViT and a MobileViT are trained for a moment, cut to 50 % by one search, and trained
again. Beside them the same widths with the units of the greatest L1 norm: of a head, of
all weights that make its queries, keys and values.
"""

import argparse

import keras
import numpy as np
from keras import layers

import keras_greedy
from keras_greedy.datasets import digits
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.rebuild import rebuild

SHARE = 0.5
CALIBRATION_IMAGES = 512
EPOCHS = 12
EPOCHS_AFTER = 2


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    print("| | full | greedy | L1 | greedy, trained | L1, trained |")
    print("|---|---|---|---|---|---|")
    for build, size in ((vit, 16), (mobilevit, 32)):
        found = np.array([row(build, size, seed) for seed in range(arguments.seeds)])
        pairs = zip(found.mean(axis=0), found.std(axis=0), strict=True)
        cells = " | ".join(f"{mean:.1f} ± {std:.1f}" for mean, std in pairs)
        print(f"| {build.__name__} | {cells} |", flush=True)


def row(build, size, seed) -> list[float]:
    """The top-1, in %: full, of both compact models, and of both after training."""
    keras.utils.set_random_seed(seed)
    (x, y), test = digits(size)
    model = build(size)
    train(model, x, y, EPOCHS, rate=2e-3)
    paths = keras_greedy.search(model, x[:CALIBRATION_IMAGES], verbose=0)
    greedy = paths.compact(SHARE)
    by_norm = rebuild(paths.graph, greatest(paths.graph, paths.widths(SHARE)))
    keras_greedy.reestimate_batch_norm(by_norm, x[:CALIBRATION_IMAGES])
    found = [top1(each, *test) for each in (model, greedy, by_norm)]
    for compact in (greedy, by_norm):
        keras.utils.set_random_seed(seed)
        train(compact, x, y, EPOCHS_AFTER, rate=5e-4)
        found.append(top1(compact, *test))
    return found


def train(model, x, y, epochs, rate):
    model.compile(keras.optimizers.AdamW(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)


def top1(model, images, labels) -> float:
    answers = model.predict(images, verbose=0).argmax(axis=-1)
    return 100 * float((answers == labels).mean())


def greatest(graph: ChannelGraph, widths) -> dict[str, np.ndarray]:
    """The channels of each group whose weights have the greatest L1 norm."""
    selection = {}
    for group in graph.groups:
        norms = np.zeros(group.size)
        for call in group.producers:
            norms += norms_of(graph, call, group)
        order = np.argsort(-norms, kind="stable")
        selection[group.name] = np.sort(order[: widths[group.name]])
    return selection


def norms_of(graph, call, group) -> np.ndarray:
    """The L1 norm of what makes each channel of a group in one layer."""
    kernel = np.abs(keras.ops.convert_to_numpy(call.operation.kernel))
    axis = call.rule.axes_of("kernel", kernel.ndim).index("out")
    others = tuple(own for own in range(kernel.ndim) if own != axis)
    by_entry = kernel.sum(axis=others)
    made = graph.channels[call.outputs[0]][call.rule.made_axis]
    return np.array([by_entry[made == channel].sum() for channel in group.channels])


def vit(size) -> keras.Model:
    images = keras.Input((size, size, 1))
    x = layers.Conv2D(64, 4, strides=4)(images)
    x = layers.Dense(64)(layers.Reshape((-1, 64))(x))
    for _ in range(4):
        x = transformer(x, heads=8, key_dim=16, units=128)
    x = layers.LayerNormalization()(x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(images, layers.Dense(10, "softmax")(x))


def mobilevit(size) -> keras.Model:
    images = keras.Input((size, size, 1))
    x = layers.Conv2D(16, 3, 2, padding="same", activation="swish")(images)
    x = inverted(inverted(x, 32, 16, 1), 64, 24, 2)
    y = layers.Conv2D(48, 3, padding="same", activation="swish")(x)
    height, width = y.shape[1:3]
    y = layers.Reshape((height * width, 48))(y)
    for _ in range(2):
        y = transformer(y, heads=6, key_dim=8, units=96)
    y = layers.Reshape((height, width, 48))(y)
    y = layers.Conv2D(24, 1, activation="swish")(y)
    x = layers.Concatenate()([x, y])
    x = layers.Conv2D(32, 3, padding="same", activation="swish")(x)
    x = layers.Conv2D(80, 1, activation="swish")(inverted(x, 64, 40, 2))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(images, layers.Dense(10, "softmax")(x))


def transformer(x, heads, key_dim, units):
    y = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(heads, key_dim)(y, y)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(units, activation="gelu")(y)
    return layers.Add()([x, layers.Dense(x.shape[-1])(y)])


def inverted(x, expanded, filters, strides):
    y = normalized(layers.Conv2D(expanded, 1, use_bias=False)(x), "swish")
    y = layers.DepthwiseConv2D(3, strides, padding="same", use_bias=False)(y)
    y = layers.Conv2D(filters, 1, use_bias=False)(normalized(y, "swish"))
    y = normalized(y)
    return layers.Add()([x, y]) if y.shape == x.shape else y


def normalized(x, activation=None):
    # Of few steps: their statistics are those of the last ones.
    return layers.Activation(activation)(layers.BatchNormalization(momentum=0.8)(x))


if __name__ == "__main__":
    main()
