"""Latency tables, how they are measured, and budgets that go by them."""

import dataclasses
import itertools
import json
import logging
import re
import warnings

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from keras import layers
from models import (
    TOPOLOGIES,
    conv,
    depthwise,
    head,
    image,
    norm,
    randomize,
    shared,
)

import keras_greedy
from keras_greedy import Budget, LatencyTable, LocalTimer, measure_latencies
from keras_greedy.budget.allocate import allocate
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.latency.blocks import blocks_of
from keras_greedy.latency.interpolation import BlockTimes

IMAGES = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")


def network():
    x = norm(conv(picture := image(size=8), 32, name="a"), "relu")
    x = norm(depthwise(x), "relu")
    x = norm(conv(x, 48, name="b"), "relu")
    x = norm(conv(x, 24, 1, "c"), "relu")
    return randomize(keras.Model(picture, head(x)))


def macs_of_files(paths):
    """Stands in for a clock: multiply-accumulates, as the runtime lists the kernels."""
    return [1 + macs_of_file(path) for path in paths]


def macs_of_file(path):
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    shapes = {t["index"]: t["shape"] for t in interpreter.get_tensor_details()}
    kernels = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    return sum(
        int(np.prod(shapes[op["inputs"][1]]) * np.prod(shapes[op["outputs"][0]][:-1]))
        for op in interpreter._get_ops_details()
        if op["op_name"] in kernels
    )


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def table(model):
    return measure_latencies(model, macs_of_files, verbose=0)


@pytest.fixture(scope="module")
def paths(model):
    return keras_greedy.search(model, IMAGES, objective="local", verbose=0)


def by_hand():
    """Two groups and three blocks; the first reads the model's input."""
    return LatencyTable(
        full_ms=20.0,
        sizes={"a": 32, "b": 16},
        blocks={
            "first": BlockTimes([], ["a"], ([0], [8, 16, 32]), [[1.0, 2.0, 3.0]]),
            "second": BlockTimes(
                ["a"], ["b"], ([8, 32], [8, 16]), [[1.0, 1.5], [3.0, 5.0]]
            ),
            "last": BlockTimes(["b"], [], ([8, 16], [0]), [[1.0], [2.0]]),
        },
    )


# --- The table -----------------------------------------------------------------------


def test_the_full_model_takes_what_it_was_measured_to_take():
    assert by_hand().ms() == by_hand().ms({"a": 32, "b": 16}) == 20.0


@pytest.mark.parametrize(
    "widths, blocks",
    [
        ({"a": 8}, 1 + 1.5 + 2),
        ({"b": 8}, 3 + 3 + 1),
        ({"a": 8, "b": 8}, 1 + 1 + 1),
        ({"a": 16}, 2 + (1.5 * 2 + 5) / 3 + 2),
        ({"a": 24, "b": 12}, 2.5 + (1.25 + 2 * 4) / 3 + 1.5),
    ],
    ids=str,
)
def test_measured_points_are_exact_and_all_others_between_them(widths, blocks):
    assert by_hand().ms(widths) == pytest.approx(20 * blocks / (3 + 5 + 2))


def test_many_widths_at_once_are_as_one_by_one():
    tried = np.arange(4, 33, 4)
    found = by_hand().ms({"a": tried, "b": 8})
    assert found.shape == tried.shape
    assert found.tolist() == [by_hand().ms({"a": a, "b": 8}) for a in tried]


def test_a_group_that_was_measured_at_one_width_costs_the_same_at_any():
    block = BlockTimes(["a"], [], ([5], [0]), [[2.0]])
    table = LatencyTable(1.0, {"a": 5}, {"only": block})
    assert table.ms({"a": 3}) == table.ms() == 1.0


def test_a_model_without_groups_takes_the_same_at_any_budget():
    table = LatencyTable(3.0, {}, {"only": BlockTimes([], [], ([0], [0]), [[2.0]])})
    assert table.ms() == table.ms({}) == 3.0


@pytest.mark.parametrize("ms", [[[1.0], [2.0, 3.0]], [[]], []], ids=str)
def test_a_table_of_unequal_lists_is_an_error_where_it_is_made(ms):
    with pytest.raises((IndexError, ValueError)):
        LatencyTable(1.0, {"a": 8}, {"only": BlockTimes(["a"], [], ([4, 8], [0]), ms)})


