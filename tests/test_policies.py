"""Which groups a policy leaves whole, in every way of pruning."""

import dataclasses

import keras
import models
import pytest
from models import inputs_of, randomize

import keras_greedy
from keras_greedy.graph.trace import trace, trace_quietly
from keras_greedy.while_training.gated_model import GatedModel


class Only(keras_greedy.PruningPolicy):
    def __init__(self, *names):
        self.names = names

    def allow_pruning(self, group):
        return group.name in self.names


def network():
    x = picture = models.image()
    x = models.norm(models.conv(x, 16, name="stem"), "relu")
    x = models.norm(models.conv(x, 24, name="middle"), "relu")
    x = models.norm(models.conv(x, 8, name="narrow"), "relu")
    return randomize(keras.Model(picture, models.head(models.conv(x, 16, name="last"))))


def ends(model):
    groups = trace_quietly(model).groups
    return [
        {g.name for g in groups if g.is_stem},
        {g.name for g in groups if g.is_head},
    ]


def test_stem_and_head_are_found():
    assert ends(network()) == [{"stem"}, {"last"}]
    assert ends(models.inverted_residuals()) == [{"stem"}, {"last"}]
    assert ends(models.constants_per_channel()) == [{"a"}, {"b"}]
    assert ends(models.transfer_learning())[0] == {"backbone/stem"}


@pytest.mark.parametrize("objective", ["local", "loss"])
def test_what_a_policy_does_not_allow_stays_whole(objective):
    model, policy = network(), Only("middle")
    model.compile("sgd", "sparse_categorical_crossentropy")
    data = (inputs_of(model, 40), [i % 5 for i in range(40)])
    data = (data[0], keras.ops.convert_to_numpy(data[1]))
    step = "uniform" if objective == "loss" else "corrective"
    compact = keras_greedy.prune(
        model, data, 0.7, policy=policy, objective=objective, step=step, verbose=0
    )
    widths = trace(compact).widths
    assert widths.pop("middle") < 24
    assert widths == {"stem": 16, "narrow": 8, "last": 16}


def test_a_search_under_a_policy_is_saved_and_loaded(tmp_path):
    model = network()
    x, file = inputs_of(model, 40), tmp_path / "paths.npz"
    paths = keras_greedy.search(model, x, policy=Only("middle", "last"), verbose=0)
    paths.save(file)
    loaded = keras_greedy.load_paths(file, model)
    assert loaded.widths(0.7) == paths.widths(0.7)
    models.assert_same(loaded.compact(0.7, x), paths.compact(0.7), x, 1e-6)


def test_what_cannot_be_reached_under_a_policy_is_refused():
    model = network()
    with pytest.raises(ValueError, match="`budget` that can be met"):
        keras_greedy.prune(model, inputs_of(model), 0.1, policy=Only("last"))


@pytest.mark.slow
def test_a_latency_budget_goes_with_a_policy():
    def timer(paths):
        return [1.0 + i / 10 for i, _ in enumerate(paths)]

    model = network()
    table = keras_greedy.measure_latencies(model, timer, verbose=0)
    table = dataclasses.replace(table, timer=None)
    budget = keras_greedy.Budget(macs=0.7, latency=1.0, table=table)
    paths = keras_greedy.search(
        model, inputs_of(model), policy=Only("middle"), verbose=0
    )
    assert paths.widths(budget).keys() == {"middle"}


def test_only_allowed_groups_are_wrapped():
    wrapped = keras_greedy.prune_greedy(network(), policy=Only("middle"))
    assert GatedModel(wrapped).graph.widths == {"middle": 24}
    names = {layer.name for layer in wrapped.layers if layer.name.startswith("greedy")}
    assert names == {"greedy_narrow"}


def test_for_xnnpack_stem_head_and_narrow_groups_stay_whole():
    policy = keras_greedy.PruneForLatencyOnXNNPack()
    allowed = [
        g.name for g in trace_quietly(network()).groups if policy.allow_pruning(g)
    ]
    assert allowed == ["middle"]


def test_for_xnnpack_a_model_in_half_precision_is_refused(half_precision):
    policy = keras_greedy.PruneForLatencyOnXNNPack()
    with pytest.raises(ValueError, match=r"float32 .* Received: .*'stem': 'float16'"):
        keras_greedy.prune_greedy(network(), policy=policy)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("xnnpack", "be a keras_greedy.PruningPolicy or None. .*'xnnpack'"),
        (Only("x"), "allow one of the groups at least: stem, middle, narrow, last"),
    ],
)
def test_policies_that_do_not_fit_are_refused(policy, message):
    with pytest.raises(ValueError, match=f"Expected `policy` to {message}"):
        keras_greedy.search(network(), inputs_of(network()), policy=policy)
