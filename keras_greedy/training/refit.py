"""Fits the layers behind a cut once more, to what they read in the compact model.

The weights that a cut gives to the readers of a group are the best ones for what the
full model computes. In the compact model they read something else, since the layers
before are cut as well. So each reader is fitted again, in the order of the network, to
make the full model's values of what it reads now.

Three things decide whether that helps. BatchNorm has to normalise by the statistics of
the compact model meanwhile, as it will behind it. An error of the residual stream that
a reader adds to is a part of what it has to make up for. And what helps a layer may
harm the network: where little can be predicted, the best prediction is close to the
mean. So each fit is kept only if the outputs come closer to the full model's, on
examples that it has not seen.
"""

from collections.abc import Iterable, Iterator, Sequence

import keras
import numpy as np

from keras_greedy.backend import without_gradients
from keras_greedy.batches import Arrays
from keras_greedy.exact_products import exact_products
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.processes import (
    process_count,
    process_index,
    share_of,
    total_of_processes,
)
from keras_greedy.selection.moments import Scatter
from keras_greedy.training.readers import Reader, readers_of_cuts
from keras_greedy.training.side_by_side import SideBySide, bytes_of_one

MOST_EXAMPLES = 512
"""More bring little, and their activations are kept."""

LEAST_EXAMPLES = 128
"""Of fewer, those held apart would tell nothing."""

HELD = 4
"""One batch in so many is held apart."""

MOST_BYTES = 2**31
"""Of activations: of large models, fewer examples are looked at."""

POSITIONS = 64
"""Of each example and layer, at most."""

RIDGES = (1.0, 0.1, 0.01)
"""Of the variance of each feature; the more, the closer to the weights before."""

MANY = 32
"""Of more readers, each of which takes a part of a pass, one ridge is tried."""

RIDGE_OF_MANY = (0.1,)
"""That one."""

MOST_PASSES = 10
"""Forward passes over all examples that the judgement of the fits may cost."""

LEAST_VARIANCE = 1e-3
"""Of the mean one, added to each: features that never vary can be solved for."""

SMALLEST_VARIANCE = float(np.finfo(np.float32).tiny)
"""Added, too: none of them may vary."""


@exact_products()
def refit(
    graph: ChannelGraph,
    compact: keras.Model,
    selection: dict[str, np.ndarray],
    batches: Iterable[Arrays],
) -> list[str]:
    """Fits the readers of cut groups to their inputs in the compact model.

    Nothing is changed where there are too few examples, or where the activations of
    enough of them would not fit into memory.

    Args:
        graph: The full model, traced.
        compact: What `rebuild` made of it; its weights are changed in place.
        selection: Group name -> indices of the channels that it kept.
        batches: One array per input of the model in each.

    Returns:
        The names of the layers whose new weights were kept.
    """
    smaller = trace_quietly(compact)
    readers = readers_of_cuts(graph, smaller, graph.kept_mask(selection))
    if not readers:
        return []
    room = MOST_BYTES // bytes_of_one(graph, readers)
    taken = _taken(batches, min(share_of(MOST_EXAMPLES), room))
    count = total_of_processes(len(taken))
    examples = total_of_processes(sum(len(batch[0]) for batch in taken))
    is_too_little = len(taken) < 2 or examples < LEAST_EXAMPLES
    if total_of_processes(int(is_too_little)):
        return []
    ridges = RIDGES if len(readers) <= MANY else RIDGE_OF_MANY
    # Behind a reader there is half of the network, in the mean.
    passes = len(readers) * len(ridges) / 2
    affordable = max(1, int(count * MOST_PASSES / passes))
    apart = list(range(HELD - 1, count, HELD)) or [count - 1]
    held, seen = [], []
    for place, batch in enumerate(taken):
        # As one process would number them that reads a batch of each in turn.
        number = place * process_count() + process_index()
        if number not in apart:
            seen.append(batch)
        elif number in apart[:affordable]:
            held.append(batch)
    with without_gradients():
        models = SideBySide(graph, smaller, seen, held)
        return _refit_in_order(readers, models, ridges)


def _refit_in_order(
    readers: Sequence[Reader],
    models: SideBySide,
    ridges: Sequence[float],
) -> list[str]:
    """Fits each reader and keeps what brings the outputs closer; returns the names."""
    rng = np.random.default_rng(0)
    refitted = []
    least = models.divergence()
    for reader in readers:
        models.advance(reader)
        positions = reader.compact.positions(rng, POSITIONS)
        scatter = models.scatter(reader, positions)
        if scatter is None:
            continue
        best = reader.weights()
        for matrix, bias in _fits(reader, scatter, ridges):
            reader.place(matrix, bias, scatter)
            divergence = models.divergence()
            if divergence < least:
                least = divergence
                best = reader.weights()
                refitted.append(reader.name)
        reader.assign(best)
    return list(dict.fromkeys(refitted))


def _fits(
    reader: Reader,
    scatter: Scatter,
    ridges: Sequence[float],
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the least-squares matrix and bias for each of the ridges.

    Minimises `E ||x W + b - y||^2 + ||D (W - W_0)||^2`, where W_0 is the matrix as it
    is and D^2 the ridge times the variances: with C the covariance, the optimum is
    `W_0 + (C_xx + D^2)^-1 (C_xy - C_xx W_0)`.

    Args:
        reader: The layer.
        scatter: Moments of its rows x, `(F,)`, and targets y, `(outputs,)`, side by
            side.
        ridges: Those to try.
    """
    features = len(reader.compact.features)
    covariance = scatter.covariance()
    # (F, F) and (F, outputs).
    of_rows, across = np.hsplit(covariance[:features], [features])
    mean_row, mean_target = np.split(scatter.mean[0], [features])
    variances = np.diag(of_rows)
    variances = variances + LEAST_VARIANCE * variances.mean() + SMALLEST_VARIANCE
    before = reader.matrix(of_rows)
    missing = across - of_rows @ before
    for ridge in ridges:
        penalized = of_rows + ridge * np.diag(variances)
        matrix = before + np.linalg.solve(penalized, missing)
        yield matrix, mean_target - mean_row @ matrix


def _taken(batches: Iterable[Arrays], most: int) -> list[Arrays]:
    """Returns the first batches, of at most so many examples."""
    taken: list[Arrays] = []
    examples = 0
    for batch in batches:
        examples += len(batch[0])
        if examples > most:
            break
        taken.append(batch)
    return taken
