"""Subset sum: which of some numbers to add up to come nearest to a target."""

import numbers
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from scipy import optimize

MAX_EXACT = 44
"""Of more values, the sums of the subsets of a half take gigabytes."""

CHUNK = 2**16
"""How many sums are sorted at a time: they stay in the cache of a core."""


class SubsetSum(NamedTuple):
    """Subsets of numbers, and how far their sums are from the targets.

    Attributes:
        mask: `(n,)`, or `(problems, n)` for a batch: True for the numbers added up.
        error: The distance of their sum to the target, a float or `(problems,)`.
        samples: How many of the numbers, from the first one on, the solver was given:
            all of them, or with `epsilon` the fewest that suffice; an integer or
            `(problems,)`.
    """

    mask: np.ndarray
    error: np.ndarray
    samples: np.ndarray


def subset_sum(values, target, solver: str = "exact", epsilon=None) -> SubsetSum:
    """The subset of `values` whose sum is nearest to `target`.

    Args:
        values: `(n,)` numbers, or `(problems, n)` for a batch of problems.
        target: A number, or `(problems,)` of them.
        solver: `"exact"` finds the best subset by meeting in the middle (Horowitz and
            Sahni, 1974): the sums of all subsets of each half of the values, sorted,
            in O(2^(n/2) n). `"greedy"` puts in, or takes out again, the value that
            helps most until none does, in O(n) a step; its subset is no more than
            good. `"milp"` has SciPy's HiGHS solve it as an integer program, to its
            tolerance of 1e-6, one problem at a time.
        epsilon: Use only as many of the values, in their order, as it takes for an
            error of at most this. All of them, where they do not suffice.

    Returns:
        The `SubsetSum`. A target out of reach gets the nearest sum there is.

    Raises:
        ValueError: For numbers that are not finite, shapes that do not fit, more than
            44 values for the exact solver, an unknown solver, a negative epsilon.

    Example:

    ```python
    found = keras_greedy.lottery.subset_sum([0.5, -0.3, 0.9], 0.55)
    found.mask, found.error     # [False, True, True], 0.05
    ```

    Reference: Pensia et al., Optimal Lottery Tickets via SubsetSum, NeurIPS 2020.
    """
    values, target = _checked(values, target)
    solve = solver_for(solver, values.shape[-1])
    single, batch = values.ndim == 1, np.atleast_2d(values)
    targets = np.atleast_1d(target)
    if epsilon is None:
        mask = solve(batch, targets)
        samples = np.full(len(batch), batch.shape[1])
    else:
        mask, samples = _with_fewest(solve, batch, targets, _check_epsilon(epsilon))
    error = _errors(batch, mask, targets)
    if single:
        return SubsetSum(mask[0], float(error[0]), int(samples[0]))
    return SubsetSum(mask, error, samples)


