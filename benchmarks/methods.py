"""Objectives and step rules on MobileNetV2, without training.

    python benchmarks/methods.py

Prunes with every objective and step; those that go layer by layer evaluate the
network behind each group thousands of times, and take most of the time.
"""

import argparse
import time

import numpy as np
from imagenet import load_model, read_images

import keras_greedy
from keras_greedy.report import markdown

SEARCHES = {
    "loss": keras_greedy.LossSearch,
    "divergence": keras_greedy.DivergenceSearch,
}
IMITATIONS = [
    (objective, step)
    for objective in ("local", "global")
    for step in ("uniform", "line_search", "corrective")
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.85, 0.73, 0.6])
    parser.add_argument("--layerwise", nargs="*", default=["loss"])
    parser.add_argument("--layerwise-budget", type=float, default=0.73)
    parser.add_argument("--channels-per-step", type=int, default=16)
    options = parser.parse_args()
    model = load_model()
    data = read_images("imagenet_sample/all.tfrecord", 512)
    test = read_images("imagenet_val650/val.tfrecord")
    rows = [("objective", "step", "seconds", *(f"{b:.0%}" for b in options.budgets))]
    for objective, step in IMITATIONS:
        start = time.perf_counter()
        paths = keras_greedy.search(
            model, data, objective=objective, step=step, verbose=0
        )
        seconds = time.perf_counter() - start
        found = {b: top1(paths.compact(b), test) for b in options.budgets}
        rows.append(row(objective, step, seconds, found, options))
    for objective in options.layerwise:
        start = time.perf_counter()
        method = SEARCHES[objective](
            step="uniform", channels_per_step=options.channels_per_step
        )
        compact = keras_greedy.prune(
            model, data, options.layerwise_budget, method=method, verbose=0
        )
        found = {options.layerwise_budget: top1(compact, test)}
        seconds = time.perf_counter() - start
        rows.append(row(objective, "uniform", seconds, found, options))
    print("\n" + markdown(rows))


def row(objective, step, seconds, found, options):
    cells = (f"{found[b]:.1%}" if b in found else "" for b in options.budgets)
    made = objective, step, f"{seconds:.0f}", *cells
    print(*made, flush=True)
    return made


def top1(model, test) -> float:
    images, labels = test
    answers = model.predict(images, batch_size=32, verbose=0).argmax(axis=-1)
    return float(np.mean(answers == labels))


if __name__ == "__main__":
    main()
