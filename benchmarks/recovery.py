"""MobileNetV2 pruned, then trained for minutes on the same few images, without labels.

    python benchmarks/recovery.py
    python benchmarks/recovery.py --images 512 --budgets 0.5

Prunes with images of `imagenet_sample` and `finetune=True`, which trains the compact
model as the full one computes, and measures on `imagenet_val650`.
"""

import argparse
import time

import numpy as np
from imagenet import load_model, read_images

import keras_greedy

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
    for budget in arguments.budgets:
        pruned = paths.compact(budget)
        start = time.perf_counter()
        recovered = keras_greedy.prune(model, images, budget, finetune=True, verbose=0)
        minutes = (time.perf_counter() - start) / 60
        before, _ = measure(pruned, held, answers)
        after, agreement = measure(recovered, held, answers)
        percent = f"{budget:.0%}".replace("%", " %")
        print(
            f"| {percent} ({keras_greedy.macs(recovered) / 1e6:.0f} M) | {before:.1%} "
            f"| **{after:.1%}** | {agreement:.1%} | {minutes:.0f} min |",
            flush=True,
        )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000, help="without their labels")
    parser.add_argument(
        "--budgets", nargs="+", type=float, default=[0.85, 0.73, 0.6, 0.5]
    )
    return parser.parse_args()


def measure(model, held, answers_of_full):
    """Returns the top-1 of a model, and how often it answers as the full one does."""
    images, labels = held
    outputs = model.predict(images, batch_size=PREDICT_BATCH, verbose=0)
    answers = outputs.argmax(-1)
    return float(np.mean(answers == labels)), float(np.mean(answers == answers_of_full))


if __name__ == "__main__":
    main()
