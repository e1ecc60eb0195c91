"""Searches in several processes: a program that `test_processes` runs in each of them.

    python together.py RANK PORT,PORT FOLDER KIND... [--ends-at BATCH]

RANK is the number of the process, of which there are as many as ports, each with a
share of the data; one process has all of them. Its results are put into the folder, as
`RANK.npz`, and the searches that can be kept are kept there. With a batch to end at,
the process ends without a word when it is to give that one.
"""

import argparse
import contextlib
import json
import os
from pathlib import Path

import keras
import numpy as np

import keras_greedy
from keras_greedy import scopes
from keras_greedy.processes import gathered, total_of_processes

layers = keras.layers

EXAMPLES = 256
CLASSES = 4
CHANNELS = 16


class Shard:
    """The examples of one process, in batches of 16, as often as they are asked for.

    Args:
        block: Of so many examples, one after the other, each process has every other.
        rank: Of the process.
        count: How many there are.
        ends_at: The batch to end at, if at any.
        labelled: Whether to give labels, too.
        most: How many examples there are in all.
    """

    def __init__(self, block, rank, count, ends_at=None, labelled=False, most=EXAMPLES):
        rng = np.random.default_rng(0)
        images = rng.normal(size=(EXAMPLES, 7, 7, 3)).astype("float32")[:most]
        labels = rng.integers(0, CLASSES, EXAMPLES)[:most]
        own = np.arange(most) // block % count == rank
        self._arrays = (images[own], labels[own])
        self._labelled = labelled
        self._ends_at = ends_at
        self._given = 0

    def __iter__(self):
        images, labels = self._arrays
        for i in range(0, len(images), 16):
            self._given += 1
            if self._given == self._ends_at:
                os._exit(9)
            part = images[i : i + 16], labels[i : i + 16]
            yield part if self._labelled else part[0]


def network(normalized):
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((7, 7, 3), name="image")
    for name in "ab":
        x = layers.Conv2D(CHANNELS, 3, padding="same", name=name)(x)
        if normalized and name == "a":
            # One alone: those behind it would depend on what a batch is made of.
            x = layers.BatchNormalization(name=f"{name}_norm")(x)
        x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.Conv2D(CHANNELS, 1, activation="relu", name="c")(x)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    outputs = layers.Dense(CLASSES, activation="softmax", name="classes")(x)
    model = keras.Model(inputs, outputs, name="network")
    model.compile(loss="sparse_categorical_crossentropy")
    return model


def begin(rank, ports):
    """Joins the other processes; returns the scope that models are made in."""
    if len(ports) == 1:
        return contextlib.nullcontext()
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(
            f"localhost:{ports[0]}", len(ports), rank, heartbeat_timeout_seconds=10
        )
    if backend == "torch":
        import torch.distributed as group

        address = f"tcp://localhost:{ports[0]}"
        group.init_process_group(
            "gloo", init_method=address, rank=rank, world_size=len(ports)
        )
    if backend != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    workers = [f"localhost:{port}" for port in ports]
    task = {"type": "worker", "index": rank}
    config = {"cluster": {"worker": workers}, "task": task}
    os.environ["TF_CONFIG"] = json.dumps(config)
    return tf.distribute.MultiWorkerMirroredStrategy().scope()


def told_of(model):
    """Returns the widths of a model, and what it computes."""
    images = np.random.default_rng(1).normal(size=(8, 7, 7, 3)).astype("float32")
    widths = [model.get_layer(name).filters for name in "abc"]
    answers = model(images, training=False)
    return {
        "widths": np.array(widths),
        "answers": keras.ops.convert_to_numpy(answers),
        "weights": np.concatenate([each.ravel() for each in model.get_weights()]),
    }


def results(kinds, rank, count, folder, scope, ends_at=None):
    """Returns name -> array: what the processes find, of some kinds."""
    with scope:
        with_norm, without = network(True), network(False)

    def shard(block, **given):
        return Shard(block, rank, count, **given)

    def by_global():
        # Fewer than are needed to fit layers a second time, and so few that half
        # of them are measured, in batches of 24.
        few = shard(24, ends_at=ends_at, most=96)
        kept = folder / "search"
        return keras_greedy.prune(with_norm, few, 0.5, checkpoint=kept, verbose=0)

    def fitted_twice():
        searched = keras_greedy.search(without, shard(32), verbose=0)
        searched.save(folder / f"{rank}-paths.npz")
        paths = keras_greedy.load_paths(folder / f"{rank}-paths.npz", without)
        return paths.compact(0.5, data=shard(64))

    def by_loss():
        method = keras_greedy.LossSearch(candidates=8, tolerance=0.1)
        data = shard(32, labelled=True)
        kept = folder / "loss"
        return keras_greedy.prune(
            without, data, method=method, checkpoint=kept, verbose=0
        )

    def screened():
        method = keras_greedy.LossSearch(step="line_search")
        data = shard(32, labelled=True, most=200)
        return keras_greedy.prune(without, data, 0.5, method=method, verbose=0)

    makers = {
        "global": by_global,
        "fitted twice": fitted_twice,
        "loss": by_loss,
        "screened": screened,
    }
    found = {}
    for kind in kinds:
        if kind == "refused":
            found[kind] = np.array(messages(without, shard(16), rank))
            continue
        for what, array in told_of(makers[kind]()).items():
            found[f"{kind}: {what}"] = array
    return found


def messages(model, data, rank):
    """Returns the messages of the errors of what several processes cannot do."""
    of_latency = keras_greedy.Budget(latency=0.5)
    found = []
    for refused in (
        lambda: keras_greedy.prune(model, data, finetune=True),
        lambda: keras_greedy.prune(model, data, of_latency),
        lambda: keras_greedy.prune_greedy(model),
        lambda: keras_greedy.search(model, data, seed=rank, verbose=0),
        lambda: gathered(np.zeros(2 + rank)),
    ):
        try:
            with scopes.scope_of(model):
                refused()
        except (ValueError, RuntimeError) as error:
            found.append(str(error))
    # Larger than what goes round at once.
    large = np.arange(1_300_000.0) * (1 + rank)
    with scopes.scope_of(model):
        total = total_of_processes(large)
    assert np.array_equal(total, 3 * np.arange(1_300_000.0))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rank", type=int)
    parser.add_argument("ports", type=lambda text: text.split(","))
    parser.add_argument("folder", type=Path)
    parser.add_argument("kinds", nargs="+")
    parser.add_argument("--ends-at", type=int)
    arguments = parser.parse_args()
    rank, count, folder = arguments.rank, len(arguments.ports), arguments.folder
    scope = begin(rank, arguments.ports)
    given = (rank, count, folder, scope, arguments.ends_at)
    np.savez(folder / f"{rank}.npz", **results(arguments.kinds, *given))


if __name__ == "__main__":
    main()
