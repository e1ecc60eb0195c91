"""How the loss of a pruned two-layer network falls with its size.

    python benchmarks/theory.py

A wide network is trained by gradient descent and pruned by forward selection with
each step rule; small networks are trained directly. The theory (Ye et al., ICML and
NeurIPS 2020) promises a power of the size for uniform steps and an exponential for
line search. Prints the losses and the fitted rates, and draws `theory.png` beside
this file.
"""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure

from keras_greedy.report import markdown
from keras_greedy.selection.moments.corrective import Problem, forward_path
from keras_greedy.selection.moments.mixture import imitation_path, line_search, uniform
from tflite_export.files import replacing

INPUTS, EXAMPLES, WIDE, STEP_RULES = 20, 50, 2000, 2000
SIZES = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
TRAINED = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
FLOOR = 1e-9
"""Losses below it are rounding, and no part of a fit."""
PICTURE = Path(__file__).with_name("theory.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    x, y = examples(np.random.default_rng(seed))
    wide = trained(WIDE, x, y, seed)
    losses = pruned_losses(wide, x, y)
    losses["trained directly"] = {
        n: loss_of(trained(n, x, y, seed), x, y) for n in TRAINED
    }
    print(
        f"A network of {WIDE} neurons, loss {loss_of(wide, x, y):.0e}, cut to a few\n"
    )
    print(markdown(table(losses)))
    fits = fitted(losses)
    print("\n" + "\n".join(f"{name}: {fit}" for name, fit in fits.items()))
    draw(losses, fits)


def examples(rng):
    """Inputs on a ball, labels of a random network of tanh neurons."""
    x = rng.normal(size=(EXAMPLES, INPUTS)) / np.sqrt(INPUTS)
    teacher, out = rng.normal(size=(INPUTS, 20)) * 2, rng.normal(size=(20, 1))
    return x.astype("float32"), (np.tanh(x @ teacher) @ out / 4).astype("float32")


def trained(neurons, x, y, seed) -> keras.Model:
    """A network in the mean-field scale, by full-batch gradient descent (Adam)."""
    keras.utils.set_random_seed(seed)
    normal = keras.initializers.RandomNormal
    model = keras.Sequential(
        [
            keras.Input((INPUTS,)),
            keras.layers.Dense(
                neurons,
                activation="relu",
                kernel_initializer=normal(stddev=1.0),
                bias_initializer=normal(stddev=0.3),
            ),
            keras.layers.Dense(
                1, use_bias=False, kernel_initializer=normal(stddev=1 / neurons)
            ),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(1e-2, STEP_RULES)
    model.compile(keras.optimizers.Adam(rate), "mse", steps_per_execution=100)
    whole = tf.data.Dataset.from_tensors((x, y)).repeat(STEP_RULES)
    model.fit(whole, shuffle=False, verbose=0)
    return model


def loss_of(model, x, y) -> float:
    return float(np.square(model.predict(x, verbose=0) - y).mean())


def pruned_losses(wide, x, y) -> dict[str, dict[int, float]]:
    """Step rule -> size -> loss of the network cut to that size."""
    kernel, bias, out = (w.astype(float) for w in wide.get_weights())
    hidden = np.maximum(x @ kernel + bias, 0)
    second_moment = hidden.T @ hidden / len(x)
    gram = second_moment * (out @ out.T)
    mixtures = {
        "uniform": imitation_path(gram, uniform),
        "line search": imitation_path(gram, line_search),
    }
    losses = {
        name: {
            n: mean_square(hidden @ (path.scale(n)[:, None] * out) - y) for n in SIZES
        }
        for name, path in mixtures.items()
    }
    tiny = 1e-12 * np.trace(second_moment) / WIDE * np.eye(WIDE)
    order = forward_path([Problem(second_moment + tiny, out, WIDE)]).order
    full = hidden @ out
    losses["corrective"] = {
        n: mean_square(refitted(hidden[:, order[:n]], full) - y) for n in SIZES
    }
    return losses


def refitted(features, target):
    return features @ np.linalg.lstsq(features, target, rcond=None)[0]


def mean_square(error) -> float:
    return float(np.square(error).mean())


def table(losses):
    yield "neurons", *losses
    for n in TRAINED:
        yield str(n), *(f"{by_size[n]:.1e}" for by_size in losses.values())


class Fit(NamedTuple):
    """The line `log loss = intercept - rate * measure(size)`.

    Attributes:
        law: `"power"`, of the logarithm of the size, or `"exponential"`.
        sizes: Those it was fitted to.
        rate: Its slope.
        intercept: Its value at 0.
        r2: Share of the variance of the log loss that it explains.
    """

    law: str
    sizes: list[int]
    rate: float
    intercept: float
    r2: float

    def __call__(self, sizes):
        return np.exp(self.intercept - self.rate * MEASURES[self.law](sizes))

    def __str__(self):
        formula = {"power": "n^-{:.2f}", "exponential": "exp(-{:.3f} n)"}[self.law]
        span = f"n = {self.sizes[0]} to {self.sizes[-1]}"
        return f"{formula.format(self.rate)}, R^2 = {self.r2:.3f}, {span}"


FITTED_FROM = {"power": 8, "exponential": 1}
"""A power law shows only once a few neurons are there."""
MEASURES = {"power": np.log, "exponential": np.asarray}


def fitted(losses) -> dict[str, Fit]:
    """A power law for uniform steps, exponentials for the others."""
    laws = {"uniform": "power", "line search": "exponential"}
    laws["corrective"] = "exponential"
    return {name: fit(losses[name], law) for name, law in laws.items()}


def fit(losses: dict[int, float], law: str) -> Fit:
    first = FITTED_FROM[law]
    sizes = [n for n, loss in losses.items() if n >= first and loss > FLOOR]
    at, logs = MEASURES[law](sizes), np.log([losses[n] for n in sizes])
    slope, intercept = np.polyfit(at, logs, 1)
    left = np.var(logs - (intercept + slope * at))
    return Fit(law, sizes, -slope, intercept, 1 - left / np.var(logs))


def draw(losses, fits) -> None:
    figure = Figure(figsize=(9.6, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, scale in zip(panels, ("log", "linear"), strict=True):
        for (name, by_size), mark in zip(losses.items(), "osD^", strict=True):
            shown = {n: loss for n, loss in by_size.items() if loss > FLOOR}
            lines = axes.plot(*zip(*shown.items(), strict=True), mark, ms=4, label=name)
            if name in fits:
                sizes = np.linspace(fits[name].sizes[0], fits[name].sizes[-1], 200)
                color = lines[0].get_color()
                axes.plot(sizes, fits[name](sizes), color=color, lw=0.8)
        axes.set(xscale=scale, yscale="log", xlabel="neurons kept")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title("A power law is a line here", loc="left")
    panels[1].set_title("An exponential is a line here", loc="left")
    panels[0].set(ylabel="training loss", ylim=(FLOOR, None))
    panels[0].legend(frameon=False, loc="lower left")
    with replacing(PICTURE) as temporary:
        figure.savefig(temporary, dpi=150)


if __name__ == "__main__":
    main()
