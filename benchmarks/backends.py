"""MobileNetV2 searched on TensorFlow, JAX and torch: the channels, and the time.

    JAX_PYTHON=.venv-jax/bin/python TORCH_PYTHON=.venv-torch/bin/python \\
        python benchmarks/backends.py

`make test-backends` makes the environments of the interpreters. Each backend has a
process of its own, one after the other, with the real weights and the same images.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 0.6
IMAGES = "images.npy"
INTERPRETERS = {
    "tensorflow": sys.executable,
    "jax": os.environ.get("JAX_PYTHON"),
    "torch": os.environ.get("TORCH_PYTHON"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--weights", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        search(options.folder, options.weights)
        return

    import imagenet

    weights = imagenet.DATA / "mobilenet_v2_imagenet/mobilenet_v2_1.0_224.weights.h5"
    images, _ = imagenet.read_images("imagenet_sample/all.tfrecord", options.images)
    print("| backend | seconds | groups with the same channels | same channels |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / IMAGES, images)
        for backend, python in INTERPRETERS.items():
            if python is None:
                print(f"| {backend} | no interpreter is named | | |")
                continue
            command = [python, __file__, "--folder", name, "--weights", str(weights)]
            environment = os.environ | {
                "KERAS_BACKEND": backend,
                "PYTHONPATH": str(ROOT),
            }
            subprocess.run(command, env=environment, check=True)
            print(row(folder, backend), flush=True)


def search(folder, weights):
    """Searches on this process' backend; writes what is kept into the folder."""
    import keras

    import keras_greedy

    images = np.load(folder / IMAGES)
    model = keras.applications.MobileNetV2(weights=weights)
    begin = time.perf_counter()
    paths = keras_greedy.search(model, images, verbose=0)
    seconds = time.perf_counter() - begin
    kept = {}
    for name, width in paths.widths(BUDGET).items():
        kept[name] = paths.paths[name].kept(width)
    np.savez(folder / keras.backend.backend(), seconds=seconds, **kept)


def row(folder, backend) -> str:
    """Returns a row of the table: a backend beside TensorFlow."""
    with (
        np.load(folder / "tensorflow.npz") as ours,
        np.load(folder / f"{backend}.npz") as theirs,
    ):
        names = [name for name in ours if name != "seconds"]
        shares = []
        for name in names:
            both = np.intersect1d(ours[name], theirs[name])
            shares.append(len(both) / max(len(ours[name]), len(theirs[name])))
        same = sum(share == 1 for share in shares)
        return (
            f"| {backend} | {theirs['seconds']:.0f} | {same} of {len(names)} | "
            f"{100 * np.mean(shares):.1f} % |"
        )


if __name__ == "__main__":
    main()
