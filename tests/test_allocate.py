"""The widths of a budget, and budgets that make no sense."""

import itertools
import re
import sys

import keras
import numpy as np
import pytest
from models import conv, head, image, norm

from keras_greedy import Budget
from keras_greedy.budget import asked_and_kept
from keras_greedy.budget.allocate import allocate, check_reachable
from keras_greedy.budget.exchange import exchange_groups
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace_quietly

SIZES = {"a": 32, "b": 44, "c": 24, "d": 3}


def chain():
    x = picture = image(size=8)
    for name, size in SIZES.items():
        x = norm(conv(x, size, name=name), "relu")
    return keras.Model(picture, head(x))


@pytest.fixture(scope="module")
def costs():
    return Costs(trace_quietly(chain()))


def random_curves(seed, sizes=SIZES):
    """Falling curves of very different heights, with an end at 0; no branch may go."""
    rng = np.random.default_rng(seed)
    return {
        name: without_0(np.sort(rng.exponential(size=size) ** 3 * rng.exponential()))
        for name, size in sizes.items()
    }


def without_0(rising):
    """A curve that falls to 0 at the full width, and that no width of 0 is part of."""
    return np.concatenate([[np.inf], rising[-2::-1], [0.0]])


def loss(curves, widths):
    return sum(curves[name][width] for name, width in widths.items())


def fits(budget, costs, widths):
    return all(limit.cost(widths) <= limit.most for limit in budget.limits(costs))


