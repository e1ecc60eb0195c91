"""Subset sums against all subsets, and against an integer program."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_greedy.lottery import SubsetSum, subset_sum


def best_errors(values, target):
    """The smallest distance of any subset's sum to the target, by trying all."""
    subsets = np.array([*itertools.product([0, 1], repeat=values.shape[1])])
    sums = values @ subsets.reshape(len(subsets), -1).T
    return np.abs(sums - target[:, None]).min(axis=1)


def random_problems(count, n, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (count, n)), rng.uniform(-1.5, 1.5, count)


def assert_consistent(found, values, target):
    assert found.mask.dtype == bool
    assert found.mask.shape == values.shape
    sums = (values * found.mask).sum(axis=1)
    np.testing.assert_allclose(found.error, np.abs(sums - target), atol=1e-15)


@pytest.mark.parametrize("n", range(1, 13))
def test_the_exact_solver_finds_the_best_of_all_subsets(n):
    values, target = random_problems(400, n)
    found = subset_sum(values, target)
    assert_consistent(found, values, target)
    np.testing.assert_allclose(found.error, best_errors(values, target), atol=1e-12)


@given(
    st.lists(st.integers(-6, 6), min_size=1, max_size=9),
    st.integers(-30, 30),
)
def test_integers_with_ties_duplicates_and_zeros_are_solved_exactly(values, target):
    values = np.array(values, float)
    found = subset_sum(values, target)
    assert found.error == best_errors(values[None], np.array([float(target)]))[0]


@pytest.mark.parametrize("n", [12, 17])
def test_an_integer_program_certifies_the_optimum(n):
    values, target = random_problems(8, n)
    exact, reference = (subset_sum(values, target, s) for s in ("exact", "milp"))
    assert_consistent(reference, values, target)
    # Its tolerance is 1e-6.
    assert (exact.error <= reference.error + 1e-12).all()
    assert (reference.error <= exact.error + 2e-6).all()


def test_an_integer_program_certifies_that_no_subset_is_exact():
    # All are even but the target, and many sums of subsets are next to it.
    values = 2.0 * np.random.default_rng(0).integers(1, 500, 14)
    target = float(values[::2].sum() + 1)
    for solver in ("exact", "milp"):
        assert subset_sum(values, target, solver).error == 1


def test_powers_of_two_make_every_integer():
    values = np.tile(2.0 ** np.arange(10), (1024, 1))
    found = subset_sum(values, np.arange(1024.0))
    assert (found.error == 0).all()
    numbers = found.mask @ (1 << np.arange(10))
    np.testing.assert_array_equal(numbers, np.arange(1024))


def test_a_needle_in_four_million_subsets_is_found():
    rng = np.random.default_rng(0)
    values = rng.integers(10**9, 10**10, 22).astype(float)
    hidden = rng.random(22) < 0.5
    found = subset_sum(values, values[hidden].sum())
    assert found.error == 0
    np.testing.assert_array_equal(found.mask, hidden)


@pytest.mark.parametrize("solver", ["exact", "greedy", "milp"])
@pytest.mark.parametrize(
    ("values", "target", "error"),
    [
        ([0.5], 0.4, 0.1),
        ([0.5], 0.2, 0.2),
        ([0.3, 0.3, 0.3], 0.6, 0.0),
        ([0.0, 0.0], 0.0, 0.0),
        ([-0.4, 0.9, -0.1], -0.5, 0.0),
        ([0.2, -0.3, 0.4], 5.0, 4.4),
        ([0.2, -0.3, 0.4], -5.0, 4.7),
    ],
)
def test_small_cases_have_the_error_worked_out_by_hand(solver, values, target, error):
    found = subset_sum(values, target, solver)
    assert isinstance(found, SubsetSum)
    assert isinstance(found.error, float)
    assert found.mask.shape == (len(values),)
    assert found.error == pytest.approx(error, abs=1e-12)


def test_a_batch_of_no_problems_is_solved():
    for solver in ("exact", "greedy", "milp"):
        found = subset_sum(np.zeros((0, 5)), np.zeros(0), solver)
        assert found.mask.shape == (0, 5)


def test_no_single_change_makes_a_greedy_subset_better():
    values, target = random_problems(300, 15)
    found = subset_sum(values, target, "greedy")
    assert_consistent(found, values, target)
    for i in range(15):
        other = found.mask.copy()
        other[:, i] ^= True
        errors = np.abs((values * other).sum(axis=1) - target)
        assert (errors >= found.error - 1e-12).all()
    # Good, but not the best.
    assert (found.error >= best_errors(values, target) - 1e-12).all()
    assert found.error.mean() > 10 * best_errors(values, target).mean()


def test_many_problems_have_the_solutions_that_each_has_alone():
    values, target = random_problems(200, 14)
    together = subset_sum(values, target)
    for i in range(200):
        alone = subset_sum(values[i], target[i])
        np.testing.assert_array_equal(alone.mask, together.mask[i])


@pytest.mark.parametrize("epsilon", [0.3, 0.01])
def test_an_epsilon_is_reached_with_the_fewest_first_values(epsilon):
    values, target = random_problems(300, 12)
    found = subset_sum(values, target, epsilon=epsilon)
    for n in range(13):
        reached = best_errors(values[:, :n], target) <= epsilon
        np.testing.assert_array_equal(reached, (found.samples <= n) & reached)
        assert (found.error[reached] <= epsilon).all()
        assert not found.mask[found.samples <= n][:, n:].any()


def test_an_epsilon_that_all_values_do_not_reach_gets_the_nearest_sum():
    found = subset_sum([0.5, 0.4], 2.0, epsilon=0.01)
    assert found.error == pytest.approx(1.1)
    assert found.samples == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.1], [0.2]], 0.5), "shape"),
        ((np.zeros((2, 2, 2)), np.zeros((2, 2))), "shape"),
        (([0.1, np.nan], 0.5), r"`values` to be finite.*nan at \[1\]"),
        (([0.1, 0.2], np.inf), "`target` to be finite"),
        (([0.1], 0.5, "best"), "`solver` to be one of"),
        (([0.1], 0.5, "exact", -1), "`epsilon`"),
        (([0.1], 0.5, "exact", "small"), "`epsilon`"),
        ((np.zeros(45), 0.5), "at most 44 values"),
        (([], 1), "`values` to be at least one number"),
        ((np.zeros((4, 0)), np.zeros(4)), "`values` to be at least one number"),
        ((["a"], 0.5), "`values` to be numbers"),
        (([[1, 2], [3]], [1, 1]), "`values` to be numbers, in rows of one length"),
        (([1j], 0.5), "`values` to be numbers"),
        (([0.1], "a"), "`target` to be numbers"),
        (([0.1], None), "`target` to be numbers"),
    ],
)
def test_what_is_no_problem_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        subset_sum(*arguments)


def test_what_was_found_is_shown_in_a_line():
    assert "\n" not in repr(subset_sum(*random_problems(50, 12)))
