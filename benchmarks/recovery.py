"""MobileNetV2 pruned, then trained for minutes on the same few images, without labels.

    python benchmarks/recovery.py
    python benchmarks/recovery.py --images 512 --budgets 0.5
    python benchmarks/recovery.py --write

Prunes with images of `imagenet_sample` and `finetune=True`, which trains the compact
model as the full one computes, and measures on `imagenet_val650`. With `--write` the
rows go into `recovery.json` beside this file, each as soon as it is measured, and the
picture of the README is drawn from them and `imagenet_mobilenet_v2.json`.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tradeoff
from imagenet import load_model, read_images

import keras_greedy
import tflite_export
from tflite_export.files import replacing

PREDICT_BATCH = 32

HEADER = """\
| MACs | top-1 as pruned | trained | same top-1 as full, as pruned | trained \
| p50 latency | minutes |
|---|---|---|---|---|---|---|"""


@dataclasses.dataclass(frozen=True)
class Row:
    """A compact model as measured.

    Attributes:
        budget: Share of the multiply-accumulates asked for.
        macs: Multiply-accumulates.
        top1_as_pruned: Share of the images classified correctly before training.
        top1: Share of them classified correctly after training.
        agreement_as_pruned: Share of them classified as by the full model, before.
        agreement: Likewise, after training.
        latency: Median of the `.tflite`, relative to that of the full model.
        minutes: Of search and training.
    """

    budget: float
    macs: int
    top1_as_pruned: float
    top1: float
    agreement_as_pruned: float
    agreement: float
    latency: float
    minutes: float

    def markdown(self) -> str:
        """Returns a row of the table of `HEADER`."""
        percent = f"{self.budget:.0%}".replace("%", " %")
        return (
            f"| {percent} ({self.macs / 1e6:.0f} M) | {self.top1_as_pruned:.1%} "
            f"| **{self.top1:.1%}** | {self.agreement_as_pruned:.1%} "
            f"| **{self.agreement:.1%}** | {self.latency:.2f} x | {self.minutes:.0f} |"
        )


def main():
    arguments = parse_arguments()
    model = load_model()
    images, _ = read_images("imagenet_sample/all.tfrecord", arguments.images)
    held = read_images("imagenet_val650/val.tfrecord")
    answers = model.predict(held[0], batch_size=PREDICT_BATCH, verbose=0).argmax(-1)
    print(
        f"Full model: top-1 {np.mean(answers == held[1]):.1%}\n\n{HEADER}", flush=True
    )
    paths = keras_greedy.search(model, images, verbose=0)
    for budget in arguments.budgets:
        keras.utils.set_random_seed(0)
        start = time.perf_counter()
        trained = keras_greedy.prune(model, images, budget, finetune=True, verbose=0)
        minutes = (time.perf_counter() - start) / 60
        as_pruned = measure(paths.compact(budget), held, answers)
        after = measure(trained, held, answers)
        row = Row(
            budget,
            macs=keras_greedy.macs(trained),
            top1_as_pruned=as_pruned[0],
            top1=after[0],
            agreement_as_pruned=as_pruned[1],
            agreement=after[1],
            latency=latency_ratio(model, trained),
            minutes=minutes,
        )
        print(row.markdown(), flush=True)
        if arguments.write:
            write(arguments.images, row)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="without their labels")
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.85, 0.73, 0.6, 0.5, 0.4]
    )
    parser.add_argument("--write", action="store_true", help="the rows and the picture")
    return parser.parse_args()


def measure(model, held, answers_of_full):
    """Returns the top-1 of a model, and how often it answers as the full one does."""
    images, labels = held
    outputs = model.predict(images, batch_size=PREDICT_BATCH, verbose=0)
    answers = outputs.argmax(-1)
    return float(np.mean(answers == labels)), float(np.mean(answers == answers_of_full))


def latency_ratio(full, compact) -> float:
    """Returns the median latency of one `.tflite` to that of another, run in turns."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, model in {"full": full, "compact": compact}.items():
            file = Path(folder) / f"{name}.tflite"
            files.append(tflite_export.convert(model, file))
        return float(tflite_export.compare(files, runs=200).ratios[1])


def write(images, row) -> None:
    """Writes a row into the JSON, in the place of an older one, and draws the picture.

    The rows of other budgets stay, if they are of as many images.
    """
    content = {"images": images, "rows": []}
    if tradeoff.RECOVERY.exists():
        older = json.loads(tradeoff.RECOVERY.read_text(encoding="utf-8"))
        if older["images"] == images:
            content = older
    others = [other for other in content["rows"] if other["budget"] != row.budget]
    rows = [*others, dataclasses.asdict(row)]
    content["rows"] = sorted(rows, key=lambda row: -row["budget"])
    with replacing(tradeoff.RECOVERY) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    results = json.loads(tradeoff.RESULTS.read_text(encoding="utf-8"))
    tradeoff.draw(results)


if __name__ == "__main__":
    main()
