"""Whether random products can add up to the weights they are for."""

import math
import warnings

import numpy as np

from keras_greedy.lottery.samples import Samples
from keras_greedy.lottery.subset_sum import MAX_EXACT, subset_sum
from keras_greedy.lottery.targets import Target

FURTHER = 8
"""How many more products are tried, to say how many would do."""


def check_reach(targets: dict[int, Target], samples: dict[int, Samples]) -> None:
    """Raises for weights larger than their products add up to on average."""
    for key, target in targets.items():
        reach, sizes = _reach(samples[key])
        if not len(sizes) or sizes.max() <= reach.mean():
            continue
        redundancy, times = len(samples[key].incoming), sizes.max() / reach.mean()
        enough = math.ceil(1.1 * redundancy * times)
        more = f"redundancy={enough} or more, or " if enough <= MAX_EXACT else ""
        raise ValueError(
            f"Expected no weight of layer '{target.name}' to be larger than "
            f"{reach.mean():.3g}, what the positive ones of {redundancy} random "
            f"products add up to on average. Received: a weight of size "
            f"{sizes.max():.3g}. Use {more}larger random weights: "
            "distribution=lambda rng, shape: "
            f"{math.ceil(10 * math.sqrt(1.5 * times)) / 10} * rng.uniform(-1, 1, shape)"
        )


def warn_of_unlucky(samples: list[Samples]) -> None:
    """Warns of weights that happen to be larger than their products together."""
    pairs = [_reach(own) for own in samples]
    unlucky = sum((reach < sizes).sum() for reach, sizes in pairs)
    if unlucky:
        total = sum(len(sizes) for _, sizes in pairs)
        warnings.warn(
            f"{unlucky:,} of {total:,} weights are larger than all of their random "
            "products of the same sign together, which is what they get. A larger "
            "`redundancy` makes them fewer",
            stacklevel=3,
        )


def fewest(draw, redundancy: int, epsilon: float, solver: str) -> int:
    """The smallest redundancy with which no weight's error is above epsilon.

    Args:
        draw: Gives the `Samples` of all layers for a redundancy.
        redundancy: The largest admitted.
        epsilon: See above.
        solver: As of `subset_sum`.

    Raises:
        ValueError: When `redundancy` is too small; says which is not.
    """
    # A subset sum takes about log2(1 / epsilon) random numbers on average.
    enough = math.ceil(-np.log2(epsilon))
    if enough <= redundancy:
        further = redundancy + FURTHER
        if solver == "exact":
            further = min(further, MAX_EXACT)
        for limit in redundancy, further:
            enough = _needed([*draw(limit).values()], epsilon, solver)
            if enough <= redundancy:
                return enough
            if enough <= limit:
                break
    raise ValueError(
        f"Expected a `redundancy` that suffices for epsilon={epsilon}, which is "
        f"{enough} or more with solver={solver!r}. Received: redundancy={redundancy}"
    )


def _needed(samples: list[Samples], epsilon: float, solver: str) -> int:
    """The smallest redundancy that suffices; one more than there is if none does."""
    most = len(samples[0].incoming)
    found = [subset_sum(*own.problems(), solver, epsilon) for own in samples]
    if any(each.error.max(initial=0) > epsilon for each in found):
        return most + 1
    enough = int(max(each.samples.max(initial=1) for each in found))
    # Given more than a weight needs, a solver that is not exact may do worse.
    while solver != "exact" and enough <= most:
        fewer = [own.first(enough) for own in samples]
        errors = [subset_sum(*own.problems(), solver).error for own in fewer]
        if all(each.max(initial=0) <= epsilon for each in errors):
            break
        enough += 1
    return enough


def _reach(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """`(problems,)` sums of the products of a weight's sign, and sizes of weights."""
    products, weights = samples.problems()
    signs = np.sign(weights)[:, None]
    return np.maximum(products * signs, 0).sum(axis=1), np.abs(weights)
