"""Pruning and precision: each alone, one after the other, and by one budget.

    python benchmarks/precision.py
    python benchmarks/precision.py resnet56
    python benchmarks/precision.py --train 2 1.5

For each size of the `.tflite` file the best that each way has, without training; with
`--train` also what is left at these sizes after a training on the same images, without
labels. MobileNetV2 by 512 images of `imagenet_sample`, top-1 on `imagenet_val650`;
ResNet-56 by 512 training images of CIFAR-10, on the first 2,500 test images. The folder
`--work` keeps the search and each cell as soon as it is measured.
"""

import argparse
import dataclasses
import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import cifar
import imagenet
import keras
import numpy as np

import keras_greedy
import tflite_export
from tflite_export.files import replacing

WORK = imagenet.ROOT / "benchmark_output" / "precision"
IMAGES = 512
CALIBRATION = 128
CIFAR_IMAGES = 2500
BOTH = ("int8", "int4")
TRIES = 4
"""To prune so far that the quantized file has the size."""

PRUNED = "pruned"
QUANTIZED = "quantized"
ONE_BUDGET = "one budget"
TRAINED = ", trained"


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and its images.

    Attributes:
        load: Returns the network.
        read: Returns the images to search with, and those to test on with labels.
        sizes: Of files, in MB.
        recipes: Ways to quantize -> the recipe, and the share of the bytes of int8 that
            it leaves, about.
    """

    load: Callable[[], keras.Model]
    read: Callable[[], tuple]
    sizes: tuple[float, ...]
    recipes: dict[str, tuple[object, float]]


def main():
    arguments = parse_arguments()
    case = CASES[arguments.network]
    work = arguments.work / arguments.network
    work.mkdir(parents=True, exist_ok=True)
    typical, images, labels = case.read()
    bench = Bench(case, work, typical, (images, labels), arguments.epochs)
    sizes = arguments.sizes or case.sizes
    for size in sizes:
        for way in bench.ways:
            bench.cell(way, size)
    for size in arguments.train:
        for way in bench.trained:
            bench.cell(way, size)
    print(f"\nFull model: {bench.full()}\n")
    print("\n".join(bench.table(sizes)))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("network", nargs="?", default="mobilenet_v2", choices=CASES)
    parser.add_argument("--sizes", nargs="+", type=float, help="of the files, in MB")
    parser.add_argument("--train", nargs="+", type=float, default=[], help="at these")
    parser.add_argument("--epochs", type=int, default=10, help="of the training")
    parser.add_argument("--work", type=Path, default=WORK, help="keeps what is done")
    return parser.parse_args()


class Bench:
    """Makes and measures files, each once.

    Args:
        case: The network.
        work: The folder that keeps them.
        typical: Images to search and calibrate with.
        test: Images and labels to measure on.
        epochs: Of the training, where there is one.
    """

    def __init__(self, case: Case, work: Path, typical, test, epochs: int):
        self._case = case
        self._work = work
        self._typical = typical
        self._test = test
        self._epochs = epochs
        self._model = case.load()
        self._paths = None
        self.ways = {PRUNED: self.pruned, QUANTIZED: self.quantized}
        for name, (recipe, share) in case.recipes.items():
            way = functools.partial(self._in_sequence, recipe, share)
            self.ways[f"pruned, then {name}"] = way
        self.ways[ONE_BUDGET] = self.one_budget
        self.trained = {
            "pruned" + TRAINED + ", then `int8`": self.trained_to_int8,
            ONE_BUDGET + TRAINED: self.trained_in_one_budget,
        }
        self._cells_file = work / "cells.json"
        self._cells = {}
        if self._cells_file.exists():
            self._cells = json.loads(self._cells_file.read_text(encoding="utf-8"))

    @property
    def paths(self) -> keras_greedy.SelectionPaths:
        """The search, made once."""
        if self._paths is None:
            folder = self._work / "search"
            self._paths = keras_greedy.search(
                self._model, self._typical, checkpoint=folder, verbose=2
            )
        return self._paths

    def full(self) -> str:
        """Returns what the full model has, in float32."""
        if "full" not in self._cells:
            self._keep("full", self._measured(self._exported(self._model, "full")))
        return self._text("full")

    def cell(self, way: str, size: float) -> None:
        """Makes and measures the best file of a way within a size, or none."""
        key = f"{way} {size:g}"
        if key not in self._cells:
            self._keep(key, (self.ways | self.trained)[way](size))
        print(key, self._text(key), flush=True)

    def table(self, sizes):
        """Returns the lines of the table."""
        yield "| | " + " | ".join(f"{size:g} MB" for size in sizes) + " |"
        yield "|---|" + "---:|" * len(sizes)
        for way in (*self.ways, *self.trained):
            cells = [self._text(f"{way} {size:g}") for size in sizes]
            if any(cells):
                yield f"| {way} | " + " | ".join(cells) + " |"

    def pruned(self, size: float):
        """Widths alone, float32."""
        compact = self._compact(size, None)
        return compact and self._measured(self._exported(compact, f"pruned {size:g}"))

    def quantized(self, size: float):
        """The full model by the recipe of the best file that fits."""
        found = []
        for name, (recipe, _) in self._case.recipes.items():
            key = f"recipe {name}"
            if key not in self._cells:
                path = self._exported(self._model, "full")
                self._keep(key, self._measured(self._quantized(path, recipe)))
                print(key, self._text(key), flush=True)
            if self._cells[key]["bytes"] <= 1e6 * size:
                found.append(self._cells[key])
        return max(found, key=lambda cell: cell["top1"], default=None)

    def _in_sequence(self, recipe, share: float, size: float):
        """Prunes, quantizes, and corrects the pruning until the file has the size.

        Args:
            recipe: Of `quantize`.
            share: Of the bytes of int8 that it may leave, for the first try.
            size: Of the file, in MB.
        """
        best = None
        for _ in range(TRIES):
            compact = self._compact(size / share, ("int8",))
            if compact is None:
                break
            path = self._exported(compact, f"in sequence {size:g}")
            cell = self._measured(self._quantized(path, recipe))
            fits = cell["bytes"] <= 1e6 * size
            if fits and (best is None or cell["bytes"] > best["bytes"]):
                best = cell
            if fits and (cell["bytes"] > 0.97e6 * size or compact is self._model):
                break
            share *= 1.005 * cell["bytes"] / (1e6 * size)
        return best

    def one_budget(self, size: float):
        """Widths and bits by one budget."""
        compact = self._compact(size, BOTH)
        if compact is None:
            return None
        path = self._exported(compact, f"one {size:g}")
        return self._measured(self._quantized(path, "rounded"))

    def trained_to_int8(self, size: float):
        """Widths for the bytes of int8, trained, then int8."""
        compact = self._trained(size, ("int8",))
        path = self._exported(compact, f"trained to int8 {size:g}")
        return self._measured(self._quantized(path, "int8"))

    def trained_in_one_budget(self, size: float):
        """Widths and bits by one budget, trained, kernels rounded behind it."""
        path = self._exported(self._trained(size, BOTH), f"trained {size:g}")
        return self._measured(self._quantized(path, "rounded"))

    def _trained(self, size: float, precision) -> keras.Model:
        """Returns the model of a budget, trained to compute what the full one does.

        The same images, without labels; an eighth of them judges the others.
        """
        keras.utils.set_random_seed(0)
        return keras_greedy.prune(
            self._model,
            self._typical,
            keras_greedy.Budget(file_bytes=1e6 * size, precision=precision),
            finetune=keras_greedy.FineTune(self._epochs, distill=True),
            checkpoint=self._work / "search on a part",
            verbose=2,
        )

    def _compact(self, size: float, precision):
        budget = keras_greedy.Budget(file_bytes=1e6 * size, precision=precision)
        try:
            return self.paths.compact(budget)
        except ValueError as error:
            print(f"{size:g} MB, {precision}: {error}", flush=True)
            return None

    def _exported(self, model, name: str) -> Path:
        return tflite_export.convert(model, self._work / f"{name}.tflite")

    def _quantized(self, path: Path, recipe) -> Path:
        target = path.with_name(f"{path.stem} quantized.tflite")
        typical = self._typical[:CALIBRATION]
        with warnings.catch_warnings():
            # Where nothing is in 4 bits, "rounded" says that it is "int8".
            warnings.simplefilter("ignore", UserWarning)
            return tflite_export.quantize(path, target, recipe, typical)

    def _measured(self, path: Path) -> dict[str, float]:
        images, labels = self._test
        (outputs,) = tflite_export.run(path, images).values()
        top1 = float(np.mean(outputs.argmax(-1) == labels))
        return {"top1": top1, "bytes": path.stat().st_size}

    def _keep(self, key: str, cell) -> None:
        self._cells[key] = cell
        with replacing(self._cells_file) as temporary:
            temporary.write_text(json.dumps(self._cells, indent=1), encoding="utf-8")

    def _text(self, key: str) -> str:
        if key not in self._cells:
            return ""
        cell = self._cells[key]
        if cell is None:
            return "none"
        return f"{cell['top1']:.1%} ({cell['bytes'] / 1e6:.2f} MB)"


def read_imagenet():
    typical, _ = imagenet.read_images("imagenet_sample/all.tfrecord", IMAGES)
    return typical, *imagenet.read_images("imagenet_val650/val.tfrecord")


def read_cifar():
    typical, _ = cifar.read_images("train", IMAGES)
    return typical, *cifar.read_images("test", CIFAR_IMAGES)


RECIPES = {
    "`int8`": ("int8", 1.0),
    "`int4`": ("int4", 0.8),
    "`int4` in all layers": ({".*": "int4"}, 0.55),
}
LAST_IN_FOUR = {".*": "int8", "predictions|Conv_1_": "int4"}
CASES = {
    "mobilenet_v2": Case(
        imagenet.load_model,
        read_imagenet,
        (4, 3, 2, 1.5),
        RECIPES | {"`int8`, last two layers `int4`": (LAST_IN_FOUR, 0.75)},
    ),
    "resnet56": Case(cifar.load_model, read_cifar, (0.9, 0.6, 0.4, 0.3), RECIPES),
}


if __name__ == "__main__":
    main()
