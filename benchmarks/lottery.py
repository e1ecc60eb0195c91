"""Strong lottery tickets: what it takes to find a network in a random one.

    python benchmarks/lottery.py
    python benchmarks/lottery.py --only samples ticket

- samples: how many random numbers a subset sum needs for an error (Lueker, 1998).
- ticket: a network trained on MNIST, approximated by pruning a random one.
- size: how large the random network must be, by the width and depth of the target.
- popup: random networks pruned by edge-popup, plain ones and such of neuron groups.

After Pensia et al., Optimal Lottery Tickets via SubsetSum, NeurIPS 2020, section 5.
Prints a table for each and draws `lottery.png` beside this file. MNIST lies in
`../shared/data` or where `KERAS_GREEDY_DATA` says; without it, scikit-learn's digits,
enlarged to 28 x 28 pixels, take its place.
"""

import argparse
import time
import warnings
from pathlib import Path

import keras
import numpy as np
from imagenet import DATA
from keras import layers
from matplotlib.figure import Figure

from keras_greedy.datasets import digits
from keras_greedy.lottery import PopupDense, PopupNeurons, find_ticket, subset_sum
from keras_greedy.report import markdown
from tflite_export.files import replacing

PICTURE = Path(__file__).with_name("lottery.png")

EPSILONS = 10.0 ** -np.arange(1, 4.5, 0.5)
PROBLEMS, MOST_SAMPLES = 2000, 36
OUTPUT_ERROR, FEWEST_PRODUCTS, SEEDS = 0.01, 8, 5
WIDTHS, DEPTHS = [4, 8, 16, 32, 64], [2, 4, 8, 16, 32]
BATCH, HIDDEN, NEURONS = 128, 100, [1, 2, 4]
POPUP_EPOCHS, POPUP_RATE = 5, 1e-2


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    for name in parser.parse_args().only:
        print(f"\n## {name}\n", flush=True)
        keras.utils.set_random_seed(0)
        EXPERIMENTS[name]()


# --- samples


def samples():
    """How many samples a subset sum takes, for smaller and smaller errors."""
    rng = np.random.default_rng(0)
    target = rng.uniform(-0.5, 0.5, PROBLEMS)
    uniform, other = rng.uniform(-1, 1, (2, PROBLEMS, MOST_SAMPLES))
    needed = {
        name: np.array([subset_sum(v, target, epsilon=e).samples for e in EPSILONS])
        for name, v in {"uniform": uniform, "products": uniform * other}.items()
    }
    header = "error", *(f"{name}, {of}" for name in needed for of in ("mean", "99 %"))
    rows = (
        (f"{e:.1e}", *(f"{of(n):.1f}" for n in each for of in (np.mean, most)))
        for e, *each in zip(EPSILONS, *needed.values(), strict=True)
    )
    print(markdown([header, *rows]) + "\n")
    for name, n in needed.items():
        slope, start, r2 = fitted(-np.log2(EPSILONS), n.mean(axis=1))
        print(f"{name}: {slope:.2f} log2(1/error) {start:+.1f}, R^2 = {r2:.4f}")
    draw(needed)


def most(needed) -> np.ndarray:
    return np.quantile(needed, 0.99, axis=-1)


def fitted(x, y) -> tuple[float, float, float]:
    """Slope, intercept and R^2 of a line."""
    slope, intercept = np.polyfit(x, y, 1)
    return slope, intercept, 1 - np.var(y - slope * x - intercept) / np.var(y)


def draw(needed: dict[str, np.ndarray]) -> None:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for (name, n), mark in zip(needed.items(), "os", strict=True):
        means, logs = n.mean(axis=1), -np.log2(EPSILONS)
        (points,) = axes.plot(EPSILONS, means, mark, label=f"{name}, mean")
        slope, start, _ = fitted(logs, means)
        color = points.get_color()
        axes.plot(EPSILONS, start + slope * logs, color=color, lw=0.8)
        axes.plot(EPSILONS, most(n), mark, mfc="none", color=color, ms=4)
    axes.set(xscale="log", xlabel="error", ylabel="random samples", ylim=(0, None))
    axes.invert_xaxis()
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_title("Hollow: 99 % of the problems need no more", loc="left", size=10)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    with replacing(PICTURE) as temporary:
        figure.savefig(temporary, dpi=150)


# --- ticket


def ticket():
    """A trained network, and tickets of it."""
    (x, y), (x_test, y_test) = images()
    target = trained([dense(500), layers.ReLU(), dense(10)], x, y, epochs=8)
    columns = "accuracy", "products", "max. error", "left", "size", "solved in"
    rows = [("network", *columns)]
    rows.append(("target", percent(accuracy(target, x_test, y_test)), *[""] * 5))
    for solver, redundancy in [("exact", 21), ("exact", 16), ("greedy", 21)]:
        start = time.perf_counter()
        found = find_ticket(target, redundancy, solver=solver, verbose=0)
        seconds = time.perf_counter() - start
        cells = [
            percent(accuracy(found.model, x_test, y_test)),
            str(found.redundancy),
            f"{found.max_error:.1e}",
            percent(1 - found.sparsity),
            f"{found.overparameterization:.1f} x",
            f"{seconds:.0f} s",
        ]
        rows.append((f"ticket, {solver}", *cells))
    print(markdown(rows))


