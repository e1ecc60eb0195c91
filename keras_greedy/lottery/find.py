"""Strong lottery tickets: a network found in a random one, by pruning alone."""

from collections.abc import Callable
from numbers import Real

import keras
import numpy as np

from keras_greedy.graph.fold import folded
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.lottery.network import block, random_network
from keras_greedy.lottery.reach import check_reach, fewest, warn_of_unlucky
from keras_greedy.lottery.samples import DISTRIBUTIONS, Samples
from keras_greedy.lottery.subset_sum import solver_for, subset_sum
from keras_greedy.lottery.targets import targets_of
from keras_greedy.lottery.ticket import Ticket
from keras_greedy.progress import Progress


def find_ticket(
    target_model: keras.Model,
    redundancy: int = 21,
    epsilon: float | None = None,
    distribution: str | Callable = "uniform",
    solver: str = "exact",
    seed: int = 0,
    verbose="auto",
) -> Ticket:
    """Prunes a random network until it computes what a target network does.

    No weight is trained. The random network is twice as deep as the target and wider:
    each input of a linear layer goes through a group of random ReLU neurons of its
    own, and each output reads all groups. Which of these connections stay is one
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
            suffice for `epsilon`; says what does.

    Example:

    ```python
    ticket = keras_greedy.lottery.find_ticket(model, epsilon=0.01)
    print(ticket)
    print(abs(ticket.model.predict(x) - model.predict(x)).max())
    ```

    Reference: Pensia et al., Optimal Lottery Tickets via SubsetSum, NeurIPS 2020,
    theorem 1. There a layer of neurons reads all inputs and is pruned to such groups;
    here it has no other connections to begin with.
    """
    _check(redundancy, epsilon, distribution, solver, seed)
    progress = Progress(verbose)
    graph = folded(trace_quietly(target_model))
    targets = targets_of(graph)

    def draw(redundancy):
        return {
            key: Samples.draw(target, redundancy, distribution, [seed, i])
            for i, (key, target) in enumerate(targets.items())
        }

    samples = draw(redundancy)
    check_reach(targets, samples)
    if epsilon is None:
        warn_of_unlucky([*samples.values()])
    else:
        redundancy = fewest(draw, redundancy, epsilon, solver)
        samples = {key: own.first(redundancy) for key, own in samples.items()}
    blocks, errors = {}, []
    for key, target in progress.over(targets.items(), "Subset sums", len(targets)):
        found = subset_sum(*samples[key].problems(), solver)
        errors.append(found.error)
        blocks[key] = block(target, samples[key], found.mask)
    return Ticket(
        random_network(graph, blocks),
        int(redundancy),
        max_error=float(np.concatenate(errors).max(initial=0)),
        target_size=sum(target.layer.count_params() for target in targets.values()),
    )


def _check(redundancy, epsilon, distribution, solver, seed) -> None:
    if not _is_integer(seed) or seed < 0:
        raise ValueError(
            f"Expected `seed` to be an integer from 0 on. Received: seed={seed!r}"
        )
    if not _is_integer(redundancy) or redundancy < 1:
        raise ValueError(
            "Expected `redundancy` to be a positive integer. Received: "
            f"redundancy={redundancy!r}"
        )
    is_number = isinstance(epsilon, Real) and not isinstance(epsilon, bool)
    if epsilon is not None and not (is_number and 0 < epsilon < np.inf):
        raise ValueError(
            "Expected `epsilon`, the error that is allowed, to be a positive number. "
            f"Received: epsilon={epsilon!r}"
        )
    if not callable(distribution) and str(distribution) not in DISTRIBUTIONS:
        raise ValueError(
            f"Expected `distribution` to be one of {sorted(DISTRIBUTIONS)}, or a "
            f"function of a generator and a shape. Received: {distribution!r}"
        )
    solver_for(solver, redundancy)


def _is_integer(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
