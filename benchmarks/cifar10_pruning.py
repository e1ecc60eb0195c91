"""The methods of `cifar10_resnet56.py`: one network each, all of the same widths."""

import collections
from collections.abc import Callable
from typing import TypeAlias

import keras
import numpy as np
from cifar10_training import MOMENTUM, Labelled

import keras_greedy
from keras_greedy.batches import Batches
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.selection.cut import cut
from keras_greedy.selection.output.layer_by_layer import ToWidths, prune_layer_by_layer
from keras_greedy.selection.path import SelectionPath
from keras_greedy.training.refit import refit

Widths: TypeAlias = dict[str, int]
"""Name of a group -> how many channels it keeps."""

CANDIDATES = 50
"""Channels that the published loss search draws at each step; only groups of 64 have
more."""

SEARCH_BATCH = 8
"""Of the loss search, which looks at four batches at each step."""

LAYER_RATE = 0.0025
"""Learning rate after each layer, of batches of 32."""


class Pruning:
    """The full network, and what the methods find in it with the same images.

    Args:
        full: The network, compiled.
        data: The images to calibrate on, with labels for those that need them.
        seed: Of everything random.
    """

    def __init__(self, full: keras.Model, data: Labelled, seed: int):
        self.full = full
        self.data = data
        self.seed = seed
        self._found: dict[tuple[str, str], keras_greedy.SelectionPaths] = {}

    def paths(
        self, objective: str = "global", step: str = "corrective"
    ) -> keras_greedy.SelectionPaths:
        """Returns what a search finds, which is made once."""
        key = (objective, step)
        if key not in self._found:
            self._found[key] = keras_greedy.search(
                self.full,
                self.data.images,
                objective=objective,
                step=step,
                seed=self.seed,
                verbose=0,
            )
        return self._found[key]

    def widths(self, budget: float) -> Widths:
        """Returns the measured widths of the default search, for all methods."""
        return self.paths().widths(budget)

    def normalized(self, compact: keras.Model) -> keras.Model:
        """Returns the model, with BatchNorm statistics measured anew."""
        keras_greedy.reestimate_batch_norm(compact, self.data.images)
        return compact


def ours(pruning: Pruning, widths: Widths) -> keras.Model:
    """Prunes as `prune` does: fitted again to what the compact model computes."""
    paths = pruning.paths()
    kept = {name: path.kept(widths[name]) for name, path in paths.paths.items()}
    compact = cut(paths.graph, paths.moments, paths.paths, widths, "corrective")
    refit(paths.graph, compact, kept, Batches(pruning.data.images, pruning.full))
    return pruning.normalized(compact)


def fitted_once(pruning: Pruning, widths: Widths) -> keras.Model:
    return imitating(pruning, widths, "global", "corrective")


def neurips_global(pruning: Pruning, widths: Widths) -> keras.Model:
    return imitating(pruning, widths, "global", "line_search")


def neurips_local(pruning: Pruning, widths: Widths) -> keras.Model:
    return imitating(pruning, widths, "local", "line_search")


def imitating(
    pruning: Pruning, widths: Widths, objective: str, step: str
) -> keras.Model:
    paths = pruning.paths(objective, step)
    compact = cut(paths.graph, paths.moments, paths.paths, widths, step)
    return pruning.normalized(compact)


def icml(pruning: Pruning, widths: Widths) -> keras.Model:
    """Prunes by the training loss, and trains after each layer."""
    rate = keras.optimizers.SGD(LAYER_RATE, momentum=MOMENTUM, nesterov=True)
    tuning = keras_greedy.FineTune(epochs=1, optimizer=rate)
    return by_loss(pruning, widths, tuning)


def by_loss(
    pruning: Pruning, widths: Widths, tuning: keras_greedy.FineTune | None
) -> keras.Model:
    full = pruning.full
    method = keras_greedy.LossSearch("uniform", CANDIDATES, finetune_per_layer=tuning)
    data = pruning.data.images, pruning.data.labels
    batches = Batches(data, full, batch_size=SEARCH_BATCH)
    sizes = keras_greedy.trace(full).widths
    compact = prune_layer_by_layer(
        full,
        batches,
        method,
        method.objective_on(full, batches),
        ToWidths(widths),
        [name for name, width in widths.items() if width < sizes[name]],
        pruning.seed,
    )
    return pruning.normalized(compact)


def l1(pruning: Pruning, widths: Widths) -> keras.Model:
    return as_they_are(pruning, widths, l1_orders(pruning))


def shuffled(pruning: Pruning, widths: Widths) -> keras.Model:
    rng = np.random.default_rng(pruning.seed)
    sizes = pruning.paths().graph.widths
    orders = {name: rng.permutation(size) for name, size in sizes.items()}
    return as_they_are(pruning, widths, orders)


def as_they_are(
    pruning: Pruning, widths: Widths, orders: dict[str, np.ndarray]
) -> keras.Model:
    """Keeps the first channels of each order, and all their weights."""
    kept = {name: np.sort(orders[name][:width]) for name, width in widths.items()}
    return pruning.normalized(rebuild(pruning.paths().graph, kept))


def l1_reconstructed(pruning: Pruning, widths: Widths) -> keras.Model:
    """Keeps the channels of `l1`, and fits once what makes up for the others."""
    paths = pruning.paths()
    orders = {
        name: SelectionPath(order, np.zeros(len(order) + 1))
        for name, order in l1_orders(pruning).items()
    }
    compact = cut(paths.graph, paths.moments, orders, widths, "corrective")
    return pruning.normalized(compact)


def l1_orders(pruning: Pruning) -> dict[str, np.ndarray]:
    """Returns each group's channels, those of the greatest kernels first."""
    graph = pruning.paths().graph
    # By channel number. A stream's channels are made by several layers, and one layer
    # may make those of two streams, as a shortcut pads the narrower one.
    norms: collections.Counter[int] = collections.Counter()
    for call in graph.calls:
        if isinstance(call.operation, keras.layers.Conv2D):
            # (height, width, inputs, outputs)
            kernel = keras.ops.convert_to_numpy(call.operation.kernel)
            own = np.abs(kernel).sum(axis=(0, 1, 2))
            numbers = graph.channels_of(call.outputs[0])
            norms.update(dict(zip(numbers.tolist(), own.tolist(), strict=True)))
    orders = {}
    for group in graph.groups:
        of_group = np.array([norms[number] for number in group.channels.tolist()])
        orders[group.name] = np.argsort(-of_group, kind="stable")
    return orders


def anew(pruning: Pruning, widths: Widths) -> keras.Model:
    """Builds what the default leaves, with new weights."""
    compact = fitted_once(pruning, widths)
    keras.utils.set_random_seed(pruning.seed)
    return keras.models.clone_model(compact)


METHODS: dict[str, Callable[[Pruning, Widths], keras.Model]] = {
    "keras_greedy, default": ours,
    "keras_greedy, fitted once": fitted_once,
    "NeurIPS, global": neurips_global,
    "NeurIPS, local": neurips_local,
    "ICML, training after each layer": icml,
    "L1": l1,
    "random": shuffled,
    "new weights": anew,
    "L1, reconstructed": l1_reconstructed,
}
WITHOUT_WEIGHTS = "new weights"
"""The method of which a top-1 before the training says nothing."""