def dense(units, activation=None) -> layers.Dense:
    return layers.Dense(units, activation, use_bias=False)


def images():
    """MNIST, or digits, as rows of 784 numbers from 0 to 1."""
    file = DATA / "mnist" / "mnist.npz"
    if not file.is_file():
        print("(MNIST is not there: digits)\n")
        (x, y), (x_test, y_test) = digits(28)
        return (x.reshape(-1, 784), y), (x_test.reshape(-1, 784), y_test)
    with np.load(file) as data:
        parts = [(data[f"x_{part}"], data[f"y_{part}"]) for part in ("train", "test")]
    return [(x.reshape(-1, 784).astype("float32") / 255, y) for x, y in parts]


def trained(network: list, x, y, epochs, rate=1e-3) -> keras.Model:
    model = keras.Sequential([keras.Input((784,)), *network])
    steps = -(-len(x) // BATCH) * epochs
    optimizer = keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(rate, steps)
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def accuracy(model, x, y) -> float:
    found = model.predict(x, batch_size=500, verbose=0).argmax(axis=1)
    return float((found == y).mean())


def percent(share) -> str:
    return f"{share:.2%}"


# --- size


def size():
    """The random network that computes a target of some width and depth."""
    # Products that do not reach a weight are part of what is measured.
    warnings.filterwarnings("ignore", "[0-9,]* of [0-9,]* weights are larger")
    rows, needed = [], []
    shapes = [(d, 2) for d in WIDTHS] + [(16, depth) for depth in DEPTHS[1:]]
    for width, depth in shapes:
        products = [products_needed(width, depth, seed) for seed in range(SEEDS)]
        needed.append(np.mean(products))
        # A group has as many neurons again for negative inputs, in the first layer.
        cells = f"{needed[-1]:.1f}", f"{2 * needed[-1]:.0f} x"
        rows.append((str(width), str(depth), *cells, f"{width**4 * depth**2:.0e} x"))
    wider = "products", "first layer", "d^4 l^2"
    print(markdown([("width d", "depth l", *wider), *rows]) + "\n")
    logs = [np.log2(width * depth) for width, depth in shapes]
    slope, start, r2 = fitted(np.array(logs), np.array(needed))
    print(f"products: {slope:.2f} log2(d l) {start:+.1f}, R^2 = {r2:.3f}")


def products_needed(width, depth, seed) -> int:
    """The fewest products for a weight with which no output is off by 1 %.

    Off as a vector, relative to the outputs' root mean square norm.
    """
    target = random_target(width, depth, seed)
    x = np.random.default_rng(seed).normal(size=(1000, width)).astype("float32")
    y = np.array(target(x))
    for redundancy in range(FEWEST_PRODUCTS, MOST_SAMPLES):
        found = find_ticket(target, redundancy, seed=seed, verbose=0)
        errors = np.square(found.model(x) - y).sum(axis=1)
        if errors.max() <= OUTPUT_ERROR**2 * np.square(y).sum(axis=1).mean():
            return redundancy
    raise RuntimeError(f"{MOST_SAMPLES} products do not suffice.")


def random_target(width, depth, seed) -> keras.Model:
    """Linear maps of norm 1 with ReLUs between them."""
    rng = np.random.default_rng([width, depth, seed])
    hidden = [dense(width, "relu") for _ in range(depth - 1)]
    model = keras.Sequential([keras.Input((width,)), *hidden, dense(width)])
    kernels = rng.normal(size=(depth, width, width))
    model.set_weights([kernel / np.linalg.norm(kernel, 2) for kernel in kernels])
    return model


# --- popup


def popup():
    """Plain and structured random networks of as many weights, pruned to half."""
    (x, y), (x_test, y_test) = images()
    rows = [("random weights", "plain", "of neuron groups", "neurons in a group")]
    for neurons in NEURONS:
        weights = neurons * (784 + 784 * HIDDEN + HIDDEN + HIDDEN * 10)
        networks = plain(round(weights / 794)), of_groups(neurons)
        models = [trained(n, x, y, POPUP_EPOCHS, POPUP_RATE) for n in networks]
        scores = [percent(accuracy(model, x_test, y_test)) for model in models]
        rows.append((f"{weights:,}", *scores, str(neurons)))
    usual = trained([dense(HIDDEN, "relu"), dense(10)], x, y, POPUP_EPOCHS)
    score = percent(accuracy(usual, x_test, y_test))
    print(markdown([*rows, (f"784-{HIDDEN}-10, trained", score, "", "")]))


def plain(hidden) -> list:
    return [PopupDense(hidden), layers.ReLU(), PopupDense(10)]


def of_groups(neurons) -> list:
    """The structure of `find_ticket`, for inputs that are not negative.

    The mean square of the weights into a group is 1: the others are drawn for inputs
    that keep their size.
    """
    positive = keras.initializers.RandomUniform(0, 3**0.5)

    def groups():
        return PopupNeurons(neurons, share=1.0, kernel_initializer=positive)

    return [groups(), PopupDense(HIDDEN), layers.ReLU(), groups(), PopupDense(10)]


EXPERIMENTS = {"samples": samples, "ticket": ticket, "size": size, "popup": popup}

if __name__ == "__main__":
    main()
