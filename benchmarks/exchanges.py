"""How near to the best sets greedy selection comes: exchanges on top of it.

    python benchmarks/exchanges.py

Takes the hidden channels of MobileNetV2's blocks that `objective="local"` keeps at half
the multiply-accumulates, and exchanges a kept channel for a dropped one as long as the
error of the next layer's output falls. What is left to gain is what greedy lost.
"""

import argparse

import numpy as np
from imagenet import load_model, read_images
from keras import ops

import keras_greedy

LEAST_GAIN = 1e-4
"""Of the error that dropping the channel costs: an exchange of less is none."""

MOST_TRIED = 5
"""Of the channels whose loss costs least, before a set counts as the best."""

HEADER = """\
| block | kept | error of the output, greedy | behind exchanges | exchanges |
|---|---|---|---|---|"""


def main():
    arguments = parse_arguments()
    model = load_model()
    images, _ = read_images("imagenet_sample/all.tfrecord", arguments.images)
    paths = keras_greedy.search(model, images, objective="local", verbose=0)
    widths = paths.widths(arguments.budget)
    print(HEADER)
    gains = []
    for block in range(1, 17):
        name = f"block_{block}_expand"
        reader = f"block_{block}_project"
        covariance = paths.moments.scatters[reader].regularized()
        kernel = scaled_kernel(model, reader)
        greedy = paths.paths[name].kept(widths[name])
        better, exchanges = exchanged(covariance, kernel, greedy)
        whole = np.sum(kernel * (covariance @ kernel))
        before = error_of(covariance, kernel, greedy) / whole
        after = error_of(covariance, kernel, better) / whole
        gains.append(1 - after / before)
        kept = f"{len(greedy)} of {len(kernel)}"
        print(f"| {block} | {kept} | {before:.2%} | {after:.2%} | {exchanges} |")
    print(f"\nExchanges lower the error by {np.mean(gains):.1%} in the mean.")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--budget", type=float, default=0.5)
    return parser.parse_args()


def scaled_kernel(model, name):
    """Returns the `(F, columns)` kernel, with the scales of the BatchNorm behind it."""
    kernel = ops.convert_to_numpy(model.get_layer(name).kernel)[0, 0]
    norm = model.get_layer(f"{name}_BN")
    scales = norm.gamma / ops.sqrt(norm.moving_variance + norm.epsilon)
    return kernel * ops.convert_to_numpy(scales)


def error_of(covariance, kernel, kept):
    """Returns the error of the best weights on the kept channels."""
    shared = covariance[kept] @ kernel
    weights = np.linalg.solve(covariance[np.ix_(kept, kept)], shared)
    return np.sum(kernel * (covariance @ kernel)) - np.sum(shared * weights)


def exchanged(covariance, kernel, kept):
    """Returns a set that no exchange tried makes better, and how many it took."""
    kept = list(kept)
    exchanges = 0
    while (better := exchanged_once(covariance, kernel, kept)) is not None:
        kept = better
        exchanges += 1
    return kept, exchanges


def exchanged_once(covariance, kernel, kept):
    """Returns the set after the first exchange that pays, or None."""
    precision = np.linalg.inv(covariance[np.ix_(kept, kept)])
    weights = precision @ (covariance[kept] @ kernel)
    # Without channel i the best weights of the others cost |V_i|^2 / (C^-1)_ii more.
    losses = np.sum(weights**2, axis=1) / np.diag(precision)
    for position in np.argsort(losses)[:MOST_TRIED]:
        others = np.delete(kept, position)
        gains = gains_of(covariance, kernel, others)
        best = int(gains.argmax())
        if gains[best] > losses[position] * (1 + LEAST_GAIN):
            return [*others, best]
    return None


def gains_of(covariance, kernel, kept):
    """Returns the `(F,)` error that adding each channel to a set removes."""
    rows = covariance[kept]
    solved = np.linalg.solve(covariance[np.ix_(kept, kept)], rows)
    residual = covariance - rows.T @ solved
    gains = np.zeros(len(covariance))
    left = np.delete(np.arange(len(covariance)), kept)
    missing = residual[left] @ kernel
    gains[left] = np.sum(missing**2, axis=1) / np.diag(residual)[left]
    return gains


if __name__ == "__main__":
    main()
