"""Cuts measured, and to second order: the time, and the networks of both.

    python benchmarks/expanded.py

MobileNetV2 with its ImageNet weights, 512 images to search on, top-1 on
`imagenet_val650` without training; and the search alone of ResNet50 with random
weights on 256 random images.
"""

import argparse
import time

import imagenet
import keras
import numpy as np

import keras_greedy
from keras_greedy.report import markdown

BUDGETS = (0.85, 0.73, 0.6, 0.5)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--without-resnet", action="store_true")
    options = parser.parse_args()
    model = imagenet.load_model()
    data, _ = imagenet.read_images("imagenet_sample/all.tfrecord", 512)
    images, labels = imagenet.read_images("imagenet_val650/val.tfrecord")
    shares = [f"{budget:.0%}" for budget in BUDGETS]
    rows = [("divergence", "MobileNetV2", *shares, "ResNet50")]
    for divergence in ("measured", "expanded"):
        paths, seconds = searched(model, data, divergence)
        row = [divergence, f"{seconds:.0f} s"]
        for budget in BUDGETS:
            answers = paths.compact(budget).predict(images, verbose=0)
            row.append(f"{np.mean(answers.argmax(axis=1) == labels):.1%}")
        row.append("" if options.without_resnet else resnet50(divergence))
        rows.append(tuple(row))
        print(*row, flush=True)
    print("\n" + markdown(rows))


def searched(model, data, divergence):
    """Returns the paths, and the seconds that the search took."""
    method = keras_greedy.Imitation(divergence=divergence)
    begin = time.perf_counter()
    paths = keras_greedy.search(model, data, method=method, verbose=0)
    return paths, time.perf_counter() - begin


def resnet50(divergence):
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None)
    data = np.random.default_rng(0).normal(size=(256, 224, 224, 3)).astype("float32")
    _, seconds = searched(model, data, divergence)
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    main()
