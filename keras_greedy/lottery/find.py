"""Strong lottery tickets: a network found in a random one, by pruning alone."""

import keras
import numpy as np

from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.lottery.network import block, random_network
from keras_greedy.lottery.reach import check_reach, fewest, warn_of_unlucky
from keras_greedy.lottery.samples import DISTRIBUTIONS, Distribution, Samples
from keras_greedy.lottery.solvers import solver_for
from keras_greedy.lottery.subset_sum import subset_sum
from keras_greedy.lottery.targets import targets_of
from keras_greedy.lottery.ticket import Ticket
from keras_greedy.progress import Progress
from tflite_export.checks import check_count, check_number, is_count, is_number


def find_ticket(
    target_model: keras.Model,
    redundancy: int = 21,
    epsilon: float | None = None,
    distribution: str | Distribution = "uniform",
    solver: str = "exact",
    seed: int = 0,
    verbose: str | int = "auto",
) -> Ticket:
    """Prunes a random network until it computes the same as a target network.

    No weight is trained. The random network is twice as deep as the target and wider:
    each input of a linear layer goes through a group of random ReLU neurons of its
    own, and each output reads all groups. The connections that stay are found by one
    subset sum problem for each weight of the target, and one more where its input
    may be negative.

    It takes some 60 bytes of memory for each random weight while it runs.

    Layers without weights are those of the target; models inside it are laid out flat.

    Args:
        target_model: A built Functional or Sequential model of Dense and Conv2D
            layers, their activations whatever they are, BatchNorms right behind them,
            and layers without weights. It is not modified. A ReLU in front of it says
            that the inputs are not negative, which halves the first layer.
        redundancy: How many random products there are for each weight, for inputs of
            one sign. Errors fall about by half with each.
        epsilon: Take only as many products, up to `redundancy`, as it takes for all
            errors of the weights to be at most this.
        distribution: Of the random weights: `"uniform"` from -1 to 1, `"normal"`, or a
            function that draws them, `distribution(rng, shape)` with a
            `numpy.random.Generator`.
        solver: As of `subset_sum`.
        seed: Of the random weights.
        verbose: As for `prune`.

    Returns:
        The `Ticket`.

    Raises:
        ValueError: For layers with other weights, weights that are not finite or
            larger than the sums of their products, and when `redundancy` does not
            suffice for `epsilon`; names one that does.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    x = np.random.default_rng(0).normal(size=(16, 4))
    ticket = keras_greedy.lottery.find_ticket(model, epsilon=0.01, verbose=0)
    print(ticket)
    error = ticket.model.predict(x, verbose=0) - model.predict(x, verbose=0)
    print(abs(error).max())
    ```

    Reference: Pensia et al., Optimal Lottery Tickets via SubsetSum, NeurIPS 2020,
    theorem 1. There a layer of neurons reads all inputs and is pruned to such groups;
    here it has no other connections to begin with.
    """
    _check(redundancy, epsilon, distribution, solver, seed)
    progress = Progress(verbose)
    graph = folded(trace_quietly(target_model))
    targets = targets_of(graph)

    def draw(count: int) -> dict[keras.Layer, Samples]:
        drawn = {}
        for index, (layer, target) in enumerate(targets.items()):
            # A seed for each layer: its weights do not depend on the others' sizes.
            drawn[layer] = Samples.draw(target, count, distribution, [seed, index])
        return drawn

    samples = draw(redundancy)
    check_reach(targets, samples)
    if epsilon is None:
        warn_of_unlucky(samples.values())
    else:
        redundancy = fewest(draw, redundancy, epsilon, solver)
    blocks = {}
    max_error = 0.0
    target_size = 0
    for layer, target in progress.over(targets.items(), "Subset sums", len(targets)):
        own = samples[layer].first(redundancy)
        products, weights = own.problems()
        found = subset_sum(products, weights, solver)
        blocks[layer] = block(target, own, found.mask)
        max_error = max(max_error, float(np.max(found.error, initial=0)))
        target_size += layer.count_params()
    model = random_network(graph, blocks)
    return Ticket(model, int(redundancy), max_error, target_size)


def _check(
    redundancy: int,
    epsilon: float | None,
    distribution: str | Distribution,
    solver: str,
    seed: int,
) -> None:
    check_count("seed", seed, minimum=0)
    check_number(
        "redundancy",
        redundancy,
        "a positive integer",
        is_count(redundancy),
    )
    if epsilon is not None:
        check_number(
            "epsilon",
            epsilon,
            "a positive number, the error that is allowed",
            is_number(epsilon) and 0 < epsilon < np.inf,
        )
    check_number(
        "distribution",
        distribution,
        f"one of {sorted(DISTRIBUTIONS)}, or a function of a generator and a shape",
        callable(distribution) or distribution in list(DISTRIBUTIONS),
    )
    solver_for(solver, redundancy)
