"""MobileNetV2 with ImageNet weights, pruned without training, on real images.

    python benchmarks/imagenet_mobilenet_v2.py
    python benchmarks/imagenet_mobilenet_v2.py --write
    python benchmarks/imagenet_mobilenet_v2.py --latencies 0.8 0.6 0.5

Calibrates on images of `imagenet_sample`, measures on `imagenet_val650`. Every ratio
is of two measurements of this one run. With `--latencies` the budgets are of measured
time in place of multiply-accumulates. With `--write` the rows become
`imagenet_mobilenet_v2.json` beside this file, and the picture of the README is drawn
from them.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tradeoff
from imagenet import load_model, read_images

import keras_greedy
import tflite_export
from tflite_export.files import replacing

PREDICT_BATCH = 32
FORWARD_REPEATS = 3

HEADER = """\
| MACs | top-1 | same top-1 as full | parameters | .tflite | p50 latency | max error |
|---|---|---|---|---|---|---|"""

TO_REPLACE = """
Written: {results}, {picture}.
Now replace by the above: in README.md the table under "Results" (global), and under the
picture the forward passes that its search took; in benchmarks/RESULTS.md both tables
under "MobileNetV2, ImageNet weights", and the seconds and memory of each search."""


@dataclasses.dataclass(frozen=True)
class Row:
    """A model, full or compact, as measured.

    Attributes:
        budget: Share asked for, of the multiply-accumulates or of the latency.
        macs: Multiply-accumulates.
        top1: Share of the images classified correctly by the Keras model.
        agreement: Share of the images classified as by the full model.
        parameters: Their number.
        file_bytes: Size of the `.tflite` file.
        p50_ms: Median latency of the file.
        latency_ratio: To the full model, over runs in turns.
        max_error: Of the file against the Keras model, on the softmax.
    """

    budget: float
    macs: int
    top1: float
    agreement: float
    parameters: int
    file_bytes: int
    p50_ms: float
    latency_ratio: float
    max_error: float

    def markdown(self, full: "Row") -> str:
        """Returns a row of the table of `HEADER`."""
        percent = f"{self.budget:.0%}".replace("%", " %")
        size_ratio = self.file_bytes / full.file_bytes
        return (
            f"| {percent} ({self.macs / 1e6:.0f} M) "
            f"| {self.top1:.1%} | {self.agreement:.1%} "
            f"| {self.parameters / 1e6:.2f} M "
            f"| {self.file_bytes / 1e6:.1f} MB ({size_ratio:.2f} x) "
            f"| {self.p50_ms:.2f} ms ({self.latency_ratio:.2f} x) "
            f"| {self.max_error:.0e} |"
        )


@dataclasses.dataclass(frozen=True)
class Cost:
    """Time and memory of a search.

    Attributes:
        images: How many it saw.
        search_seconds: Of the search, measured divergences included.
        forward_seconds: Of `predict` on the same images, the median of several.
        peak_gib: Peak memory of the process after the search.
        start_gib: Its peak memory before, with the data and after a forward pass.
        compact_seconds: Of building the compact model of a budget, the median.
    """

    images: int
    search_seconds: float
    forward_seconds: float
    peak_gib: float
    start_gib: float
    compact_seconds: float = 0.0

    def __str__(self) -> str:
        passes = self.search_seconds / self.forward_seconds
        return (
            f"search {self.search_seconds:.1f} s, {passes:.1f} x one forward pass "
            f"({self.forward_seconds:.2f} s, median of {2 * FORWARD_REPEATS}) over the "
            f"same {self.images} images; peak memory {self.peak_gib:.1f} GiB "
            f"({self.start_gib:.1f} GiB before it, data and forward pass); each budget "
            f"{self.compact_seconds:.0f} s"
        )


def main():
    arguments = parse_arguments()
    limit = "latency" if arguments.latencies else "macs"
    shares = arguments.latencies or arguments.budgets
    model = load_model()
    calibration, _ = read_images("imagenet_sample/all.tfrecord", arguments.images)
    images, labels = read_images("imagenet_val650/val.tfrecord")
    results = {}
    for objective in arguments.objectives:
        paths, cost = search(model, calibration, objective)
        models = {1.0: model}
        seconds = []
        for share in shares:
            start = time.perf_counter()
            budget = keras_greedy.Budget(**{limit: share})
            models[share] = paths.compact(budget)
            seconds.append(time.perf_counter() - start)
        cost = dataclasses.replace(cost, compact_seconds=statistics.median(seconds))
        rows = measure(models, images, labels, arguments.runs)
        print(f"\nobjective={objective!r}, budgets of {limit}: {cost}\n\n{HEADER}")
        for row in rows:
            print(row.markdown(full=rows[0]), flush=True)
        results[objective] = {
            "cost": dataclasses.asdict(cost),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
    if arguments.write:
        write(results)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512, help="for calibration")
    parser.add_argument("--objectives", nargs="+", default=["local", "global"])
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.85, 0.73, 0.6, 0.5]
    )
    parser.add_argument(
        "--latencies", nargs="+", type=float, help="budgets of time, in their place"
    )
    parser.add_argument("--runs", type=int, default=100, help="of each .tflite")
    parser.add_argument(
        "--write", action="store_true", help="the results as JSON, and the picture"
    )
    arguments = parser.parse_args()
    if arguments.write and arguments.latencies:
        parser.error("--write is for budgets of multiply-accumulates")
    if arguments.write and tradeoff.OBJECTIVE not in arguments.objectives:
        parser.error(f"--write draws the rows of the objective {tradeoff.OBJECTIVE}")
    return arguments


def search(model, calibration, objective):
    """Returns the paths, and the time and memory they cost."""
    before = forward_seconds(model, calibration)
    start_gib = peak_gib()
    start = time.perf_counter()
    paths = keras_greedy.search(model, calibration, objective=objective, verbose=0)
    seconds = time.perf_counter() - start
    forward = statistics.median([*before, *forward_seconds(model, calibration)])
    return paths, Cost(len(calibration), seconds, forward, peak_gib(), start_gib)


def forward_seconds(model, calibration):
    """Returns times of `predict`, after a first call that compiles it."""
    model.predict(calibration[:64], batch_size=PREDICT_BATCH, verbose=0)
    times = []
    for _ in range(FORWARD_REPEATS):
        start = time.perf_counter()
        model.predict(calibration, batch_size=PREDICT_BATCH, verbose=0)
        times.append(time.perf_counter() - start)
    return times


def peak_gib():
    """Returns the peak memory of this process; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(models, images, labels, runs):
    """Returns a `Row` per model, of budget -> model; the first is the full one."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        parities = []
        for model in models.values():
            file = Path(folder) / f"{len(files)}.tflite"
            tflite_export.convert(model, file)
            parities.append(tflite_export.verify(model, file, images))
            files.append(file)
        comparison = tflite_export.compare(files, runs=runs)
    rows = []
    answers_of_full = None
    for index, (budget, model) in enumerate(models.items()):
        outputs = model.predict(images, batch_size=PREDICT_BATCH, verbose=0)
        answers = outputs.argmax(-1)
        if answers_of_full is None:
            answers_of_full = answers
        latency = comparison.latencies[index]
        rows.append(
            Row(
                budget=budget,
                macs=int(keras_greedy.macs(model)),
                top1=float(np.mean(answers == labels)),
                agreement=float(np.mean(answers == answers_of_full)),
                parameters=model.count_params(),
                file_bytes=latency.size_bytes,
                p50_ms=latency.p50_ms,
                latency_ratio=float(comparison.ratios[index]),
                max_error=float(parities[index].max_abs_error),
            )
        )
    return rows


def write(results):
    """Writes the rows as JSON, draws the picture, and says what is to be replaced."""
    with replacing(tradeoff.RESULTS) as temporary:
        temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    picture = tradeoff.draw(results)
    print(TO_REPLACE.format(results=tradeoff.RESULTS.name, picture=picture.name))


if __name__ == "__main__":
    main()
