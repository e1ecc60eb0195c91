"""MobileNetV2 pruned with more and more images, without training and labels.

    python benchmarks/few_images.py
    python benchmarks/few_images.py --images 64 512 --budgets 0.6

Calibrates on the first images of `imagenet_sample`, measures on `imagenet_val650`.
"""

import argparse

import numpy as np
from imagenet import load_model, read_images

import keras_greedy
from keras_greedy.report import markdown

PREDICT_BATCH = 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--images", nargs="+", type=int, default=[16, 32, 64, 128, 256, 512, 1000]
    )
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.73, 0.5])
    options = parser.parse_args()
    model = load_model()
    sample, _ = read_images("imagenet_sample/all.tfrecord", max(options.images))
    test = read_images("imagenet_val650/val.tfrecord")
    print(f"Full model: top-1 {top1(model, test):.1%}", flush=True)
    rows = [("images", *(f"{budget:.0%} of MACs" for budget in options.budgets))]
    for count in options.images:
        paths = keras_greedy.search(model, sample[:count], verbose=0)
        found = [top1(paths.compact(budget), test) for budget in options.budgets]
        rows.append((f"{count:,}", *(f"{each:.1%}" for each in found)))
        print(*rows[-1], flush=True)
    print("\n" + markdown(rows))


def top1(model, test) -> float:
    images, labels = test
    answers = model.predict(images, batch_size=PREDICT_BATCH, verbose=0).argmax(-1)
    return float(np.mean(answers == labels))


if __name__ == "__main__":
    main()
