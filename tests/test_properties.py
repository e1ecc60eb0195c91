"""What must hold of every model, tried on random ones.

The examples are the same in every run.
"""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from models import (
    OLD_KERAS,
    TOPOLOGIES,
    UNPRUNABLE,
    assert_same,
    assert_state,
    inputs_of,
    outputs_of,
    state_of,
)
from random_graphs import CUSTOM_OBJECTS, random_model

import keras_greedy
from keras_greedy.graph.costs import Costs, count_params, macs
from keras_greedy.graph.fold import folded
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.rules.base import RULES
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.testing import gated

pytestmark = pytest.mark.skipif(
    OLD_KERAS, reason="Keras 3.12 cannot tell the output shape of an EinsumDense"
)


def examples(count):
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )


def some_of_each(graph, least, seed):
    """Of every group some channels, at random, in no order."""
    rng = np.random.default_rng(seed)
    counts = {
        group.name: rng.integers(min(least, group.size), group.size + 1)
        for group in graph.groups
    }
    return {
        group.name: rng.choice(group.size, counts[group.name], False)
        for group in graph.groups
    }


def differ(model, other, x):
    """Whether outputs differ by far more than rounding explains."""
    pairs = zip(outputs_of(model, x), outputs_of(other, x), strict=True)
    return any(np.abs(a - b).max() > 1e-3 * np.abs(b).max() for a, b in pairs)


def assert_compact_is_gated(model, graph, selection):
    compact, x = rebuild(graph, selection), inputs_of(model)
    assert_same(compact, gated(graph, selection), x)
    widths = {name: len(kept) for name, kept in selection.items()}
    # With one channel left, a grouped convolution is like any other.
    if min(widths.values(), default=1) > 1:
        again = trace_quietly(compact).widths
        # A layer that is taken apart may have other calls first, and so other names.
        assert sorted(again.values()) == sorted(widths.values())
    return compact


def assert_costs_are_predicted(graph, selection, compact):
    costs, widths = Costs(graph), {name: len(kept) for name, kept in selection.items()}
    assert costs.macs(widths) == macs(compact)
    assert costs.params(widths) == count_params(compact)


def assert_deterministic(model, graph, selection, compact):
    again = trace_quietly(model)
    assert described(again) == described(graph)
    weights = rebuild(again, selection).get_weights()
    for one, other in zip(compact.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)


def described(graph):
    """The groups in their order, with their channels and all calls they concern."""
    calls = [
        [call.index for call in (*g.producers, *g.normalizers, *g.consumers)]
        for g in graph.groups
    ]
    channels = [group.channels.tolist() for group in graph.groups]
    return [*graph.widths], channels, calls, graph.unprunable


def assert_saves_and_loads(compact, path, x):
    compact.save(path)
    loaded = keras.models.load_model(path, custom_objects=CUSTOM_OBJECTS)
    assert_same(loaded, compact, x, 1e-6)


def assert_folds(model, graph):
    inference = folded(graph)
    assert_same(inference.functional, model, inputs_of(model))
    assert inference.widths == graph.widths
    again = trace_quietly(inference.functional)
    assert [group.size for group in again.groups] == [*graph.widths.values()]


def assert_laws_hold(model, graph, selection, path):
    before = state_of(model)
    compact = assert_compact_is_gated(model, graph, selection)
    assert_costs_are_predicted(graph, selection, compact)
    assert_deterministic(model, graph, selection, compact)
    assert_saves_and_loads(compact, path, inputs_of(model))
    assert_folds(model, graph)
    assert_state(model, before)
    return compact


# Not by every few hundred graphs; `test_axes` has tests of them.
DRAWN_SELDOM = {"DepthToSpaceRule", "ScanRule", "SpaceToDepthRule"}


