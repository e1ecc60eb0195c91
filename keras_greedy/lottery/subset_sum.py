"""Subset sum: finding the numbers to add up to come nearest to a target."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from keras_greedy.lottery.solvers import Solver, solver_for
from tflite_export.checks import check_number, is_number, shown


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
    error: float | np.ndarray
    samples: int | np.ndarray

    def __repr__(self) -> str:
        return (
            f"SubsetSum(mask={shown(self.mask)}, error={shown(self.error)}, "
            f"samples={shown(self.samples)})"
        )


def subset_sum(
    values: ArrayLike,
    target: ArrayLike,
    solver: str = "exact",
    epsilon: float | None = None,
) -> SubsetSum:
    """Finds the subset of `values` whose sum is nearest to `target`.

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
        ValueError: For numbers that are not finite or none, shapes that do not fit, no
            values or more than 44 for the exact solver, an unknown solver, a negative
            epsilon.

    Example:

    ```python
    import keras_greedy

    found = keras_greedy.lottery.subset_sum([0.5, -0.3, 0.9], 0.55)
    print(found.mask)  # [False  True  True]
    print(found.error)  # 0.05, to rounding
    ```

    Reference: Pensia et al., Optimal Lottery Tickets via SubsetSum, NeurIPS 2020.
    """
    numbers = _numbers("values", values)
    goals = _numbers("target", target)
    _check_problems(numbers, goals)
    solve = solver_for(solver, numbers.shape[-1])
    # A single problem is solved as a batch of one.
    batch = np.atleast_2d(numbers)
    targets = np.atleast_1d(goals)
    if epsilon is None:
        mask = solve(batch, targets)
        samples = np.full(len(batch), batch.shape[1])
    else:
        _check_epsilon(epsilon)
        mask, samples = _with_fewest(solve, batch, targets, float(epsilon))
    error = _errors(batch, mask, targets)
    if numbers.ndim == 1:
        return SubsetSum(mask[0], float(error[0]), int(samples[0]))
    return SubsetSum(mask, error, samples)


def _with_fewest(
    solve: Solver,
    values: np.ndarray,
    targets: np.ndarray,
    epsilon: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns masks within the fewest first values that reach `epsilon`.

    Args:
        solve: The solver.
        values: `(problems, n)`.
        targets: `(problems,)`.
        epsilon: The error that is allowed.

    Returns:
        The `(problems, n)` masks, and how many first values each was chosen of.
    """
    mask = np.zeros(values.shape, bool)
    samples = np.zeros(len(values), int)
    # (open,): the problems that are not within epsilon yet. Nothing is needed where
    # the sum of no value is.
    rest = np.flatnonzero(np.abs(targets) > epsilon)
    for n in range(1, values.shape[1] + 1):
        mask[rest, :n] = solve(values[rest, :n], targets[rest])
        samples[rest] = n
        errors = _errors(values[rest], mask[rest], targets[rest])
        rest = rest[errors > epsilon]
        if not len(rest):
            break
    return mask, samples


def _errors(values: np.ndarray, mask: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the `(problems,)` distances of the subsets' sums to the targets."""
    sums = np.sum(values * mask, axis=1)
    return np.abs(sums - targets)


def _check_epsilon(epsilon: float) -> None:
    check_number(
        "epsilon",
        epsilon,
        "a number of at least 0, the error that is allowed",
        is_number(epsilon) and epsilon >= 0,
    )


def _numbers(name: str, given: ArrayLike) -> np.ndarray:
    """Returns an argument as an array of float64."""
    try:
        array = np.asarray(given)
    except ValueError:  # Rows of unequal length.
        array = np.array(None)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected `{name}` to be numbers, in rows of one length. "
            f"Received: {name}={shown(given)}"
        )
    return array.astype(float)


def _check_problems(values: np.ndarray, target: np.ndarray) -> None:
    if values.ndim and not values.shape[-1]:
        raise ValueError(
            "Expected `values` to be at least one number for each problem. Received: "
            f"values of shape {values.shape}"
        )
    if values.ndim not in (1, 2) or target.shape != values.shape[:-1]:
        raise ValueError(
            "Expected `values` of shape (n,) and a number as `target`, or values "
            "(problems, n) and targets (problems,). Received: values of shape "
            f"{values.shape} and target of shape {target.shape}"
        )
    _check_all_finite("values", values)
    _check_all_finite("target", target)


def _check_all_finite(name: str, array: np.ndarray) -> None:
    """Raises a `ValueError` that says which entry is NaN or infinite, if one is."""
    # A target may be a single number, which has no position to name but the first.
    entries = np.atleast_1d(array)
    bad = np.argwhere(~np.isfinite(entries))
    if len(bad):
        where = bad[0].tolist()
        raise ValueError(
            f"Expected `{name}` to be finite. Received: "
            f"{entries[tuple(where)]} at {where}"
        )
