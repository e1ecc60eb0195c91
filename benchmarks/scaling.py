"""How the cost of a search grows with images, width and depth.

    python benchmarks/scaling.py [images] [width] [depth] [resnet] [memory]

Each search is a process of its own, on a network with random weights: CPU seconds of
its stages, and the peak memory above that of the process before. The last row is the
power of the size that the seconds grow with, from the greater half of the table.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from keras_greedy.batches import Batches
from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import trace
from keras_greedy.progress import Progress
from keras_greedy.report import markdown
from keras_greedy.selection.divergence import widths_to_measure
from keras_greedy.selection.expanded import ExpandedMeasurement
from keras_greedy.selection.measured import Measurement
from keras_greedy.selection.methods import Imitation
from keras_greedy.selection.moments import Observed, observe
from keras_greedy.selection.reconstruction import least_squares
from keras_greedy.stages import IMAGES_MEASURED, ROUND_TO, WIDTHS_MEASURED

PIXELS = 32
BATCH = 32
SEED = 0
GIB = 2**30
OF_RESNET = 0
"""In place of a width: those of ResNet50, 101 and 152."""

# What is varied -> (images, width, depth) of each search.
SIZES = {
    "images": [(n, 32, 4) for n in (512, 1024, 2048, 4096)],
    "width": [(128, n, 2) for n in (64, 128, 256, 512)],
    "depth": [(128, 32, n) for n in (8, 16, 32, 64)],
    "resnet": [(32, OF_RESNET, n) for n in (50, 101, 152)],
    "memory": [(n, 128, 4) for n in (500, 5000)],
}
PLACE = {"images": 0, "width": 1, "depth": 2, "resnet": 2, "memory": 0}
STAGES = ("forward", "observe", "select", "measure", "expand")


class Images:
    """Batches of random images that are made when they are read.

    Args:
        count: Number of images.
    """

    def __init__(self, count):
        self._count = count

    def __iter__(self):
        rng = np.random.default_rng(SEED)
        for start in range(0, self._count, BATCH):
            size = min(BATCH, self._count - start)
            yield rng.normal(size=(size, PIXELS, PIXELS, 3)).astype("float32")


def network(width, depth) -> keras.Model:
    """Residual blocks of two 3x3 convolutions with a hidden group of `width` each.

    Args:
        width: Of the hidden groups, or `OF_RESNET`.
        depth: Number of blocks, or of the ResNet's layers.
    """
    keras.utils.set_random_seed(SEED)
    if width == OF_RESNET:
        kind = getattr(keras.applications, f"ResNet{depth}")
        return kind(weights=None, input_shape=(PIXELS, PIXELS, 3))
    x = picture = keras.Input((PIXELS, PIXELS, 3))
    x = layers.Conv2D(width, 3, strides=4, padding="same", activation="relu")(x)
    for _ in range(depth):
        y = layers.Conv2D(width, 3, padding="same", activation="relu")(x)
        y = layers.Conv2D(width, 3, padding="same")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(picture, layers.Dense(10, activation="softmax")(x))


def search(images, width, depth) -> dict:
    """Searches stage by stage, as `keras_greedy.search` does."""
    model = network(width, depth)
    data = Images(images)
    before = peak()
    seconds = {}

    def timed(stage, function, *args):
        start = time.process_time()
        found = function(*args)
        seconds[stage] = time.process_time() - start
        return found

    def forward():
        for batch in data:
            model.predict_on_batch(batch)

    model.predict_on_batch(next(iter(data)))
    timed("forward", forward)
    graph = folded(trace(model))
    batches = Batches(data, graph.functional)
    few = list(batches.take(IMAGES_MEASURED))
    parts = timed("observe", observe, graph, batches, SEED, IMAGES_MEASURED)
    observed = Observed(*parts)
    del parts
    selection = (graph, batches, observed.all, SEED, Progress(0))
    (paths,) = timed("select", Imitation().alternatives, *selection)
    widths = {}
    for group in graph.groups:
        widths[group.name] = widths_to_measure(group.size, WIDTHS_MEASURED, ROUND_TO)
    measurement = Measurement(graph, observed.unseen, least_squares)
    timed("measure", measurement.at, widths, paths, few)
    expansion = ExpandedMeasurement(graph, observed.unseen, least_squares, SEED)
    timed("expand", expansion.at, widths, paths, few)
    return {**seconds, "peak": peak() - before}


def peak() -> float:
    """The largest memory of this process so far, in GiB."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024 / GIB


def in_own_process(sizes) -> dict:
    call = [sys.executable, __file__, "--one", *map(str, sizes)]
    done = subprocess.run(call, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def power(sizes, seconds) -> float:
    """The slope of a line through the logarithms, over the greater half of sizes."""
    half = len(sizes) // 2
    slope, _ = np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)
    return float(slope)


def table(what):
    place = PLACE[what]
    found = [(sizes[place], in_own_process(sizes)) for sizes in SIZES[what]]
    rows = [("images" if what == "memory" else what, *STAGES, "GiB")]
    for size, own in found:
        cells = [f"{own[stage]:.1f}" for stage in STAGES]
        rows.append((str(size), *cells, f"{own['peak']:.2f}"))
    if what != "memory":
        sizes = [size for size, _ in found]
        powers = [power(sizes, [own[stage] for _, own in found]) for stage in STAGES]
        rows.append(("power", *(f"{each:.1f}" for each in powers), ""))
    print("\n" + markdown(rows), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="*", choices=[[], *SIZES])
    parser.add_argument("--one", nargs=3, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(search(*options.one)))
        return
    for what in options.tables or SIZES:
        table(what)


if __name__ == "__main__":
    main()
