"""MobileNetV2 searched by one process, and by workers that have a part of the images.

    python benchmarks/processes.py
    JAX_PYTHON=.venv-jax/bin/python python benchmarks/processes.py --backend jax

The workers are of this machine. One process reads the images in the order in which it
would read 32 of each worker in turn, so that it has the same sums.
"""

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
BUDGET = 0.6
BLOCK = 32
IMAGES = "images.npy"


def main():
    options = parse_arguments()
    if options.folder:
        search(options)
        return

    import imagenet

    images, _ = imagenet.read_images("imagenet_sample/all.tfrecord", options.images)
    print("| processes | seconds of search | and of a budget | groups with the same |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / IMAGES, images)
        for count in (1, options.workers):
            start(options, folder, count)
            print(row(folder, count), flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--backend", choices=["tensorflow", "jax"])
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--ports", nargs="+", help=argparse.SUPPRESS)
    return parser.parse_args()


def start(options, folder, count) -> None:
    """Runs the processes until all have ended."""
    backend = options.backend or "tensorflow"
    python = os.environ["JAX_PYTHON"] if backend == "jax" else sys.executable
    environment = os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)}
    ports = free_ports(count)
    running = []
    for rank in range(count):
        place = ["--folder", folder, "--rank", str(rank), "--ports", *ports]
        command = [python, __file__, *place]
        running.append(subprocess.Popen(command, env=environment))
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"Of {count} processes one has failed; see above.")


def free_ports(count) -> list[str]:
    """Returns ports of this machine that nothing listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [str(each.getsockname()[1]) for each in sockets]


def search(options) -> None:
    """Searches with this process' images; writes what is kept into the folder."""
    rank, count = options.rank, len(options.ports)
    scope = joined(rank, options.ports)

    import imagenet

    import keras_greedy

    images = np.load(options.folder / IMAGES)
    own = images[np.arange(len(images)) // BLOCK % count == rank]
    with scope:
        model = imagenet.load_model()
    begun = time.perf_counter()
    paths = keras_greedy.search(model, own, verbose=0)
    searched = time.perf_counter()
    compact = paths.compact(BUDGET)
    seconds = [searched - begun, time.perf_counter() - searched]
    found = {"seconds": np.array(seconds)}
    for name, width in paths.widths(BUDGET).items():
        found[name] = paths.paths[name].kept(width)
    weights = [weight.ravel() for weight in compact.get_weights()]
    found["weights"] = np.concatenate(weights)
    np.savez(options.folder / f"{count}-{rank}.npz", **found)


def joined(rank, ports):
    """Joins the other processes; returns the scope to make the model in."""
    import keras

    if len(ports) == 1:
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{ports[0]}", len(ports), rank)
        return contextlib.nullcontext()
    import tensorflow as tf

    workers = [f"localhost:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    config = {"cluster": {"worker": workers}, "task": task}
    os.environ["TF_CONFIG"] = json.dumps(config)
    return tf.distribute.MultiWorkerMirroredStrategy().scope()


def row(folder, count) -> str:
    """Returns a row of the table; the workers must all have found the same."""
    with (
        np.load(folder / "1-0.npz") as alone,
        np.load(folder / f"{count}-0.npz") as own,
    ):
        for rank in range(1, count):
            with np.load(folder / f"{count}-{rank}.npz") as other:
                for name in own:
                    is_same = np.array_equal(own[name], other[name])
                    assert is_same or name == "seconds", name
        names = [name for name in alone if name not in ("seconds", "weights")]
        same = sum(np.array_equal(alone[name], own[name]) for name in names)
        of_search, of_budget = own["seconds"]
        return (
            f"| {count} | {of_search:.0f} | {of_budget:.0f} | {same} of {len(names)} |"
        )


if __name__ == "__main__":
    main()
