"""MobileNetV2 with ImageNet weights, pruned without training, on real images.

    python benchmarks/imagenet_mobilenet_v2.py

Calibrates on images of `imagenet_sample`, measures on `imagenet_val650`. Every ratio
is of two measurements of this one run.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from imagenet import load_model, read_images

import keras_greedy
import tflite_export

HEADER = """\
| MACs | top-1 | same top-1 as full | parameters | .tflite | p50 latency | max error |
|---|---|---|---|---|---|---|"""


def main():
    arguments = parse_arguments()
    model = load_model()
    calibration, _ = read_images("imagenet_sample/all.tfrecord", arguments.images)
    images, labels = read_images("imagenet_val650/val.tfrecord")
    for objective in arguments.objectives:
        paths, cost = search(model, calibration, objective)
        models = {"100 %": model}
        models |= {
            f"{b:.0%}".replace("%", " %"): paths.compact(b) for b in arguments.budgets
        }
        print(f"\nobjective={objective!r}: {cost}\n\n{HEADER}")
        print("\n".join(table(models, images, labels, arguments.runs)), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512, help="for calibration")
    parser.add_argument("--objectives", nargs="+", default=["local", "global"])
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.85, 0.73, 0.6, 0.5]
    )
    parser.add_argument("--runs", type=int, default=100, help="of each .tflite")
    return parser.parse_args()


def search(model, calibration, objective):
    """The paths, and a line on what they cost in time and memory."""
    before = forward_seconds(model, calibration)
    start_memory = peak_gib()
    start = time.perf_counter()
    paths = keras_greedy.search(model, calibration, objective=objective, verbose=0)
    seconds = time.perf_counter() - start
    forward = statistics.median([*before, *forward_seconds(model, calibration)])
    return paths, (
        f"search {seconds:.1f} s, {seconds / forward:.1f} x one forward pass "
        f"({forward:.2f} s, median of {2 * len(before)}) over the same "
        f"{len(calibration)} images; peak memory {peak_gib():.1f} GiB "
        f"({start_memory:.1f} GiB before it, data and forward pass)"
    )


def forward_seconds(model, calibration, repeats=3):
    """Times of `predict`, which has been compiled before."""
    model.predict(calibration[:64], batch_size=32, verbose=0)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.predict(calibration, batch_size=32, verbose=0)
        times.append(time.perf_counter() - start)
    return times


def peak_gib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(models, images, labels, runs):
    """A markdown row per model; the first is the full one."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.tflite" for i in range(len(models))]
        for model, file in zip(models.values(), files, strict=True):
            tflite_export.convert(model, file)
        parities = [
            tflite_export.verify(model, file, images)
            for model, file in zip(models.values(), files, strict=True)
        ]
        comparison = tflite_export.compare(files, runs=runs)
    answers = [
        model.predict(images, batch_size=32, verbose=0).argmax(-1)
        for model in models.values()
    ]
    full = comparison.latencies[0]
    for name, model, answer, parity, latency, ratio in zip(
        models,
        models.values(),
        answers,
        parities,
        comparison.latencies,
        comparison.ratios,
        strict=True,
    ):
        yield (
            f"| {name} ({keras_greedy.macs(model) / 1e6:.0f} M) "
            f"| {np.mean(answer == labels):.1%} | {np.mean(answer == answers[0]):.1%} "
            f"| {model.count_params() / 1e6:.2f} M | {latency.size_bytes / 1e6:.1f} MB "
            f"({latency.size_bytes / full.size_bytes:.2f} x) "
            f"| {latency.p50_ms:.2f} ms ({ratio:.2f} x) | {parity.max_abs_error:.0e} |"
        )


if __name__ == "__main__":
    main()
