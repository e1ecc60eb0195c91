"""Residual branches that go as a whole, when a group has no channel left."""

import functools
import itertools
import subprocess
import sys

import keras
import models
import numpy as np
import pytest
from keras import layers
from models import (
    TOPOLOGIES,
    UNPRUNABLE,
    assert_same,
    conv,
    depthwise,
    head,
    image,
    inputs_of,
    norm,
    outputs_of,
    randomize,
    squeeze_excite,
)

import keras_greedy
import tflite_export
from keras_greedy import Budget
from keras_greedy.budget.allocate import allocate, check_reachable
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.fold import folded
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.cut import costs_of_cuts, cut
from keras_greedy.selection.moments import observe
from keras_greedy.testing import gated
from keras_greedy.training.streams import streams_of

# Builder's name -> the builder, the groups whose branch may go, and all groups that go
# with these.
BLOCKS = {}


def going(share):
    """A budget whose branches may go."""
    return Budget(share, remove_branches=True)


def block(ends, gone=None):
    def register(build):
        BLOCKS[build.__name__] = build, ends, gone or ends
        return build

    return register


def inverted(x, name, filters=8):
    y = norm(conv(x, 24, 1, f"{name}_expand", use_bias=False), "relu6")
    y = norm(depthwise(y, use_bias=False), "relu6")
    return norm(conv(y, filters, 1, f"{name}_project", use_bias=False))


@block(["one_expand", "two_expand"])
def mobilenet_v2():
    x = picture = image()
    x = norm(conv(x, 8, name="stem", strides=2), "relu6")
    for name in ("one", "two"):
        x = layers.Add(name=f"{name}_add")([x, inverted(x, name)])
    return keras.Model(picture, head(x))


@block(["one"])
def resnet_basic():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = norm(conv(x, 12, name="one"), "relu")
    x = layers.ReLU()(layers.Add()([x, norm(conv(y, 8, name="two"))]))
    return keras.Model(picture, head(x))


@block(["b", "d"], ["a", "b", "c", "d"])
def resnet_bottleneck():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    shortcut = norm(conv(x, 12, 1, name="shortcut", strides=2))
    y = norm(conv(x, 6, 1, name="a"), "relu")
    y = norm(conv(y, 10, name="b", strides=2), "relu")
    y = norm(conv(y, 12, 1, name="out_1"))
    x = layers.ReLU()(layers.Add()([shortcut, y]))
    y = norm(conv(x, 6, 1, name="c"), "relu")
    y = norm(conv(y, 10, name="d"), "relu")
    y = norm(conv(y, 12, 1, name="out_2"))
    x = layers.ReLU()(layers.Add()([y, x]))
    return keras.Model(picture, head(x))


@block(["a", "b"])
def preactivated():
    x = picture = image()
    x = conv(x, 8, name="stem")
    for name in ("a", "b"):
        y = norm(conv(norm(x, "relu"), 12, name=name), "relu")
        x = x + conv(y, 8, name=f"{name}_out")
    return keras.Model(picture, head(norm(x, "relu")))


@block(["left", "right"])
def a_sum_of_three():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    # What both branches read, and nothing else, goes with the second of them.
    before = norm(x, "relu")
    left = conv(layers.ReLU()(conv(before, 12, name="left")), 8, name="left_out")
    right = conv(layers.ReLU()(conv(before, 16, name="right")), 8, name="right_out")
    return keras.Model(picture, head(layers.Add()([left, x, right])))


@block(["left"])
def nothing_but_branches():
    """One of the summands has to stay."""
    x = picture = image()
    left = conv(layers.ReLU()(conv(x, 12, name="left")), 8, 1, name="left_out")
    right = conv(layers.ReLU()(conv(x, 16, name="right")), 8, 1, name="right_out")
    return keras.Model(picture, head(layers.Add()([right, left])))


@block(["hidden"])
def a_shared_reader():
    """Both branches go, as one layer ends them."""
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    hidden, project = layers.Conv2D(12, 1, name="hidden"), layers.Conv2D(8, 1)
    for _ in range(2):
        x = layers.Add()([x, project(layers.ReLU()(hidden(x)))])
    return keras.Model(picture, head(x))