BUDGETS = [
    Budget(macs=0.9),
    Budget(macs=0.5),
    Budget(macs=0.15),
    Budget(params=0.4),
    Budget(macs=0.6, params=0.3),
    Budget(macs=0.3, params=0.6),
    Budget(macs=0.4, round_to=1),
    Budget(macs=0.4, params=0.4, round_to=5),
    Budget(macs=500_000),
    Budget(params=9_000, macs=0.7),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_the_budget_is_met_and_no_wider_group_would_meet_it(budget, seed, costs):
    widths = allocate(random_curves(seed), budget, costs)
    assert widths.keys() == SIZES.keys()
    assert fits(budget, costs, widths)
    for name, size in SIZES.items():
        steps = budget.widths_of(size)
        assert widths[name] in steps
        assert widths[name] % budget.round_to == 0 or widths[name] == size
        if widths[name] < size:
            wider = widths | {name: steps[steps.index(widths[name]) + 1]}
            assert not fits(budget, costs, wider), f"{name} could be wider"


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("macs", [0.3, 0.5, 0.8])
def test_the_divergence_is_close_to_the_least_possible(macs, seed, costs):
    curves, budget = random_curves(seed), Budget(macs=macs)
    every = itertools.product(*map(budget.widths_of, SIZES.values()))
    candidates = (dict(zip(SIZES, widths, strict=True)) for widths in every)
    least = min(loss(curves, w) for w in candidates if fits(budget, costs, w))
    assert loss(curves, allocate(curves, budget, costs)) <= 1.1 * least


@pytest.mark.parametrize("seed", range(20))
def test_exchanges_find_what_narrowing_alone_does_not(seed, costs, monkeypatch):
    curves, budget = random_curves(seed), Budget(macs=0.5)
    least = loss(curves, allocate(curves, budget, costs))
    # `keras_greedy.budget.allocate` is the function, too.
    module = sys.modules["keras_greedy.budget.allocate"]
    monkeypatch.setattr(module, "MOST_COMBINATIONS", 0)
    widths = allocate(curves, budget, costs)
    assert fits(budget, costs, widths)
    assert loss(curves, widths) <= 1.15 * least
    limits = budget.limits(costs)
    again = dict(widths)
    exchange_groups(curves, again, budget, limits)
    assert again == widths


@pytest.mark.parametrize("offset", [0.0, -1e-9], ids=["around 0", "below 0"])
def test_groups_do_not_exchange_noise_for_ever(offset, costs, monkeypatch):
    rng = np.random.default_rng(0)
    curves = {
        name: offset + 1e-12 * rng.normal(size=size + 1) for name, size in SIZES.items()
    }
    module = sys.modules["keras_greedy.budget.allocate"]
    monkeypatch.setattr(module, "MOST_COMBINATIONS", 0)
    budget = Budget(macs=0.5)
    assert fits(budget, costs, allocate(curves, budget, costs))


def test_the_budget_is_used_up_where_that_is_as_good(costs):
    """Here cutting group `a` loses a bit less, and saves far more than was asked."""
    curves = {name: np.append(np.full(size, 9.0), 0) for name, size in SIZES.items()}
    curves["a"][:32] = 1.0
    curves["b"][40:44] = 1.05
    budget = Budget(macs=0.93)
    assert costs.macs(SIZES | {"a": 24}) < 0.91 * costs.macs()
    assert allocate(curves, budget, costs) == SIZES | {"b": 40}
    curves["b"][40:44] = 1.5
    assert allocate(curves, budget, costs) == SIZES | {"a": 24}


def test_without_an_excess_everything_is_kept(costs):
    for budget in (Budget(macs=1.0), Budget(params=1), Budget(macs=1e12)):
        assert allocate(random_curves(0), budget, costs) == SIZES


def test_a_group_that_the_output_does_not_need_is_cut_first(costs):
    curves = random_curves(0)
    curves["b"] = np.where(np.arange(45) < 16, curves["b"], 0.0)
    widths = allocate(curves, Budget(macs=0.8), costs)
    assert widths["b"] < 44
    assert {n: w for n, w in widths.items() if n != "b"} == {"a": 32, "c": 24, "d": 3}


def test_what_costs_nothing_is_still_cut_no_further_than_asked(costs):
    curves, budget = random_curves(0), Budget(macs=0.9)
    curves["b"] = np.zeros(45)
    widths = allocate(curves, budget, costs)
    assert widths == SIZES | {"b": widths["b"]}
    wider = budget.widths_of(44)[budget.widths_of(44).index(widths["b"]) + 1]
    assert not fits(budget, costs, widths | {"b": wider})


def test_a_smaller_budget_costs_more(costs):
    curves = random_curves(1)
    losses = [
        loss(curves, allocate(curves, Budget(macs=share), costs))
        for share in (0.9, 0.7, 0.5, 0.3, 0.2)
    ]
    assert losses == sorted(losses)


def test_equal_curves_give_the_same_widths_every_time(costs):
    flat = {name: np.append(np.ones(size), 0) for name, size in SIZES.items()}
    first = allocate(flat, Budget(macs=0.5), costs)
    backwards = dict(reversed(flat.items()))
    assert all(
        allocate(curves, Budget(macs=0.5), costs) == first
        for curves in (flat, flat, backwards)
    )


def test_a_fraction_and_the_absolute_number_are_the_same_budget(costs):
    curves = random_curves(2)
    for name in ("macs", "params"):
        whole = getattr(costs, name)()
        part = allocate(curves, Budget(**{name: 0.5}), costs)
        assert part == allocate(curves, Budget(**{name: whole // 2}), costs)
        assert part == allocate(curves, Budget(**{name: np.float32(0.5)}), costs)


@pytest.mark.parametrize("name", ["macs", "params"])
@pytest.mark.parametrize("round_to", [1, 8, 7, 32])
@pytest.mark.parametrize("form", ["absolute", "fraction"])
def test_an_impossible_budget_says_one_that_is_possible(name, round_to, form, costs):
    with pytest.raises(ValueError, match="Expected a `budget`") as error:
        allocate(random_curves(0), Budget(**{name: 1e-3}, round_to=round_to), costs)
    what = "MACs" if name == "macs" else "parameters"
    pattern = rf"([\d,]+) {what} are left, ([\d.]+)%: that or more can be met"
    absolute, percent = re.search(pattern, str(error.value)).groups()
    possible = {
        "absolute": int(absolute.replace(",", "")),
        "fraction": float(percent) / 100,
    }[form]
    allocate(random_curves(0), Budget(**{name: possible}, round_to=round_to), costs)


def test_of_two_limits_the_one_that_cannot_be_met_is_named(costs):
    with pytest.raises(ValueError, match="parameters are left"):
        check_reachable(Budget(macs=0.9, params=1e-4), costs, SIZES)


NO_LIMITS = [0, -1, -0.5, "0.5", True, [0.5], 1j, np.array([0.5, 0.6])]
NO_LIMITS += [float("nan"), float("inf"), -float("inf"), np.float32("inf")]


@pytest.mark.parametrize("value", NO_LIMITS, ids=str)
@pytest.mark.parametrize("name", ["macs", "params", "latency", "latency_ms"])
def test_a_limit_that_is_no_positive_number_is_an_error(name, value):
    with pytest.raises(ValueError, match=f"`{name}` to be positive.*Received"):
        Budget(**{name: value})


@pytest.mark.parametrize("round_to", [0, -8, 2.5, "8", None, True])
def test_a_rounding_that_is_no_positive_integer_is_an_error(round_to):
    with pytest.raises(ValueError, match="`round_to` to be a positive integer"):
        Budget(macs=0.5, round_to=round_to)


def test_a_budget_without_a_limit_is_an_error():
    with pytest.raises(ValueError, match="limit macs or params"):
        Budget()


@pytest.mark.parametrize("budget", [None, "half", True, [0.5], {"macs": 0.5}])
def test_what_is_no_budget_is_an_error_that_says_so(budget):
    with pytest.raises(
        ValueError, match=r"a number or a keras_greedy.Budget.*Received"
    ):
        Budget.of(budget)


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), 0, -1])
def test_a_number_that_is_no_budget_is_an_error(budget):
    with pytest.raises(ValueError, match=r"`macs` to be positive.*finite. Received"):
        Budget.of(budget)


def test_what_was_asked_for_and_what_is_kept_is_told(costs):
    widths = SIZES | {"b": 24}
    share = costs.macs(widths) / costs.macs()
    line = asked_and_kept(Budget(macs=share + 0.001), costs, widths)
    assert line == (
        f"Kept {share:.1%} of the MACs, where {share + 0.001:.1%} were asked for."
    )
    line = asked_and_kept(Budget(macs=share + 0.1), costs, widths)
    assert f"Kept {share:.1%}" in line
    assert "multiples of round_to=8" in line
    assert "`Budget(..., round_to=4)`" in line
    both = Budget(macs=share + 0.1, params=0.999)
    assert "of the parameters, where 99.9%" in asked_and_kept(both, costs, widths)
    assert asked_and_kept(Budget(macs=1e12), costs, SIZES).startswith("Kept 100.0%")


def test_a_number_is_a_budget_of_macs():
    for number in (0.5, np.float64(0.5), np.float32(0.5)):
        assert Budget.of(number) == Budget(macs=0.5)
    assert Budget.of(10**6) == Budget(macs=10**6)
    budget = Budget(params=0.1)
    assert Budget.of(budget) is budget


def test_widths_are_multiples_and_the_full_size():
    assert Budget(macs=1).widths_of(20) == [8, 16, 20]
    assert Budget(macs=1).widths_of(16) == [8, 16]
    assert Budget(macs=1).widths_of(8) == [8]
    assert Budget(macs=1).widths_of(5) == [5]
    assert Budget(macs=1, round_to=1).widths_of(3) == [1, 2, 3]
    assert Budget(macs=1, round_to=8.0).widths_of(9) == [8, 9]
