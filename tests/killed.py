"""Searches that are killed and go on: a program that `test_checkpoints` runs.

    python killed.py KIND FOLDER FILE...
    python killed.py KIND FOLDER TIMES

The search is killed as soon as each of the files is there, or so many times at random.
A checksum is printed of the result of a search that nobody disturbs, and of those that
were killed and went on with what is kept in the folder.

The processes of the searches are forked, which is safe as long as nothing was computed.
"""

import hashlib
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import keras
import numpy as np

import keras_greedy

layers = keras.layers

POLL = 0.001
"""Seconds between two looks at what the search does."""


def network():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3), name="image")
    for name in "ab":
        x = layers.Conv2D(16, 3, padding="same", name=name)(x)
        x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    outputs = layers.Dense(4, activation="softmax", name="classes")(x)
    model = keras.Model(inputs, outputs, name="network")
    model.compile(loss="sparse_categorical_crossentropy")
    return model


def examples(count=96):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(count, 8, 8, 3)).astype("float32")
    return images, rng.integers(0, 4, count)


def searched(checkpoint):
    """Returns the arrays of a search on moments, and of its compact model."""
    paths = keras_greedy.search(
        network(), examples()[0], checkpoint=checkpoint, verbose=0
    )
    arrays = []
    for name, path in paths.paths.items():
        divergence = paths.divergence[name]
        arrays += [path.order, path.errors, divergence.widths, divergence.values]
    return arrays + paths.compact(0.5).get_weights()


def searched_by_loss(checkpoint):
    """Returns likewise the arrays of a search of each group on the loss."""
    method = keras_greedy.LossSearch("line_search", candidates=8)
    paths = keras_greedy.search(
        network(), examples(32), method=method, checkpoint=checkpoint, verbose=0
    )
    arrays = []
    for name, path in paths.paths.items():
        arrays += [path.picks, path.sizes, path.errors, paths.divergence[name].values]
    return arrays


def pruned_by_loss(checkpoint):
    """Returns the weights of a model that was pruned layer by layer."""
    method = keras_greedy.LossSearch(candidates=8)
    compact = keras_greedy.prune(
        network(), examples(), 0.5, method=method, checkpoint=checkpoint, verbose=0
    )
    return compact.get_weights()


def pruned_to_tolerance(checkpoint):
    method = keras_greedy.LossSearch(candidates=8, tolerance=0.05)
    compact = keras_greedy.prune(
        network(), examples(), method=method, checkpoint=checkpoint, verbose=0
    )
    return compact.get_weights()


KINDS = {
    "moments": searched,
    "loss": searched_by_loss,
    "layers": pruned_by_loss,
    "tolerance": pruned_to_tolerance,
}


def start(kind, checkpoint):
    """Starts a search in a process of its own, which writes its checksum to a pipe."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    status = 1
    try:
        checksum = hashlib.sha256()
        for array in KINDS[kind](checkpoint):
            checksum.update(f"{array.shape} ".encode() + array.tobytes())
        os.write(writing, checksum.hexdigest().encode())
        status = 0
    finally:
        os._exit(status)


def run(kind, checkpoint, is_time_to_kill):
    """Runs a search; returns its checksum, or nothing if it was killed."""
    process, reading = start(kind, checkpoint)
    ended, status = 0, None
    while not ended:
        if is_time_to_kill():
            os.kill(process, signal.SIGKILL)
        ended, status = os.waitpid(process, os.WNOHANG)
        time.sleep(POLL)
    checksum = os.read(reading, 1000).decode()
    os.close(reading)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return None
    assert status == 0
    return checksum


def never():
    return False


def killed_at_files(kind, folder, names):
    """Kills a search as soon as each of the files is there."""
    for name in names:
        assert run(kind, folder, (folder / name).exists) is None, name


def killed_at_random(kind, folder, times, longest):
    """Kills searches at random moments; one that ends meanwhile begins anew.

    Returns:
        The checksums of those that ended.
    """
    rng = random.Random(0)
    checksums = []
    while times:
        end = time.monotonic() + rng.uniform(0, longest)
        checksum = run(kind, folder, lambda end=end: time.monotonic() > end)
        if checksum is None:
            times -= 1
        else:
            checksums.append(checksum)
            shutil.rmtree(folder)
    return checksums


def main(kind, folder, *moments):
    began = time.monotonic()
    print(run(kind, None, never))
    took = time.monotonic() - began
    if moments[0].isdigit():
        times = int(moments[0])
        print(*killed_at_random(kind, folder, times, took))
    else:
        killed_at_files(kind, folder, moments)
    print(run(kind, folder, never))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
