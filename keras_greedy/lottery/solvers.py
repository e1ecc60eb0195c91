"""Solvers of batches of subset sum problems.

Each maps `(problems, n)` values and `(problems,)` targets to `(problems, n)` masks,
True for the values that are added up.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from scipy import optimize

from tflite_export.checks import check_choice

Solver: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Of more values, the sums of the subsets of a half take gigabytes.
MAX_EXACT = 44

# How many sums of a half are sorted at a time: few enough for the cache of a core.
CHUNK = 2**16


def exact(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the masks of the best subsets.

    Reference: Horowitz and Sahni, Computing Partitions with Applications to the
    Knapsack Problem, Journal of the ACM, 1974.
    """
    problems, n = values.shape
    sums_of_the_larger_half = 2 ** ((n + 1) // 2)
    size = max(1, CHUNK // sums_of_the_larger_half)

    def solve_from(start: int) -> np.ndarray:
        part = slice(start, start + size)
        return _meet_in_the_middle(values[part], targets[part])

    # Threads are enough: sorting, which takes the time, leaves Python's lock to others.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        masks = list(pool.map(solve_from, range(0, problems, size)))
    # NumPy concatenates at least one array, and there may be no problem at all.
    none = np.zeros((0, n), bool)
    return np.concatenate([none, *masks])


def greedy(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns masks of subsets that no single value put in or taken out improves."""
    mask = np.zeros(values.shape, bool)
    if not mask.size:
        return mask
    # (problems,): the distance left to each target, with its sign.
    rest = targets.copy()
    # (active,): the problems that the last step improved.
    rows = np.arange(len(values))
    while len(rows):
        # (active, n): by how much a sum grows if the value enters or leaves it.
        change = np.where(mask[rows], -values[rows], values[rows])
        distances = np.abs(rest[rows, None] - change)
        best = distances.argmin(axis=1)
        active = np.arange(len(rows))
        improves = distances[active, best] < np.abs(rest[rows])
        changes = change[active, best]
        rest[rows[improves]] -= changes[improves]
        # A problem that no step improves has its solution: it leaves the loop.
        rows = rows[improves]
        best = best[improves]
        mask[rows, best] ^= True
    return mask


def milp(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the masks of an integer program's solver, a reference for the others."""
    masks = np.zeros(values.shape, bool)
    for row, target in enumerate(targets):
        masks[row] = _integer_program(values[row], target)
    return masks


SOLVERS: dict[str, Solver] = {"exact": exact, "greedy": greedy, "milp": milp}


def solver_for(name: str, n: int) -> Solver:
    """Returns the solver of this name.

    Args:
        name: One of `SOLVERS`.
        n: How many values its problems have.

    Raises:
        ValueError: When there is no such solver, or too many values for it.
    """
    check_choice("solver", name, sorted(SOLVERS))
    if name == "exact" and n > MAX_EXACT:
        raise ValueError(
            f"Expected at most {MAX_EXACT} values for solver='exact', which takes "
            f"2^(n/2) sums of subsets in memory. Received: {n} values. Use "
            "solver='greedy' or 'milp'"
        )
    return SOLVERS[name]


def _meet_in_the_middle(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the masks of the best subsets, from the sums of each half's subsets.

    The first half's sum should be the target less the second half's sum: the two
    nearest among 2^(n/2) numbers of each kind are found by sorting them together.
    """
    n = values.shape[1]
    half = n // 2
    # (problems, 2^half): the sum of each subset of the first half.
    sums = _sums_of_subsets(values[:, :half])
    # (problems, 2^(n - half)): the sum that each subset of the second half asks for.
    wanted = targets[:, None] - _sums_of_subsets(values[:, half:])
    both = np.concatenate([sums, wanted], axis=1)
    order = np.argsort(both, axis=1)
    ordered = np.take_along_axis(both, order, axis=1)
    # The nearest two of different kinds are neighbours: whatever lay between them
    # would be at least as near to the one of the other kind.
    gaps = np.diff(ordered, axis=1)
    is_sum = order < sums.shape[1]
    are_alike = is_sum[:, 1:] == is_sum[:, :-1]
    gaps[are_alike] = np.inf
    nearest = gaps.argmin(axis=1)
    rows = np.arange(len(values))
    left = order[rows, nearest]
    right = order[rows, nearest + 1]
    # Columns of `both` number the first half's subsets, then those of the second.
    first = np.minimum(left, right)
    second = np.maximum(left, right) - sums.shape[1]
    masks = [_bits(first, half), _bits(second, n - half)]
    return np.concatenate(masks, axis=1)


def _sums_of_subsets(values: np.ndarray) -> np.ndarray:
    """Returns the sums of all subsets.

    Args:
        values: `(problems, n)`.

    Returns:
        `(problems, 2^n)`: column s adds up the values at the bits that s has set.
    """
    sums = np.zeros((len(values), 1))
    for k in range(values.shape[1]):
        # The subsets with value k are those without it, 2^k columns further on.
        with_value = sums + values[:, k, None]
        sums = np.concatenate([sums, with_value], axis=1)
    return sums


def _bits(subsets: np.ndarray, n: int) -> np.ndarray:
    """Returns the masks of subsets that are given by their numbers.

    Args:
        subsets: `(problems,)`, numbered as the columns of `_sums_of_subsets`.
        n: How many values they are subsets of.

    Returns:
        `(problems, n)`.
    """
    bits = subsets[:, None] >> np.arange(n)
    return (bits & 1).astype(bool)


def _integer_program(values: np.ndarray, target: float) -> np.ndarray:
    """Returns the mask that solves min e, such that -e <= values . mask - target <= e.

    Args:
        values: `(n,)`.
        target: The number that they should add up to.
    """
    n = len(values)
    # The solver's tolerances are absolute: they are of numbers up to 1.
    scale = max(np.abs(values).max(initial=0), abs(target)) or 1.0
    scaled = values / scale
    aim = target / scale
    # The n + 1 unknowns are the mask, of integers from 0 to 1, and the error e.
    constraints = optimize.LinearConstraint(
        [
            [*scaled, -1.0],
            [*-scaled, -1.0],
        ],
        ub=[aim, -aim],
        lb=-np.inf,
    )
    result = optimize.milp(
        [*np.zeros(n), 1.0],
        integrality=[*np.ones(n), 0],
        bounds=optimize.Bounds(0, [*np.ones(n), np.inf]),
        constraints=constraints,
        options={"mip_rel_gap": 0},
    )
    # Integers come to the solver's tolerance only.
    return result.x[:n] > 0.5
