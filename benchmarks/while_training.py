"""Digits: a network pruned to half of its MACs while it trains, exported and checked.

    python benchmarks/while_training.py

Against the same network pruned at once, to as many MACs, and then trained for as many
epochs.
"""

import argparse
import tempfile
from pathlib import Path

import keras
import numpy as np
from keras import layers

import keras_greedy
import tflite_export
from keras_greedy.datasets import digits

EPOCHS = 8
BATCH = 64


def network():
    x = picture = keras.Input((16, 16, 1))
    for i, (filters, strides) in enumerate([(32, 1), (48, 2), (64, 1), (64, 2)]):
        options = {"padding": "same", "use_bias": False, "name": f"conv_{i}"}
        x = layers.Conv2D(filters, 3, strides, **options)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(picture, layers.Dense(10, activation="softmax")(x))


def compiled(model):
    loss, optimizer = "sparse_categorical_crossentropy", keras.optimizers.Adam(1e-3)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def run(macs=0.5, epochs=EPOCHS, seed=0) -> dict:
    """Name -> accuracy on the 360 test digits, share of MACs, and the file's error."""
    (x, y), (x_test, y_test) = digits(16)

    def fit(model, callbacks=()):
        options = {"batch_size": BATCH, "epochs": epochs, "verbose": 0}
        model.fit(x, y, callbacks=[*callbacks], **options)

    def accuracy(model):
        return model.evaluate(x_test, y_test, verbose=0)[1]

    keras.utils.set_random_seed(seed)
    full = compiled(network())
    fit(full)
    steps = -(-len(x) // BATCH) * epochs
    schedule = keras_greedy.PolynomialWidth(
        macs, begin_step=0, end_step=steps // 2, frequency=steps // 8
    )
    wrapped = compiled(keras_greedy.prune_greedy(full, schedule))
    fit(wrapped, [keras_greedy.GreedySelectionStep(x[:512])])
    compact = compiled(keras_greedy.strip_pruning(wrapped))
    found = {"full": accuracy(full), "while training": accuracy(compact)}
    found["share of MACs"] = keras_greedy.macs(compact) / keras_greedy.macs(full)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compact.tflite"
        tflite_export.convert(compact, file)
        found["error of the .tflite"] = tflite_export.verify(
            compact, file, x_test
        ).max_abs_error
    at_once = keras_greedy.prune(full, x[:512], found["share of MACs"], verbose=0)
    found["at once"] = accuracy(at_once)
    fit(at_once)
    found["at once, then trained"] = accuracy(at_once)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    for macs in options.macs:
        runs = [run(macs, seed=seed) for seed in range(options.seeds)]
        print(f"to {macs:.0%} of MACs")
        for name in runs[0]:
            values = [found[name] for found in runs]
            print(f"  {name:24} {np.mean(values):.4g} ± {np.std(values):.2g}")


if __name__ == "__main__":
    main()
