"""The published search on one block of MobileNetV2, as written and as done here.

    python benchmarks/loss_search.py
    python benchmarks/loss_search.py --whole 0.73

Both start from the empty layer and add the channel of least training loss, 1 / n
weight to each of n picks. The plain loop sets the weights of the next layer, runs
the whole network for each of 50 random candidates, and keeps the best. `--whole` prunes
the whole network to a budget, no candidate being evaluated.
"""

import argparse
import time

import keras
import numpy as np
from imagenet import load_model, read_images

import keras_greedy
from keras_greedy.batches import Batches
from keras_greedy.graph.fold import foldable_norms, folded
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.report import markdown
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.methods import LossSearch
from keras_greedy.selection.moments import observe
from keras_greedy.selection.moments.mixture import STEPS_PER_CHANNEL
from keras_greedy.selection.output.objectives import TrainingLoss
from keras_greedy.selection.path import move
from keras_greedy.selection.reconstruction import rescaled


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--group", default="block_16_expand")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--whole", type=float, metavar="BUDGET")
    options = parser.parse_args()
    if options.whole:
        prune_whole(options.whole)
        return
    images, labels = read_images("imagenet_sample/all.tfrecord", options.images)
    network = Network(load_model(), options.group, images, labels)
    searches = {
        "plain loop": lambda: plain_search(network, options),
        f"candidates={options.candidates}": lambda: search(
            network, options.candidates, options
        ),
        "screened": lambda: search(network, "screened", options),
        "ranked": lambda: search(network, "ranked", options),
    }
    picks, seconds = {}, {}
    for name, run in searches.items():
        start = time.perf_counter()
        picks[name] = run()
        seconds[name] = time.perf_counter() - start
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
    report(network, picks, seconds)


class Network:
    """The whole network with one group's channels in a mixture.

    Args:
        model: The network.
        name: Of the group.
        images: What the loss is of.
        labels: Theirs.
    """

    def __init__(self, model, name, images, labels):
        self.model, self.images, self.labels = model, images, labels
        self._running = load_model()
        graph = trace_quietly(model)
        self.inference = folded(graph)
        batches = Batches(images, graph.functional)
        _, self.moments = observe(self.inference, batches)
        self.group = next(g for g in self.inference.groups if g.name == name)
        (consumer,) = self.group.consumers
        self._scatter = self.moments.scatters[consumer.name]
        self._read = consumers_of(graph)[consumer.name]
        norm = foldable_norms(graph)[self._read.call.index].operation
        self._mean = keras.ops.convert_to_numpy(norm.moving_mean)
        self._layer, self._norm = map(
            self._running.get_layer, (consumer.name, norm.name)
        )

    def loss(self, weights) -> float:
        """Cross-entropy over the images for the mixture `(N,)`."""
        scale = len(weights) * weights
        kernel, bias = rescaled(self._read, self._scatter, scale)
        self._layer.kernel.assign(kernel)
        self._norm.moving_mean.assign(self._mean - bias)
        answers = self._running.predict_on_batch(self.images)
        right = answers[np.arange(len(answers)), self.labels]
        return float(-np.log(np.maximum(right, 1e-7)).mean())


def plain_search(network, options) -> list[int]:
    """Runs the whole network for each candidate."""
    size, rng = network.group.size, np.random.default_rng(0)
    weights, picks = np.zeros(size), []
    for n in range(options.steps):
        may_repeat = n < STEPS_PER_CHANNEL * len(set(picks)) or not picks
        allowed = np.setdiff1d(np.arange(size), [] if may_repeat else picks)
        candidates = np.sort(rng.choice(allowed, options.candidates, replace=False))
        losses = []
        for candidate in candidates:
            trial = weights.copy()
            move(trial, candidate, 1 / (n + 1))
            losses.append(network.loss(trial))
        picks.append(int(candidates[np.argmin(losses)]))
        move(weights, picks[-1], 1 / (n + 1))
    return picks


def search(network, which, options) -> list[int]:
    """Runs what lies behind the group for the candidates, as one batch."""
    batches = Batches((network.images, network.labels), network.model)
    how = LossSearch("uniform", which)
    selection = how.begin(
        network.inference,
        network.group,
        network.moments,
        TrainingLoss(network.model, batches),
        seed=0,
    )
    while len(selection.picks) < options.steps:
        selection.advance()
    return selection.picks[: options.steps]


def prune_whole(budget) -> None:
    """Prints seconds and top-1 of a network pruned by its loss, beside the default."""
    images, labels = read_images("imagenet_sample/all.tfrecord", 128 + 512)
    data = (images[:128], labels[:128])
    model = load_model()
    by_loss = keras_greedy.LossSearch(candidates="ranked")
    for name, method in {"default": None, "ranked": by_loss}.items():
        wall, cpu = time.perf_counter(), time.process_time()
        compact = keras_greedy.prune(model, data, budget, method=method, verbose=0)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        answers = compact.predict(images[128:], verbose=0).argmax(axis=1)
        top1 = np.mean(answers == labels[128:])
        print(f"{name}: {wall:.0f} s, CPU {cpu:.0f} s, top-1 {top1:.1%}", flush=True)


def losses_of(network, picks) -> dict[int, float]:
    """Number of different channels -> the whole network's loss."""
    weights, losses = np.zeros(network.group.size), {}
    for n, pick in enumerate(picks):
        move(weights, pick, 1 / (n + 1))
        losses[np.count_nonzero(weights)] = network.loss(weights)
    return losses


def report(network, picks, seconds) -> None:
    losses = {name: losses_of(network, own) for name, own in picks.items()}
    plain, slow = losses.pop("plain loop"), seconds.pop("plain loop")
    print(f"plain loop: {slow:.0f} s")
    for name, fast in seconds.items():
        widths = sorted(plain.keys() & losses[name].keys())
        worst = max(losses[name][w] / plain[w] - 1 for w in widths)
        print(
            f"{name}: {fast:.1f} s, {slow / fast:.0f} x faster; loss at most "
            f"{worst:+.1%} above the plain loop's, at widths {widths[0]} to "
            f"{widths[-1]}; same picks: {picks[name] == picks['plain loop']}"
        )
    rows = [("channels", "plain loop", *losses)]
    for width in sorted(plain):
        own = (losses[name].get(width, np.nan) for name in losses)
        rows.append((str(width), f"{plain[width]:.4f}", *(f"{x:.4f}" for x in own)))
    print("\n" + markdown(rows))


if __name__ == "__main__":
    main()