@block(["a"])
def a_shared_activation_and_a_scaled_branch():
    x = picture = image()
    relu = layers.ReLU()
    x = relu(norm(conv(x, 8, name="stem")))
    y = relu(conv(x, 12, name="a"))
    y = keras.ops.tanh(layers.Dropout(0.2)(conv(y, 8, 1, name="out")))
    return keras.Model(picture, head(relu(layers.Add()([x, y]))))


@block(["expand"], ["expand", "gate_squeeze"])
def with_squeeze_and_excite():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "swish")
    y = norm(depthwise(conv(x, 24, 1, name="expand")), "swish")
    y = norm(conv(squeeze_excite(y, 6, "gate"), 8, 1, name="project"))
    return keras.Model(picture, head(layers.Add()([x, y])))


@block(["mlp"])
def transformer_mlp():
    x = sequence = keras.Input((6, 8))
    x = layers.Dense(8, name="embed")(x)
    y = layers.Dense(24, activation="gelu", name="mlp")(layers.LayerNormalization()(x))
    x = layers.Add()([x, layers.Dense(8, name="out")(y)])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(sequence, layers.Dense(3)(x))


@block(["inner", "outer"], ["inner", "outer"])
def a_branch_in_a_branch():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = norm(conv(x, 12, 1, name="outer"), "relu")
    z = norm(conv(y, 16, name="inner"), "relu")
    y = layers.Add()([y, norm(conv(z, 12, name="inner_out"))])
    y = norm(conv(y, 8, 1, name="outer_out"))
    return keras.Model(picture, head(layers.Add()([x, y])))


def also_read():
    """The hidden channels of the branch are read elsewhere."""
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = layers.ReLU()(conv(x, 12, name="hidden"))
    other = layers.Conv2D(8, 1, name="other")(layers.MaxPooling2D()(y))
    x = layers.MaxPooling2D()(layers.Add()([x, conv(y, 8, name="out")]))
    return keras.Model(picture, head(layers.Concatenate()([x, other])))


def branch_read_elsewhere():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = conv(layers.ReLU()(conv(x, 12, name="hidden")), 8, name="out")
    x = layers.Concatenate()([layers.Add()([x, y]), y])
    return keras.Model(picture, head(x))


def branch_given_out():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = conv(layers.ReLU()(conv(x, 12, name="hidden")), 8, name="out")
    return keras.Model(picture, [head(layers.Add()([x, y])), y])


def padded_behind():
    """At the border the branch is 0, and its bias elsewhere."""
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = layers.ReLU()(conv(x, 12, name="hidden"))
    y = layers.ZeroPadding2D()(conv(y, 8, name="out", padding="valid"))
    return keras.Model(picture, head(layers.Add()([x, y])))


def multiplied():
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = conv(layers.ReLU()(conv(x, 12, name="hidden")), 8, name="out")
    return keras.Model(picture, head(layers.Multiply()([x, y])))


def broadcast():
    """The stream has fewer positions than the sum."""
    x = picture = image()
    x = norm(conv(x, 8, name="stem"), "relu")
    y = conv(layers.ReLU()(conv(x, 12, name="hidden")), 8, name="out")
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(picture, head(layers.Add()([x, y])))


STAYING = [
    also_read,
    branch_read_elsewhere,
    branch_given_out,
    padded_behind,
    multiplied,
    broadcast,
]


@functools.cache
def shared(name):
    """The randomized model of a name in BLOCKS."""
    return randomize(BLOCKS[name][0]())


def every_choice(ends):
    """Yields each set of branches to go, but that of none."""
    for count in range(1, len(ends) + 1):
        yield from itertools.combinations(ends, count)


