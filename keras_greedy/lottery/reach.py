"""Checks that random products can add up to the weights they are for."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np

from keras_greedy.lottery.samples import Samples
from keras_greedy.lottery.solvers import MAX_EXACT
from keras_greedy.lottery.subset_sum import subset_sum
from keras_greedy.lottery.targets import Targets
from tflite_export.user_warnings import warn_user

# How many more products are tried, to say how many would do.
FURTHER = 8

# By how much the redundancy that an error advises is more than just enough.
MARGIN = 1.1

# The same for the size of the products, if larger random weights are advised.
MARGIN_OF_PRODUCTS = 1.5


def check_reach(targets: Targets, samples: Mapping[keras.Layer, Samples]) -> None:
    """Raises for weights larger than their products add up to on average."""
    for layer, target in targets.items():
        reach, sizes = _reach(samples[layer])
        if not len(sizes):
            continue
        largest = sizes.max()
        average = reach.mean()
        if not average:
            raise ValueError(
                "Expected `distribution` to draw random numbers of both signs. "
                "Received: numbers whose products are 0, or never of the sign of a "
                f"weight, for layer '{target.name}'"
            )
        if largest <= average:
            continue
        redundancy = len(samples[layer].incoming)
        raise ValueError(
            f"Expected no weight of layer '{target.name}' to be larger than "
            f"{average:.3g}, what the positive ones of {redundancy} random "
            f"products add up to on average. Received: a weight of size "
            f"{largest:.3g}. Use {_remedy(redundancy, largest / average)}"
        )


def _remedy(redundancy: int, times: float) -> str:
    """Returns the arguments of `find_ticket` to use instead.

    Args:
        redundancy: Products for each weight.
        times: The largest weight by the average reach.
    """
    # Reach grows with the number of products, and with the square of the random
    # weights' size: a product has two of them.
    enough = math.ceil(MARGIN * redundancy * times)
    size = math.sqrt(MARGIN_OF_PRODUCTS * times)
    rounded_up = math.ceil(10 * size) / 10
    larger = (
        "larger random weights: "
        f"distribution=lambda rng, shape: {rounded_up} * rng.uniform(-1, 1, shape)"
    )
    if enough > MAX_EXACT:
        return larger
    return f"redundancy={enough} or more, or {larger}"


def warn_of_unlucky(samples: Iterable[Samples]) -> None:
    """Warns of weights that happen to be larger than their products together."""
    unlucky = 0
    total = 0
    for own in samples:
        reach, sizes = _reach(own)
        unlucky += int(np.sum(reach < sizes))
        total += len(sizes)
    if unlucky:
        warn_user(
            f"{unlucky:,} of {total:,} weights are larger than all of their random "
            "products of the same sign together, which is what they get. A larger "
            "`redundancy` makes them fewer"
        )


def fewest(
    draw: Callable[[int], Mapping[keras.Layer, Samples]],
    redundancy: int,
    epsilon: float,
    solver: str,
) -> int:
    """Returns the smallest redundancy with which no weight's error is above epsilon.

    Args:
        draw: Gives the samples of all layers for a redundancy.
        redundancy: The largest admitted.
        epsilon: See above.
        solver: As of `subset_sum`.

    Raises:
        ValueError: When `redundancy` is too small; names one that is not.
    """
    # A subset sum takes about log2(1 / epsilon) random numbers on average.
    enough = math.ceil(-np.log2(epsilon))
    if enough <= redundancy:
        further = redundancy + FURTHER
        if solver == "exact":
            further = min(further, MAX_EXACT)
        # The second time only to say in the error how many would do.
        for limit in (redundancy, further):
            samples = list(draw(limit).values())
            enough = _needed(samples, epsilon, solver)
            if enough <= redundancy:
                return enough
    raise ValueError(
        f"Expected a `redundancy` that suffices for epsilon={epsilon}, which is "
        f"{enough} or more with solver={solver!r}. Received: redundancy={redundancy}"
    )


def _needed(samples: Sequence[Samples], epsilon: float, solver: str) -> int:
    """Returns the smallest redundancy that suffices, or one more than there is."""
    most = len(samples[0].incoming)
    enough = 1
    for own in samples:
        products, weights = own.problems()
        found = subset_sum(products, weights, solver, epsilon)
        if np.max(found.error, initial=0) > epsilon:
            return most + 1
        enough = max(enough, int(np.max(found.samples, initial=1)))
    # Given more than a weight needs, a solver that is not exact may do worse.
    if solver != "exact":
        while enough <= most and not _suffices(samples, enough, epsilon, solver):
            enough += 1
    return enough


def _suffices(
    samples: Sequence[Samples],
    redundancy: int,
    epsilon: float,
    solver: str,
) -> bool:
    """Returns whether no weight's error is above epsilon with this redundancy."""
    for own in samples:
        products, weights = own.first(redundancy).problems()
        found = subset_sum(products, weights, solver)
        if np.max(found.error, initial=0) > epsilon:
            return False
    return True


def _reach(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """Returns how large each weight could get, and how large it should.

    Returns:
        `(problems,)` sums of the products of a weight's sign, and sizes of weights.
    """
    products, weights = samples.problems()
    signs = np.sign(weights)
    of_its_sign = np.maximum(products * signs[:, None], 0)
    return of_its_sign.sum(axis=1), np.abs(weights)