def test_a_saved_table_is_the_same_loaded(table, tmp_path):
    table.save(tmp_path / "table.json")
    loaded = LatencyTable.load(tmp_path / "table.json", timer=macs_of_files)
    assert [file.name for file in tmp_path.iterdir()] == ["table.json"]
    assert loaded.sizes == table.sizes
    rng = np.random.default_rng(0)
    for _ in range(10):
        widths = {name: rng.integers(1, size) for name, size in table.sizes.items()}
        assert loaded.ms(widths) == table.ms(widths)
    assert loaded.timer is macs_of_files
    assert LatencyTable.load(tmp_path / "table.json").timer is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"blocks": {"x": {"no": 1}}}'])
def test_a_file_that_is_no_table_is_an_error(text, tmp_path):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ValueError, match=r"LatencyTable.save wrote.*table.json"):
        LatencyTable.load(tmp_path / "table.json")


# --- Measuring -----------------------------------------------------------------------


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_blocks_are_the_model_at_all_widths(name):
    graph = trace_quietly(shared(name))
    blocks = blocks_of(graph)
    calls = [call.index for block in blocks for call in block.calls]
    assert sorted(calls) == list(range(len(graph.calls)))
    assert len({block.name for block in blocks}) == len(blocks)
    for share in (1, 2):
        widths = {name: -(-size // share) for name, size in graph.widths.items()}
        cut = rebuild(graph, {name: np.arange(n) for name, n in widths.items()})
        alone = [block.model(graph, widths) for block in blocks]
        # A block behind a reshape takes for examples what are rows of one.
        count = keras_greedy.count_params if name == "reshapes" else keras_greedy.macs
        assert sum(map(count, alone)) == count(cut)


def random_widths(sizes, seed=1):
    rng = np.random.default_rng(seed)
    return {name: int(rng.integers(min(8, n), n + 1)) for name, n in sizes.items()}


SLOW = [
    "inverted_residuals",
    "squeeze_excite_keepdims",
    "residual_with_projection",
    "nested_in_nested",
    "siamese",
    "two_flattens",
]


@pytest.mark.parametrize(
    "name",
    [
        "dense_connections",
        "transfer_learning",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    ],
)
def test_where_time_is_macs_the_table_is_that_of_the_macs(name):
    model = TOPOLOGIES[name]()
    costs = Costs(trace_quietly(model))
    table = measure_latencies(model, macs_of_files, verbose=0)
    for seed in range(3):
        widths = random_widths(table.sizes, seed)
        assert table.ms(widths) == pytest.approx(costs.macs(widths), rel=1e-3)


def test_blocks_that_differ_in_names_are_timed_once():
    x = picture = image(channels=16, size=8)
    for name in "abcdef":
        x = conv(x, 16, name=name)
    timed = []

    def timer(paths):
        timed.extend(paths)
        return macs_of_files(paths)

    measure_latencies(keras.Model(picture, head(x)), timer, verbose=0)
    # The whole, nothing, convolutions, the one behind which is a pooling, the head.
    assert len(timed) == 1 + 1 + 4 + 4 + 2


@pytest.mark.slow
def test_this_machine_is_timed(model, paths):
    table = measure_latencies(model, LocalTimer(runs=20), verbose=0)
    assert 0 < table.full_ms < 1e3
    assert all(np.min(block.ms) >= 0 for block in table.blocks.values())
    assert paths.latencies is paths.latencies
    assert paths.latencies.sizes == table.sizes


@pytest.mark.parametrize("bad", [{"threads": 0}, {"runs": 2.5}, {"runs": True}])
def test_a_clock_that_cannot_run_is_an_error(bad):
    (name,) = bad
    with pytest.raises(ValueError, match=f"`{name}` to be an integer of at least 1"):
        LocalTimer(**bad)


@pytest.mark.parametrize("timer", [3, "clock"])
def test_a_timer_that_is_none_is_an_error(timer, model):
    with pytest.raises(ValueError, match=r"Expected `timer` to give.*Received: timer="):
        measure_latencies(model, timer)


@pytest.mark.parametrize("broken", [[1.0], [0.0] * 3, [float("nan")] * 3])
def test_times_that_are_none_are_an_error(broken):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(
        ValueError, match="3 positive numbers, the milliseconds of each"
    ):
        measure_latencies(model, lambda paths: broken, verbose=0)


# --- Budgets -------------------------------------------------------------------------


def falling_curves(seed, sizes):
    rng = np.random.default_rng(seed)
    return {
        # No branch may go: at 0 it is infinite.
        name: np.concatenate(
            [[np.inf], np.sort(rng.exponential(size=size - 1) ** 3)[::-1], [0.0]]
        )
        for name, size in sizes.items()
    }


@pytest.fixture(scope="module")
def costs(model):
    return Costs(trace_quietly(model))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "limits",
    [{"latency": 0.7}, {"latency": 0.4}, {"latency": 0.8, "macs": 0.5}],
    ids=str,
)
def test_the_widths_fit_and_lose_little_more_than_the_best_of_all(
    limits, seed, table, costs
):
    budget = Budget(**limits, table=table)
    curves = falling_curves(seed, table.sizes)

    def fits(widths):
        return all(limit.cost(widths) <= limit.most for limit in budget.limits(costs))

    def loss(widths):
        return sum(curves[name][width] for name, width in widths.items())

    every = itertools.product(*map(budget.widths_of, table.sizes.values()))
    candidates = [dict(zip(table.sizes, widths, strict=True)) for widths in every]
    widths = allocate(curves, budget, costs)
    assert fits(widths)
    assert loss(widths) <= 1.25 * min(loss(each) for each in candidates if fits(each))


def test_where_time_is_macs_the_widths_are_those_of_a_budget_of_macs(table, costs):
    for seed, share in itertools.product(range(5), (0.8, 0.5, 0.3)):
        curves = falling_curves(seed, table.sizes)
        timed = allocate(curves, Budget(latency=share, table=table), costs)
        assert timed == allocate(curves, Budget(macs=share), costs)


def test_a_fraction_and_milliseconds_are_the_same_budget(table, costs):
    curves = falling_curves(0, table.sizes)
    part = allocate(curves, Budget(latency=0.5, table=table), costs)
    half = Budget(latency_ms=0.5 * table.full_ms, table=table)
    assert part == allocate(curves, half, costs)


@pytest.mark.parametrize("form", ["latency", "latency_ms"])
def test_an_impossible_latency_says_one_that_is_possible(form, table, costs):
    curves = falling_curves(0, table.sizes)
    with pytest.raises(ValueError, match="that or more can be met") as error:
        allocate(curves, Budget(**{form: 1e-3}, table=table), costs)
    pattern = r"([\d.]+) ms are left, ([\d.]+)%"
    ms, percent = map(float, re.search(pattern, str(error.value)).groups())
    possible = {"latency": percent / 100, "latency_ms": ms}[form]
    allocate(curves, Budget(**{form: possible}, table=table), costs)


def test_budgets_of_latency_that_make_no_sense_are_errors(table):
    for bad, match in (
        ({"latency": 0}, "`latency` to be positive"),
        ({"latency_ms": -1}, "`latency_ms` to be positive: milliseconds"),
        ({"latency": 2.5}, "milliseconds is `latency_ms`. Received: 2.5"),
        ({"latency": 0.5, "table": "table.json"}, "a keras_greedy.LatencyTable"),
        ({"macs": 0.5, "table": table}, "with a limit on the latency"),
    ):
        with pytest.raises(ValueError, match=match):
            Budget(**bad)


def test_the_table_of_another_model_is_an_error_before_the_search(model):
    with pytest.raises(ValueError, match="of the model that is pruned"):
        keras_greedy.prune(model, IMAGES, Budget(latency=0.5, table=by_hand()))


def test_a_loaded_search_asks_for_a_table(model, paths, table, tmp_path):
    paths.save(tmp_path / "paths.npz")
    loaded = keras_greedy.load_paths(tmp_path / "paths.npz", model)
    with pytest.raises(ValueError, match=r"to have a `table`.*measure_latencies"):
        loaded.compact(Budget(latency=0.5))
    assert loaded.widths(Budget(latency=0.5, table=table))


# --- Trying the result ---------------------------------------------------------------


def test_the_compact_model_takes_what_the_budget_says(paths, table, caplog):
    budget = Budget(latency=0.5, table=table)
    with caplog.at_level(logging.INFO, "keras_greedy"):
        compact = paths.compact(budget)
    report = paths.report(budget)
    assert report.measured_ms == (report.macs.before + 1, report.macs.after + 1)
    assert report.macs.after == keras_greedy.macs(compact)
    assert report.measured_ms.kept == pytest.approx(report.predicted_ms.kept, rel=1e-3)
    assert report.predicted_ms.kept <= 0.5
    assert "of the full model's), predicted" in caplog.records[-1].getMessage()
    assert "latency, measured, ms" in str(report)
    written = json.loads(report.to_json())
    assert written["measured_ms"]["after"] == report.measured_ms.after
    assert written["predicted_ms"]["kept"] == report.predicted_ms.kept


def test_a_table_without_a_timer_predicts_and_does_not_measure(paths, table):
    alone = dataclasses.replace(table, timer=None)
    report = paths.report(Budget(latency=0.5, table=alone))
    assert report.predicted_ms.kept <= 0.5
    assert report.measured_ms is None
    assert "measured" not in str(report)


@pytest.mark.parametrize("form", ["latency", "latency_ms"])
def test_a_table_that_promises_too_much_is_corrected(form, paths, table):
    """The device has a fixed cost as large as the model, which no block shows."""

    def with_a_fixed_cost(files):
        return [table.full_ms + ms for ms in macs_of_files(files)]

    full = 2 * table.full_ms
    wrong = dataclasses.replace(table, full_ms=full, timer=with_a_fixed_cost)
    limit = {"latency": 0.7, "latency_ms": 0.7 * full}[form]
    report = paths.report(Budget(**{form: limit}, table=wrong))
    assert report.measured_ms.kept == pytest.approx(0.7, rel=0.05)
    assert report.macs.kept == pytest.approx(0.4, rel=0.1)


def test_where_nothing_gets_faster_a_warning_says_so(paths, table):
    stubborn = dataclasses.replace(table, timer=lambda files: [1.0 for _ in files])
    with pytest.warns(UserWarning, match="misses the budget's latency=0.5, measured"):
        paths.compact(Budget(latency=0.5, table=stubborn))


@pytest.mark.parametrize("name", ["compact", "report", "widths"])
def test_the_warning_points_at_the_line_that_asked(name, paths, table):
    stubborn = dataclasses.replace(table, timer=lambda files: [1.0 for _ in files])
    with pytest.warns(UserWarning, match="misses the budget") as caught:
        getattr(paths, name)(Budget(latency=0.5, table=stubborn))
    ours = [warning for warning in caught if "misses" in str(warning.message)]
    assert [warning.filename for warning in ours] == [__file__]


@pytest.mark.parametrize("broken", [[1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_times_of_the_result_that_are_none_are_an_error(broken, paths, table):
    wrong = dataclasses.replace(table, timer=lambda files: broken)
    with pytest.raises(ValueError, match="2 positive numbers, the milliseconds"):
        paths.widths(Budget(latency=0.5, table=wrong))


def test_asking_again_gives_the_same_and_measures_nothing(paths, table):
    timed = []

    def timer(files):
        timed.append(files)
        return macs_of_files(files)

    budget = Budget(latency=0.6, table=dataclasses.replace(table, timer=timer))
    widths = paths.widths(budget)
    report = paths.report(budget)
    assert {name: kept.after for name, kept in report.widths.items()} == widths
    assert len(timed) == 1


def test_prune_takes_a_latency_budget(model, table):
    budget = Budget(latency=0.5, table=table)
    compact = keras_greedy.prune(model, IMAGES, budget, objective="local", verbose=0)
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(model)


@pytest.mark.slow
def test_prune_measures_by_itself(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # A busy machine may miss it.
        compact = keras_greedy.prune(model, IMAGES, Budget(latency=0.7), verbose=0)
    assert keras_greedy.macs(compact) < keras_greedy.macs(model)
