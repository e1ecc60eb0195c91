"""Digits: pruned here, then quantized, clustered and made sparse by TF-MOT.

    make bench-tfmot

Needs the environment of constraints-tfmot.txt. TF-MOT switches TensorFlow to legacy
Keras, so each of its roads is a process of its own (`tfmot_roads.py`), which reads a
tf_keras model from a file and writes a .tflite file.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from while_training import compiled, network

import keras_greedy
import tflite_export
from keras_greedy.datasets import digits

ROADS = {
    "int8": "`quantize_model`, int8",
    "clustered": "`cluster_weights`, 16 values",
    "sparse": "`prune_low_magnitude`, 50 % zeros",
}
FLOAT, INT8 = "float32", "int8 without TF-MOT"
TFMOT = Path(__file__).with_name("tfmot_roads.py")
ROOT = TFMOT.parent.parent
HEADER = """\
| | full: .tflite | gzipped | top-1 | compact: .tflite | gzipped | top-1 |
|---|---:|---:|---:|---:|---:|---:|"""


def through_tfmot(model, road, folder: Path, epochs, seed=0, python=sys.executable):
    """Hands a Keras 3 model to one road of TF-MOT.

    Args:
        model: The model.
        road: `"int8"`, `"clustered"` or `"sparse"`.
        folder: Where files are written.
        epochs: How long it trains there.
        seed: Of that training.
        python: The interpreter of an environment with TF-MOT.

    Returns:
        The path of the `.tflite` file, and what its kernels are like.
    """
    source = folder / f"{model.name}.keras"
    file = folder / f"{model.name}_{road}_by_tfmot.tflite"
    keras_greedy.interop.to_tf_keras(model).save(source)
    options = ["--epochs", str(epochs), "--seed", str(seed)]
    done = subprocess.run(
        [python, TFMOT, road, source, file, *options],
        env=os.environ | {"TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{TFMOT.name} {road}: {done.stderr[-2000:]}")
    return file, json.loads(done.stdout.splitlines()[-1])


def trained(model, epochs):
    (x, y), _ = digits(16)
    compiled(model).fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    return model


def full_and_compact(macs: float, epochs: int, seed: int) -> list[keras.Model]:
    """A trained network, and that network pruned and trained again."""
    keras.utils.set_random_seed(seed)
    full = trained(network(), epochs)
    (x, _), _ = digits(16)
    compact = trained(keras_greedy.prune(full, x[:512], macs, verbose=0), epochs)
    full.name, compact.name = "full", "compact"
    return [full, compact]


def measured(file) -> dict:
    content = Path(file).read_bytes()
    return {
        "bytes": len(content),
        "gzipped": len(gzip.compress(content, mtime=0)),
        "accuracy": tflite_export.accuracy(file, digits(16)[1]),
    }


def run(macs: float, epochs: int, seed: int) -> dict:
    """`(model, road)` -> bytes, bytes gzipped, and accuracy of the `.tflite` file."""
    (x, _), _ = digits(16)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for model in full_and_compact(macs, epochs, seed):
            name = model.name
            file = tflite_export.convert(model, folder / f"{name}.tflite")
            rows[name, FLOAT] = measured(file)
            int8 = folder / f"{name}_int8.tflite"
            tflite_export.convert(model, int8, "int8", representative_data=x[:128])
            rows[name, INT8] = measured(int8)
            for road in ROADS:
                file, _ = through_tfmot(model, road, folder, epochs, seed)
                rows[name, road] = measured(file)
            print(f"{name}: {keras_greedy.count_params(model):,} parameters")
    return rows


def line(road, runs) -> str:
    cells = [ROADS.get(road, road)]
    for name in ("full", "compact"):
        found = [rows[name, road] for rows in runs]
        size, gzipped, top1 = (
            [each[key] for each in found] for key in ("bytes", "gzipped", "accuracy")
        )
        cells += [f"{np.mean(size) / 1e3:.0f} kB", f"{np.mean(gzipped) / 1e3:.0f} kB"]
        cells.append(f"{100 * np.mean(top1):.1f} ± {100 * np.std(top1):.1f} %")
    return f"| {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    seeds = range(options.seeds)
    runs = [run(options.macs, options.epochs, seed) for seed in seeds]
    roads = (FLOAT, INT8, *ROADS)
    print("\n".join([HEADER, *(line(road, runs) for road in roads)]))


if __name__ == "__main__":
    main()
