"""ResNet-56 on CIFAR-10, with labels: the papers' methods and ours, in small.

    python benchmarks/cifar10_resnet56.py
    python benchmarks/cifar10_resnet56.py --quick
    python benchmarks/cifar10_resnet56.py --epochs 10 --seeds 3 3 --work LONGER
    python benchmarks/cifar10_resnet56.py --write

Tunes the network on the JPEG copy of the images first, prunes it with each method to
the same widths, and trains all alike. The folder `--work` keeps the tuned network and
each row as soon as it is measured; what it holds is not made again. `--write` also
writes the rows to `cifar10_resnet56.json` beside this file.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cifar
import keras
import numpy as np
from cifar10_pruning import METHODS, WITHOUT_WEIGHTS, Pruning
from cifar10_training import Labelled, top1, train

import keras_greedy
from keras_greedy.report import markdown
from tflite_export.files import replacing

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_suffix(".json")
WORK = ROOT / "benchmark_output" / "cifar10_resnet56"
TUNED = "tuned.keras"
ROWS = "rows.json"

HELD = 2_500
"""The last training images, which no network is trained on: settings go by them."""

AS_PRUNED = 2_500
"""The test images, of all 10,000, that networks are measured on before training."""

SPEEDUPS = [2.13, 2.57]
SEEDS = [3, 1]
"""Of each of them."""

FEWER_SEEDS = {"ICML, training after each layer": [1, 0]}
"""Method -> its seeds, where one network takes half an hour."""

QUICK_WORK = WORK.with_name("cifar10_resnet56_quick")
QUICK_IMAGES = 512
QUICK_CALIBRATION = 64
QUICK_SPEEDUP = 1.01
"""Few groups are cut for it."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all rows have in common.

    Attributes:
        tuning_epochs: Passes over the training images, to tune the full network.
        tuning_rate: The greatest learning rate then.
        epochs: Passes over the training images, for each pruned network.
        rate: The greatest learning rate then.
        calibration: Training images that the methods see.
        images: Of the training set and of the test set, -1 for all.
    """

    tuning_epochs: float
    tuning_rate: float
    epochs: float
    rate: float
    calibration: int
    images: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A pruned network as measured.

    Attributes:
        method: A key of `METHODS`.
        speedup: Multiply-accumulates of the full network per one asked for.
        seed: Of the calibration images, the method and the training.
        macs: Share of the multiply-accumulates that is left.
        seconds: To search, unless an earlier row did, and prune.
        top1_as_pruned: On the first test images, before the training; `None` where
            the weights are new.
        top1: On all test images, after it.
    """

    method: str
    speedup: float
    seed: int
    macs: float
    seconds: float
    top1_as_pruned: float | None
    top1: float