def small(widths, empty):
    """Half of the channels of each group, and none of those named."""
    return {name: 0 if name in empty else size // 2 for name, size in widths.items()}


def first_ones(widths):
    return {name: np.arange(width) for name, width in widths.items()}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_branches_that_may_go_are_found(name):
    _, ends, gone = BLOCKS[name]
    branches = trace_quietly(shared(name)).branches
    assert sorted(branches.ends) == sorted(ends)
    assert sorted(branches.of_groups) == sorted(gone)


@pytest.mark.parametrize("build", STAYING, ids=lambda build: build.__name__)
def test_a_branch_that_is_needed_elsewhere_stays(build):
    graph = trace_quietly(build())
    assert "hidden" in graph.widths and "hidden" not in graph.branches.ends
    with pytest.raises(ValueError, match="one or more"):
        rebuild(graph, {"hidden": []})


@pytest.mark.parametrize("name", BLOCKS)
def test_without_a_branch_the_compact_model_computes_what_the_gated_one_does(name):
    model = shared(name)
    graph, x = trace_quietly(model), inputs_of(model)
    for empty in every_choice(graph.branches.ends):
        alone = {own: [] for own in empty}
        assert_same(rebuild(graph, alone), gated(graph, alone), x)
        widths = graph.branches.settled(small(graph.widths, empty))
        selection = first_ones(widths)
        compact = rebuild(graph, selection)
        assert_same(compact, gated(graph, selection), x)
        report = keras_greedy.compare(model, compact)
        assert {own: change.after for own, change in report.widths.items()} == widths


@pytest.mark.parametrize("name", BLOCKS)
def test_costs_are_those_of_the_model_without_the_branch(name):
    model = shared(name)
    graph = trace_quietly(model)
    costs = Costs(graph)
    for empty in every_choice(graph.branches.ends):
        widths = small(graph.widths, empty)
        compact = rebuild(graph, first_ones(graph.branches.settled(widths)))
        assert costs.macs(widths) == keras_greedy.macs(compact)
        assert costs.params(widths) == compact.count_params()
        # Of an array of widths, too.
        tried = widths | {empty[0]: np.array([0, graph.widths[empty[0]]])}
        assert costs.params(tried)[0] == compact.count_params()
        report = keras_greedy.compare(model, compact)
        assert report.macs.after == costs.macs(widths)
        assert report.widths[empty[0]].after == 0
        assert f"{empty[0]} " in str(report)


@pytest.mark.parametrize("name", [*TOPOLOGIES, *UNPRUNABLE])
def test_on_every_topology_compact_is_gated_without_branches(name):
    model = models.shared(name)
    graph = trace_quietly(model)
    selection = {own: [] for own in graph.branches.ends}
    assert_same(rebuild(graph, selection), gated(graph, selection), inputs_of(model))


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_without_branches_in_mixed_precision(name, half_precision):
    keras.config.set_dtype_policy(name)
    model = randomize(mobilenet_v2())
    graph, selection = trace_quietly(model), {"one_expand": []}
    compact = rebuild(graph, selection)
    assert_same(compact, gated(graph, selection), inputs_of(model), 0.02)
    assert compact.get_layer("one_add").dtype_policy.name == name


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet_bottleneck", "preactivated"])
def test_the_mean_of_the_branch_is_added_in_its_place(name):
    """The mean is of all positions, over the calibration data."""
    model = shared(name)
    data = inputs_of(model, 16)
    paths = keras_greedy.search(model, data, verbose=0)
    graph = paths.graph
    (end,) = graph.branches.ends[BLOCKS[name][1][0]]
    widths = graph.branches.settled(graph.widths | {BLOCKS[name][1][0]: 0})
    compact = cut(graph, paths.moments, paths.paths, widths, paths.step)
    branch = keras.Model(model.input, end.summand)(data, training=False)
    branch = np.reshape(branch, (-1, branch.shape[-1]))
    added = np.array(compact.get_layer(end.sum.name).offset)
    # The search looks at a sample of the positions.
    error = np.abs(added - branch.mean(axis=0)) / branch.std(axis=0)
    assert error.max() < 0.2


def faint(name, layer):
    """A model one branch of which adds next to nothing."""
    model = randomize(BLOCKS[name][0]())
    own = model.get_layer(layer)
    own.set_weights([1e-4 * weight for weight in own.get_weights()])
    return model


@pytest.fixture(scope="module")
def found():
    """A network whose first branch is worth nothing, and its search."""
    model = faint("mobilenet_v2", "one_project")
    norm_behind = model.layers[model.layers.index(model.get_layer("one_project")) + 1]
    gamma, *others = norm_behind.get_weights()
    norm_behind.set_weights([1e-4 * gamma, *others])
    data = inputs_of(model, 32)
    return model, data, keras_greedy.search(model, data, verbose=0)


def test_a_branch_that_is_worth_nothing_goes(found):
    model, _, paths = found
    widths = paths.widths(going(0.7))
    assert widths["one_expand"] == 0 and widths["two_expand"] > 0
    compact = paths.compact(going(0.7))
    assert "one_project" not in [layer.name for layer in compact.layers]
    report = paths.report(going(0.7))
    assert report == keras_greedy.compare(model, compact)
    assert report.macs.after == keras_greedy.macs(compact)
    assert report.params.after == compact.count_params()
    assert '"one_expand": {"before": 24, "after": 0' in report.to_json()


def test_divergence_without_a_branch_is_measured(found):
    model, data, paths = found
    for name in paths.graph.widths:
        measured = paths.divergence[name]
        curve = measured.curve(paths.paths[name].errors)
        assert np.isfinite(curve[0]) == (name in paths.graph.branches.ends)
    widths = paths.graph.widths | {"two_expand": 0}
    # Of so few images half are measured, with weights that fit the others.
    halves = [[data[:16]], [data[16:]]]
    _, moments = observe(folded(paths.graph), halves, first=16)
    compact = cut(paths.graph, moments, paths.paths, widths, paths.step)
    (full,), (own,) = outputs_of(model, data[:16]), outputs_of(compact, data[:16])
    expected = (full * np.log(full / own)).sum(axis=-1).mean()
    value = paths.divergence["two_expand"].values[0]
    assert value == pytest.approx(expected, rel=0.02)


def test_branches_go_only_where_a_budget_says_so(found):
    _, _, paths = found
    widths = paths.widths(0.5)
    assert all(widths.values())
    with pytest.raises(ValueError, match="remove_branches"):
        Budget(0.5, remove_branches="no")


def test_without_branches_less_can_be_reached(found):
    _, _, paths = found
    costs = costs_of_cuts(paths.graph)
    narrow = {name: min(8, size) for name, size in paths.graph.widths.items()}
    without = narrow | dict.fromkeys(paths.graph.branches.ends, 0)
    share = costs.macs(without) / costs.macs()
    least = costs.macs(narrow) / costs.macs()
    assert paths.curve(5)[-1]["macs"] == pytest.approx(least)
    assert not any(
        paths.widths(going(share + 1e-6))[n] for n in paths.graph.branches.ends
    )
    with pytest.raises(ValueError, match="can be met"):
        paths.widths(Budget(share + 1e-6))


def test_width_0_is_taken_only_where_its_divergence_is_known():
    graph = trace_quietly(shared("mobilenet_v2"))
    costs = Costs(graph)
    curves = {n: np.linspace(1e-9, 0, size + 1) for n, size in graph.widths.items()}
    for curve in curves.values():
        curve[0] = np.inf
    assert all(allocate(curves, going(0.5), costs).values())
    curves["one_expand"][0] = 1e-9
    widths = allocate(curves, going(0.35), costs)
    assert widths["one_expand"] == 0
    assert widths["two_expand"] > 0
    with pytest.raises(ValueError, match="can be met"):
        check_reachable(going(0.05), costs, graph.widths, graph.branches.ends)


def test_groups_in_a_branch_go_with_it():
    graph = trace_quietly(shared("resnet_bottleneck"))
    curves = {
        n: np.append(np.inf, np.linspace(1, 0, s)) for n, s in graph.widths.items()
    }
    curves["d"][:] = np.append(0.01 * np.ones(10), 0)
    curves["c"][:-1] *= 10
    widths = graph.branches.settled(allocate(curves, going(0.8), Costs(graph)))
    assert (widths["c"], widths["d"]) == (0, 0)
    assert widths["a"] > 0 and widths["b"] > 0


def test_a_search_with_branches_is_saved_and_read(found, tmp_path):
    model, data, paths = found
    paths.save(tmp_path / "paths.npz")
    loaded = keras_greedy.load_paths(tmp_path / "paths.npz", model)
    assert loaded.widths(going(0.6)) == paths.widths(going(0.6))
    assert_same(
        loaded.compact(going(0.6), data), paths.compact(going(0.6)), data[:2], 1e-6
    )


def test_a_search_of_before_branches_is_read_and_keeps_them(found, tmp_path):
    model, _, paths = found
    paths.save(tmp_path / "paths.npz")
    with np.load(tmp_path / "paths.npz") as file:
        arrays = dict(file)
    arrays["format"] = np.array(1)
    for name in paths.graph.branches.ends:
        for field in ("widths", "values"):
            key = f"divergence/{name}/{field}"
            arrays[key] = arrays[key][1:]
    np.savez(tmp_path / "old.npz", **arrays)
    loaded = keras_greedy.load_paths(tmp_path / "old.npz", model)
    assert all(loaded.widths(going(0.6)).values())


def test_a_file_with_a_branch_that_the_model_lacks_is_refused(found, tmp_path):
    model, _, paths = found
    paths.save(tmp_path / "paths.npz")
    with np.load(tmp_path / "paths.npz") as file:
        arrays = dict(file)
    key = "divergence/stem/widths"
    arrays[key] = np.append(0, arrays[key][1:])
    np.savez(tmp_path / "wrong.npz", **arrays)
    with pytest.raises(ValueError, match="'stem' ends no branch"):
        keras_greedy.load_paths(tmp_path / "wrong.npz", model)


def test_the_model_without_a_branch_loads_without_this_library(found, tmp_path):
    _, data, paths = found
    compact = paths.compact(going(0.7))
    compact.save(tmp_path / "compact.keras")
    np.save(tmp_path / "x.npy", data[:2])
    script = (
        "import sys, keras, numpy as np\n"
        "model = keras.models.load_model('compact.keras')\n"
        "np.save('y.npy', model(np.load('x.npy')))\n"
        "assert not any(name.startswith('keras_greedy') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    expected = outputs_of(compact, data[:2])[0]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=1e-5)


def test_the_model_without_a_branch_is_exported(found, tmp_path):
    _, data, paths = found
    compact = paths.compact(going(0.7))
    file = tflite_export.convert(compact, tmp_path / "compact.tflite")
    assert tflite_export.verify(compact, file, data).max_abs_error < 1e-5


def test_a_student_without_a_branch_has_the_other_streams(found):
    model, data, paths = found
    compact = paths.compact(going(0.7))
    streams = streams_of(trace_quietly(model), trace_quietly(compact))
    assert "two_expand" in [stream.name for stream in streams]
    assert "one_expand" not in [stream.name for stream in streams]
    pruned = keras_greedy.prune(model, data, going(0.7), finetune=True, verbose=0)
    assert "one_project" not in [layer.name for layer in pruned.layers]


def test_a_latency_budget_knows_that_a_branch_takes_no_time(found):
    model, _, paths = found
    table = keras_greedy.measure_latencies(
        model, lambda files: [file.stat().st_size / 1e5 for file in files], verbose=0
    )
    full = paths.graph.widths
    narrow = table.ms(full | {"one_expand": 8})
    assert table.ms(full | {"one_expand": 0}) < narrow
    widths = paths.widths(Budget(latency=0.75, table=table, remove_branches=True))
    assert widths["one_expand"] == 0
    report = paths.report(Budget(latency=0.75, table=table, remove_branches=True))
    assert report.measured_ms.after < report.measured_ms.before


def test_a_search_layer_by_layer_keeps_the_branches(found):
    model, data, _ = found
    compact = keras_greedy.prune(
        model,
        data,
        going(0.6),
        method=keras_greedy.DivergenceSearch(candidates=4, channels_per_step=4),
        verbose=0,
    )
    assert trace_quietly(compact).widths.keys() == trace_quietly(model).widths.keys()


def test_a_policy_keeps_the_groups_inside_of_a_branch():
    class NotTheFirst(keras_greedy.PruningPolicy):
        def allow_pruning(self, group):
            return group.name != "c"

    model = shared("resnet_bottleneck")
    graph = keras_greedy.policies.allowed(trace_quietly(model), NotTheFirst())
    assert [*graph.branches.ends] == ["b"]


def test_what_is_left_can_be_pruned_again(found):
    _, data, paths = found
    compact = paths.compact(going(0.7))
    again = keras_greedy.prune(compact, data, 0.6, verbose=0)
    assert keras_greedy.macs(again) <= 0.6 * keras_greedy.macs(compact)
    keras_greedy.testing.assert_compact_equals_gated(compact, data[:2])
