"""MobileNetV2 pruned, then trained for minutes on the same few images, without labels.

    python benchmarks/recovery.py
    python benchmarks/recovery.py --images 512 --budgets 0.5
    python benchmarks/recovery.py --write

Prunes with images of `imagenet_sample` and `finetune=True`, which trains the compact
model as the full one computes, and measures on `imagenet_val650`. With `--write` the
rows become `recovery.json` beside this file, from which `tradeoff.py` draws.
"""

import argparse
import json
import time

import numpy as np
import tradeoff
from imagenet import load_model, read_images

import keras_greedy
from tflite_export.files import replacing

PREDICT_BATCH = 32

HEADER = """\
| MACs | top-1 as pruned | top-1 recovered | same top-1 as full | search and training |
|---|---|---|---|---|"""


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
    rows = []
    for budget in arguments.budgets:
        pruned = paths.compact(budget)
        start = time.perf_counter()
        recovered = keras_greedy.prune(model, images, budget, finetune=True, verbose=0)
        seconds = time.perf_counter() - start
        row = {
            "budget": budget,
            "macs": int(keras_greedy.macs(recovered)),
            "pruned": measure(pruned, held, answers)["top1"],
            "seconds": seconds,
            **measure(recovered, held, answers),
        }
        rows.append(row)
        print(markdown(row), flush=True)
    if arguments.write:
        results = {"images": len(images), "rows": rows}
        with replacing(tradeoff.RECOVERED) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"\nWritten: {tradeoff.RECOVERED.name}. Now run tradeoff.py.")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="without their labels")
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.5, 0.6, 0.73, 0.85, 0.4]
    )
    parser.add_argument("--write", action="store_true", help="the rows as JSON")
    return parser.parse_args()


def measure(model, held, answers_of_full):
    """Returns the top-1 of a model, and how often it answers as the full one does."""
    images, labels = held
    outputs = model.predict(images, batch_size=PREDICT_BATCH, verbose=0)
    answers = outputs.argmax(-1)
    return {
        "top1": float(np.mean(answers == labels)),
        "agreement": float(np.mean(answers == answers_of_full)),
    }


def markdown(row):
    """Returns a row of the table of `HEADER`."""
    percent = f"{row['budget']:.0%}".replace("%", " %")
    return (
        f"| {percent} ({row['macs'] / 1e6:.0f} M) | {row['pruned']:.1%} "
        f"| **{row['top1']:.1%}** | {row['agreement']:.1%} "
        f"| {row['seconds'] / 60:.0f} min |"
    )


if __name__ == "__main__":
    main()