class Results:
    """The rows measured so far, and the file that keeps them.

    Args:
        file: A JSON file, which need not exist.
        settings: Of all rows.
    """

    def __init__(self, file: Path, settings: Settings):
        self._file = file
        self.settings = dataclasses.asdict(settings)
        self.full: dict[str, float] = {}
        self.rows: list[Row] = []
        if not file.exists():
            return
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["settings"] != self.settings:
            sys.exit(f"{file} has rows of other settings: name another --work.")
        self.full = content["full"]
        self.rows = [Row(**row) for row in content["rows"]]

    def has(self, method: str, speedup: float, seed: int) -> bool:
        """Returns whether there is such a row."""
        known = [(row.method, row.speedup, row.seed) for row in self.rows]
        return (method, speedup, seed) in known

    def write(self, file: Path | None = None) -> None:
        """Writes all, to another file if one is given."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        content = {"settings": self.settings, "full": self.full, "rows": rows}
        with replacing(file or self._file) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of one run.

    Attributes:
        training: To prune and train with.
        held: To choose settings by.
        test: To measure on.
    """

    training: Labelled
    held: Labelled
    test: Labelled

    @classmethod
    def read(cls, count: int) -> "Images":
        """Reads so many of the training set and of the test set."""
        images, labels = cifar.read_images("train", count)
        held = min(HELD, len(images) // 4)
        return cls(
            training=Labelled(images[:-held], labels[:-held]),
            held=Labelled(images[-held:], labels[-held:]),
            test=Labelled(*cifar.read_images("test", count)),
        )


def main():
    arguments = parse_arguments()
    settings = settings_of(arguments)
    arguments.work.mkdir(parents=True, exist_ok=True)
    images = Images.read(settings.images)
    results = Results(arguments.work / ROWS, settings)
    full = tuned(arguments.work / TUNED, images, settings, results)
    prunings: dict[int, Pruning] = {}
    for seed, speedup, method in cases(arguments):
        if results.has(method, speedup, seed):
            continue
        if seed not in prunings:
            data = sample(images.training, settings.calibration, seed)
            # That of the seed before is not needed any more.
            prunings = {seed: Pruning(full, data, seed)}
        row = measured(method, speedup, prunings[seed], images, settings)
        print(row, flush=True)
        results.rows.append(row)
        results.write()
    print("\n" + markdown(table(results.rows, arguments.speedups)))
    if arguments.write:
        results.write(RESULTS)
        print(f"\nWritten: {RESULTS.name}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--speedups", nargs="+", type=float, help="full MACs per MAC")
    parser.add_argument("--seeds", nargs="+", type=int, help="of each of them")
    parser.add_argument("--tuning-epochs", type=float, default=3.0)
    parser.add_argument("--tuning-rate", type=float, default=0.01)
    parser.add_argument("--epochs", type=float, default=0.2, help="of each network")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--calibration", type=int, default=512, help="images")
    parser.add_argument("--work", type=Path, help="a folder that keeps all rows")
    parser.add_argument("--quick", action="store_true", help="of little, in minutes")
    parser.add_argument("--write", action="store_true", help="the JSON file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.speedups = arguments.speedups or [QUICK_SPEEDUP]
        arguments.seeds = arguments.seeds or [1]
    arguments.work = arguments.work or (QUICK_WORK if arguments.quick else WORK)
    arguments.speedups = arguments.speedups or SPEEDUPS
    given = len(arguments.seeds or SEEDS)
    if given != len(arguments.speedups):
        parser.error("expected as many --seeds as --speedups")
    return arguments


def settings_of(arguments) -> Settings:
    names = [field.name for field in dataclasses.fields(Settings)]
    given = {name: value for name, value in vars(arguments).items() if name in names}
    settings = Settings(**given, images=-1)
    if not arguments.quick:
        return settings
    return dataclasses.replace(
        settings, calibration=QUICK_CALIBRATION, images=QUICK_IMAGES
    )


def sample(data: Labelled, count: int, seed: int) -> Labelled:
    """Returns so many examples drawn at random."""
    rng = np.random.default_rng(seed)
    return data.at(rng.choice(len(data), count, replace=False))


def cases(arguments) -> Iterator[tuple[int, float, str]]:
    """Yields seed, speedup and method of each row, those of one seed together."""
    for seed in range(max(arguments.seeds or SEEDS)):
        for index, speedup in enumerate(arguments.speedups):
            for method in arguments.methods:
                seeds = arguments.seeds or FEWER_SEEDS.get(method, SEEDS)
                if seed < seeds[index]:
                    yield seed, speedup, method


def tuned(
    file: Path, images: Images, settings: Settings, results: Results
) -> keras.Model:
    """Returns the full network, tuned on the training images, which is made once."""
    if not file.exists():
        full = cifar.load_model()
        keras.utils.set_random_seed(0)
        train(full, images.training, settings.tuning_epochs, settings.tuning_rate, 0)
        with replacing(file) as temporary:
            full.save(temporary)
    full = keras.models.load_model(file)
    if not results.full:
        results.full = {
            "top1_untuned": top1(cifar.load_model(), images.test),
            "top1": top1(full, images.test),
            "top1_held": top1(full, images.held),
        }
        results.write()
    print(f"full network: {results.full}", flush=True)
    return full


def measured(
    method: str,
    speedup: float,
    pruning: Pruning,
    images: Images,
    settings: Settings,
) -> Row:
    """Prunes, trains and measures."""
    start = time.perf_counter()
    widths = pruning.widths(1 / speedup)
    model = METHODS[method](pruning, widths)
    seconds = time.perf_counter() - start
    as_pruned = None
    if method != WITHOUT_WEIGHTS:
        as_pruned = top1(model, images.test.at(slice(AS_PRUNED)))
    train(model, images.training, settings.epochs, settings.rate, pruning.seed)
    # The moving statistics of BatchNorm are not at home yet after so few steps.
    pruning.normalized(model)
    return Row(
        method,
        speedup,
        pruning.seed,
        macs=keras_greedy.macs(model) / keras_greedy.macs(pruning.full),
        seconds=seconds,
        top1_as_pruned=as_pruned,
        top1=top1(model, images.test),
    )


def table(rows: list[Row], speedups: list[float]) -> list[tuple[str, ...]]:
    """Returns the header, and a row for each method."""
    header = ["method"]
    for speedup in speedups:
        header += [f"1/{speedup:g} of MACs: as pruned", "trained"]
    lines = [tuple(header)]
    for method in METHODS:
        cells = [method]
        for speedup in speedups:
            of_cell = [
                row for row in rows if (row.method, row.speedup) == (method, speedup)
            ]
            cells.append(spread([row.top1_as_pruned for row in of_cell]))
            cells.append(spread([row.top1 for row in of_cell]))
        lines.append(tuple(cells))
    return lines


def spread(shares: list[float | None]) -> str:
    """Returns the mean and the standard deviation, as far as there are such."""
    found = 100 * np.array([share for share in shares if share is not None])
    if not len(found):
        return ""
    if len(found) == 1:
        return f"{found[0]:.1f} %"
    return f"{found.mean():.1f} ± {found.std(ddof=1):.1f} %"


if __name__ == "__main__":
    main()