def check_laws(count, path):
    """Returns the rules of all calls of the examples."""
    rules, told = set(), []

    @examples(count)
    @given(st.data(), st.sampled_from([1, 2]), st.integers(0, 99))
    def laws_hold(data, least, seed):
        model = random_model(data)
        graph = trace_quietly(model)
        selection = some_of_each(graph, least, seed)
        compact = assert_laws_hold(model, graph, selection, path)
        rules.update(type(call.rule) for call in graph.calls)
        if any(len(kept) < graph.widths[name] for name, kept in selection.items()):
            told.append(differ(compact, model, inputs_of(model)))

    laws_hold()
    # Else the comparisons would say nothing.
    assert len(told) > 0.5 * count and np.mean(told) > 0.9
    return rules


def test_the_laws_hold_for_random_graphs(tmp_path):
    check_laws(40, tmp_path / "compact.keras")


@pytest.mark.slow
def test_the_laws_hold_for_many_random_graphs_and_every_rule_is_met(tmp_path):
    rules = check_laws(300, tmp_path / "compact.keras")
    # Other tests hold the same laws for each of these.
    for build in (*TOPOLOGIES.values(), *(build for build, *_ in UNPRUNABLE.values())):
        rules.update(type(call.rule) for call in trace_quietly(build()).calls)
    ours = {type(rule) for rule in RULES.values()}
    ours = {rule for rule in ours if rule.__module__.startswith("keras_greedy.")}
    assert {rule.__name__ for rule in ours - rules} <= DRAWN_SELDOM


def check_branches(count, path):
    """Returns how many branches of the examples have gone."""
    gone = []

    @examples(count)
    @given(st.data(), st.integers(0, 99))
    def branches_go(data, seed):
        model = random_model(data)
        graph = trace_quietly(model)
        ends = [*graph.branches.ends]
        assume(ends)
        empty = data.draw(st.lists(st.sampled_from(ends), min_size=1, unique=True))
        widths = {n: len(kept) for n, kept in some_of_each(graph, 2, seed).items()}
        widths = graph.branches.settled(widths | dict.fromkeys(empty, 0))
        selection = {name: np.arange(width) for name, width in widths.items()}
        compact, x = rebuild(graph, selection), inputs_of(model)
        assert_same(compact, gated(graph, selection), x)
        assert_costs_are_predicted(graph, selection, compact)
        assert_saves_and_loads(compact, path, x)
        # With one channel left, a grouped convolution is like any other.
        if 1 not in widths.values():
            left = keras_greedy.compare(model, compact).widths
            assert {name: change.after for name, change in left.items()} == widths
        gone.extend(empty)

    branches_go()
    return len(gone)


def test_the_laws_hold_for_random_graphs_without_their_branches(tmp_path):
    assert check_branches(20, tmp_path / "compact.keras") >= 20


@pytest.mark.slow
def test_the_laws_hold_for_many_random_graphs_without_their_branches(tmp_path):
    assert check_branches(200, tmp_path / "compact.keras") >= 200


def assert_search_works(model, graph, objective, step):
    x, before = inputs_of(model, 24), state_of(model)
    names = [tensor.name for tensor in model.inputs]
    data = dict(zip(names, x, strict=True)) if isinstance(x, list) else x
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some channels of model", UserWarning)
        paths = keras_greedy.search(
            model, data, objective=objective, step=step, verbose=0
        )
    costs = Costs(graph)
    least = costs.macs(dict.fromkeys(graph.widths, 1)) / costs.macs()
    share = max(0.6, least)
    compact = paths.compact(keras_greedy.Budget(macs=share, round_to=1))
    assert macs(compact) <= share * macs(model) * (1 + 1e-9)
    assert all(np.isfinite(y).all() for y in outputs_of(compact, x))

    assert_same(paths.compact(1.0), model, x)
    assert_state(model, before)


def check_search(count):
    @examples(count)
    @given(
        st.data(),
        st.sampled_from(["global", "local", "best"]),
        st.sampled_from(["corrective", "line_search", "uniform"]),
    )
    def search_works(data, objective, step):
        model = random_model(data, most_blocks=3)
        graph = trace_quietly(model)
        assume(graph.groups)
        assert_search_works(model, graph, objective, step)

    search_works()


def test_random_graphs_are_searched_and_cut_to_a_budget():
    check_search(4)


@pytest.mark.slow
def test_many_random_graphs_are_searched_and_cut_to_a_budget():
    check_search(15)