def exact(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`(problems, n)` values, `(problems,)` targets -> masks of the best subsets."""
    size = max(1, CHUNK // 2 ** ((values.shape[1] + 1) // 2))
    starts = range(0, len(values), size)
    # Sorting, which takes the time, leaves Python's lock to the other threads.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        masks = pool.map(
            lambda i: _meet_in_the_middle(values[i : i + size], target[i : i + size]),
            starts,
        )
        return np.concatenate([np.zeros((0, values.shape[1]), bool), *masks])


def greedy(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Masks of subsets that no single value put in or taken out makes better."""
    mask, rest, rows = (
        np.zeros(values.shape, bool),
        target.copy(),
        np.arange(len(values)),
    )
    while values.shape[1] and len(rows):
        change = np.where(mask[rows], -values[rows], values[rows])
        left = np.abs(rest[rows, None] - change)
        best = left.argmin(axis=1)
        taken = (np.arange(len(rows)), best)
        better = left[taken] < np.abs(rest[rows])
        rest[rows[better]] -= change[taken][better]
        rows, best = rows[better], best[better]
        mask[rows, best] ^= True
    return mask


def milp(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The masks that an integer program solver finds, a reference for the others."""
    masks = map(_integer_program, values, target)
    return np.array([*masks], bool).reshape(values.shape)


SOLVERS = {"exact": exact, "greedy": greedy, "milp": milp}


def solver_for(name, n: int):
    """The solver of this name, for so many values; raises when it has none."""
    if str(name) not in SOLVERS:
        raise ValueError(
            f"Expected `solver` to be one of {sorted(SOLVERS)}. Received: "
            f"solver={name!r}"
        )
    if name == "exact" and n > MAX_EXACT:
        raise ValueError(
            f"Expected at most {MAX_EXACT} values for solver='exact', which takes "
            f"2^(n/2) sums of subsets in memory. Received: {n} values. Use "
            "solver='greedy' or 'milp'"
        )
    return SOLVERS[name]


def _meet_in_the_middle(values: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The sum of one half that is nearest to what the sum of the other half leaves.

    In the sorted union of the two sets of numbers the nearest two are neighbours.
    """
    n = values.shape[1]
    sums = _sums_of_subsets(values[:, : n // 2])
    wanted = target[:, None] - _sums_of_subsets(values[:, n // 2 :])
    both = np.concatenate([sums, wanted], axis=1)
    order = np.argsort(both, axis=1)
    gaps = np.diff(np.take_along_axis(both, order, axis=1), axis=1)
    is_sum = order < sums.shape[1]
    gaps[is_sum[:, 1:] == is_sum[:, :-1]] = np.inf
    nearest = gaps.argmin(axis=1)
    rows = np.arange(len(values))
    pair = np.sort([order[rows, nearest], order[rows, nearest + 1]], axis=0)
    first, second = pair[0], pair[1] - sums.shape[1]
    return np.concatenate([_bits(first, n // 2), _bits(second, n - n // 2)], axis=1)


def _sums_of_subsets(values: np.ndarray) -> np.ndarray:
    """`(problems, n)` -> `(problems, 2^n)`: that of subset s adds up the bits of s."""
    sums = np.zeros((len(values), 1))
    for k in range(values.shape[1]):
        sums = np.concatenate([sums, sums + values[:, k, None]], axis=1)
    return sums


def _bits(subsets: np.ndarray, n: int) -> np.ndarray:
    return (subsets[:, None] >> np.arange(n) & 1).astype(bool)


def _integer_program(values: np.ndarray, target: float) -> np.ndarray:
    """min e, such that -e <= values . mask - target <= e."""
    n = len(values)
    scale = max(np.abs(values).max(initial=0), abs(target)) or 1.0
    v, t = values / scale, target / scale
    one_sided = optimize.LinearConstraint(
        [[*v, -1.0], [*-v, -1.0]], ub=[t, -t], lb=-np.inf
    )
    result = optimize.milp(
        [*np.zeros(n), 1.0],
        integrality=[*np.ones(n), 0],
        bounds=optimize.Bounds(0, [*np.ones(n), np.inf]),
        constraints=one_sided,
        options={"mip_rel_gap": 0},
    )
    return result.x[:n] > 0.5


def _with_fewest(solve, values, target, epsilon):
    """Masks within the fewest first values that reach epsilon; how many they are."""
    mask, samples = np.zeros(values.shape, bool), np.zeros(len(values), int)
    rest = np.flatnonzero(np.abs(target) > epsilon)
    for n in range(1, values.shape[1] + 1):
        mask[rest, :n] = solve(values[rest, :n], target[rest])
        samples[rest] = n
        rest = rest[_errors(values[rest], mask[rest], target[rest]) > epsilon]
        if not len(rest):
            break
    return mask, samples


def _errors(values, mask, target) -> np.ndarray:
    return np.abs(np.sum(values * mask, axis=1) - target)


def _check_epsilon(epsilon) -> float:
    if not isinstance(epsilon, numbers.Real) or not epsilon >= 0:
        raise ValueError(
            "Expected `epsilon` to be a number of at least 0, the error that is "
            f"allowed. Received: epsilon={epsilon!r}"
        )
    return float(epsilon)


def _checked(values, target) -> tuple[np.ndarray, np.ndarray]:
    values, target = np.asarray(values, float), np.asarray(target, float)
    if values.ndim not in (1, 2) or target.shape != values.shape[:-1]:
        raise ValueError(
            "Expected `values` of shape (n,) and a number as `target`, or values "
            "(problems, n) and targets (problems,). Received: values of shape "
            f"{values.shape} and target of shape {target.shape}"
        )
    for name, array in {"values": values, "target": target}.items():
        if not np.isfinite(array).all():
            where = np.argwhere(~np.isfinite(np.atleast_1d(array)))[0].tolist()
            raise ValueError(
                f"Expected `{name}` to be finite. Received: "
                f"{np.atleast_1d(array)[tuple(where)]} at {where}"
            )
    return values, target
