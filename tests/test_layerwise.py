import functools
import re
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import (
    TOPOLOGIES,
    assert_state,
    conv,
    head,
    image,
    inputs_of,
    norm,
    outputs_of,
    randomize,
    state_of,
)

import keras_greedy
from keras_greedy import (
    Budget,
    DivergenceSearch,
    FineTune,
    LossSearch,
    prune,
    search,
)
from keras_greedy.batches import Batches
from keras_greedy.graph.fold import folded
from keras_greedy.graph.model_kinds import check_model
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.cut import cut
from keras_greedy.selection.moments import observe
from keras_greedy.selection.output.look import cached
from keras_greedy.selection.output.objectives import TrainingLoss, held_apart
from keras_greedy.selection.path import MixturePath, mixture_path

# --- Small networks and data ---------------------------------------------------------


def dense():
    x = layers.Dense(16, activation="relu", name="a")(vector := keras.Input((6,)))
    x = layers.Dense(16, activation="relu", name="b")(x)
    return keras.Model(vector, layers.Dense(5, activation="softmax", name="out")(x))


def sequential():
    stack = [
        keras.Input((6,)),
        layers.Dense(16, activation="relu", name="a"),
        layers.Dense(16, activation="relu", name="b"),
        layers.Dense(5, activation="softmax"),
    ]
    return keras.Sequential(stack)


def a_residual_stream():
    x = norm(conv(picture := image(size=4), 8, name="a", use_bias=False), "relu")
    y = norm(conv(x, 8, 1, "b", use_bias=False), "relu")
    x = layers.Add()([x, norm(conv(y, 8, name="c", use_bias=False))])
    return keras.Model(picture, head(layers.ReLU()(x)))


class Task:
    """A random network, and data that it mostly knows the labels of."""

    def __init__(self, build, examples=96):
        self.network = randomize(build())
        self.x = inputs_of(self.network, examples)
        answers = outputs_of(self.network, self.x)[0]
        rng = np.random.default_rng(0)
        wrong = rng.random(examples) < 0.05
        self.y = np.where(wrong, rng.integers(0, 5, examples), answers.argmax(axis=1))

    @property
    def data(self):
        return self.x, self.y


task = functools.cache(Task)


SEARCHES = {"loss": LossSearch, "divergence": DivergenceSearch}
SETTINGS = ("candidates", "channels_per_step", "finetune_per_layer", "tolerance")


def quiet(model, data, budget=None, objective="loss", step="uniform", **options):
    settings = {name: options.pop(name) for name in SETTINGS if name in options}
    method = SEARCHES[objective](step, **settings)
    return prune(model, data, budget, method=method, verbose=0, **options)


def loss_on(model, data):
    return TrainingLoss(model, Batches(data, check_model(model)))


HALF = Budget(macs=0.5, round_to=4)


def slowly(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def assert_same(one, two):
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def widths_of(model):
    return trace_quietly(model).widths


# --- By budget -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "build, objective, step",
    [
        (dense, "loss", "uniform"),
        slowly(dense, "divergence", "line_search"),
        slowly(dense, "loss", "line_search"),
        slowly(dense, "divergence", "uniform"),
        slowly(a_residual_stream, "divergence", "uniform"),
        slowly(a_residual_stream, "divergence", "line_search"),
        slowly(a_residual_stream, "loss", "uniform"),
        slowly(a_residual_stream, "loss", "line_search"),
    ],
)
def test_the_budget_is_met(build, objective, step):
    own = task(build)
    compact = quiet(own.network, own.data, HALF, objective=objective, step=step)
    full = keras_greedy.macs(own.network)
    assert 0.3 * full < keras_greedy.macs(compact) <= 0.5 * full
    assert all(width % 4 == 0 for width in widths_of(compact).values())
    assert compact.output_shape == own.network.output_shape


@pytest.mark.parametrize("share", [0.9, slowly(0.95)])
def test_line_search_that_converges_early_still_meets_the_budget(share):
    """Of twins one stands for all, so that no further step helps."""
    own = Task(dense)
    kernel, bias = own.network.get_layer("a").get_weights()
    own.network.get_layer("a").set_weights(
        [kernel[:, :1].repeat(16, 1), bias[:1].repeat(16)]
    )
    data = own.x, outputs_of(own.network, own.x)[0].argmax(axis=1)
    budget = Budget(macs=share, round_to=1)
    compact = quiet(own.network, data, budget, step="line_search")
    assert keras_greedy.macs(compact) <= share * keras_greedy.macs(own.network)


@pytest.mark.slow
def test_by_default_half_of_the_macs_are_kept():
    own = task(sequential)
    compact = quiet(own.network, own.data)
    assert isinstance(compact, keras.Sequential)
    assert widths_of(compact) == {"a": 8, "b": 8}


@pytest.mark.parametrize(
    "build, objective, step",
    [
        (dense, "loss", "uniform"),
        slowly(a_residual_stream, "divergence", "uniform"),
        slowly(dense, "divergence", "line_search"),
        slowly(a_residual_stream, "loss", "uniform"),
    ],
)
def test_each_group_is_searched_on_the_model_already_pruned(build, objective, step):
    own = task(build)
    model, data = own.network, own.data
    batches = Batches(data, check_model(model))
    against = SEARCHES[objective](step).objective_on(model, batches)
    paths = search(model, data, objective="local", step=step, verbose=0, seed=3)
    expected = rebuild(trace_quietly(model), {})
    for name, width in paths.widths(HALF).items():
        graph = trace_quietly(expected)
        if width == graph.widths[name]:
            continue
        selection, moments = begun(graph, name, data, against, step, seed=3)
        while selection.width < width:
            selection.advance()
        path = selection.path()
        expected = cut(graph, moments, {name: path}, {name: width}, step)
        keras_greedy.reestimate_batch_norm(expected, data)
    compact = quiet(model, data, HALF, objective=objective, step=step, seed=3)
    assert widths_of(compact) == paths.widths(HALF) != widths_of(model)
    assert_same(compact, expected)


def begun(graph, name, data, against, step="uniform", seed=0):
    inference = folded(graph)
    group = next(group for group in inference.groups if group.name == name)
    _, moments = observe(inference, Batches(data, graph.functional), seed)
    method = LossSearch(step)
    return method.begin(inference, group, moments, against, seed), moments


@pytest.mark.slow
def test_the_kept_channels_are_the_picked_ones_and_make_what_they_made():
    own = task(dense)
    graph = trace_quietly(own.network)
    selection, _ = begun(graph, "a", own.data, loss_on(own.network, own.data))
    while selection.width < 8:
        selection.advance()
    picked = np.unique(selection.picks)
    compact = quiet(own.network, own.data, Budget(macs=0.55, round_to=8))
    assert widths_of(compact)["a"] == 8
    kernel, bias = own.network.get_layer("a").get_weights()
    found = compact.get_layer("a").get_weights()
    np.testing.assert_array_equal(found[0], kernel[:, picked])
    np.testing.assert_array_equal(found[1], bias[picked])


@pytest.mark.slow
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_every_topology_is_pruned_to_its_budget(name):
    model = randomize(TOPOLOGIES[name]())
    data = inputs_of(model, 10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some channels of model", UserWarning)
        compact = quiet(
            model,
            data,
            Budget(macs=0.75, round_to=1),
            objective="divergence",
            channels_per_step=4,
        )
    assert keras_greedy.macs(compact) <= 0.75 * keras_greedy.macs(model)
    full, left = outputs_of(model, data), outputs_of(compact, data)
    assert [f.shape for f in full] == [c.shape for c in left]
    assert all(np.isfinite(c).all() for c in left)


@pytest.mark.slow
def test_the_search_is_a_function_of_the_seed():
    own = task(dense)
    one, same, other = (
        quiet(own.network, own.data, HALF, candidates=3, seed=seed)
        for seed in (0, 0, 1)
    )
    assert_same(one, same)
    assert any(
        a.shape != b.shape or (a != b).any()
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"candidates": "all"}, {"channels_per_step": 3}])
def test_the_budget_is_met_with_any_candidates(options):
    own = task(dense)
    compact = quiet(own.network, own.data, HALF, **options)
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(own.network)


@pytest.mark.slow
def test_a_pruned_model_can_be_pruned_again():
    own = task(dense)
    once = quiet(own.network, own.data, Budget(macs=0.7, round_to=2))
    twice = quiet(once, own.data, Budget(macs=0.7, round_to=2))
    sizes = [keras_greedy.macs(model) for model in (own.network, once, twice)]
    assert sizes[1] <= 0.7 * sizes[0]
    assert sizes[2] <= 0.7 * sizes[1]


@pytest.mark.slow
def test_the_labels_are_better_met_than_with_channels_chosen_by_chance():
    own = task(dense)

    def loss(model):
        p = outputs_of(model, own.x)[0]
        return -np.log(p[np.arange(len(p)), own.y]).mean()

    found = loss(quiet(own.network, own.data, HALF))
    graph, rng = trace_quietly(own.network), np.random.default_rng(0)
    _, moments = observe(graph, [[own.x]])
    evenly = 1 / np.arange(1, 17)
    for _ in range(5):
        paths = {
            name: mixture_path(rng.permutation(16), evenly, np.zeros(17), 16)
            for name in "ab"
        }
        assert found < loss(cut(graph, moments, paths, {"a": 8, "b": 8}, "uniform"))


@pytest.mark.slow
def test_a_search_gives_paths_good_for_every_budget():
    own = task(dense)
    paths = search(own.network, own.data, objective="loss", step="uniform", verbose=0)
    assert {type(path) for path in paths.paths.values()} == {MixturePath}
    for share in (0.8, 0.5):
        compact = paths.compact(Budget(macs=share, round_to=2))
        assert keras_greedy.macs(compact) <= share * keras_greedy.macs(own.network)


# --- By tolerance --------------------------------------------------------------------


def top1(model, x, y):
    return (outputs_of(model, x)[0].argmax(axis=1) == y).mean()


def held_of(own):
    """A fifth of each batch of 32."""
    held = np.arange(len(own.y)) % 32 % 5 == 4
    return own.x[held], own.y[held]


@pytest.mark.parametrize("tolerance", [slowly(0.0), 0.05, slowly(0.3)])
def test_top1_on_held_examples_is_lost_at_most_by_the_tolerance_per_group(tolerance):
    own = task(dense)
    compact = quiet(own.network, own.data, tolerance=tolerance)
    full, left = (top1(model, *held_of(own)) for model in (own.network, compact))
    assert left >= (1 - tolerance) ** 2 * full - 1e-9
    assert all(width % 8 == 0 for width in widths_of(compact).values())


@pytest.mark.slow
def test_a_greater_tolerance_leaves_fewer_channels():
    own = Task(lambda: wide(32))
    sizes = [
        sum(widths_of(quiet(own.network, own.data, tolerance=t)).values())
        for t in (0.0, 0.2, 0.9)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 8 < sizes[0]


def wide(units):
    x = layers.Dense(units, activation="relu", name="a")(vector := keras.Input((6,)))
    return keras.Model(vector, layers.Dense(5, activation="softmax", name="out")(x))


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.02, 0.1])
def test_the_least_width_in_eights_that_is_good_enough_is_kept(tolerance):
    own = Task(lambda: wide(32))
    against, held = held_apart(loss_on(own.network, own.data))
    selection, _ = begun(trace_quietly(own.network), "a", own.data, against)
    batches = cached(selection.suffix, held)

    def right(weights):
        weights = weights.astype("float32")
        answers = [selection.suffix.outputs(live, weights)[0] for live, _ in batches]
        labels = [np.array(labels[0]) for _, labels in batches]
        return (np.concatenate(answers).argmax(axis=1) == np.concatenate(labels)).mean()

    least = (1 - tolerance) * right(np.full(32, 1 / 32))
    for width in (8, 16, 24, 32):
        while selection.width < width and not selection.finished:
            selection.advance()
        if right(selection.weights) >= least:
            break
    compact = quiet(own.network, own.data, tolerance=tolerance)
    assert widths_of(compact) == {"a": width}


@pytest.mark.slow
def test_groups_of_less_than_eight_channels_stay_whole():
    own = Task(lambda: wide(6))
    compact = quiet(own.network, own.data, tolerance=0.9)
    assert widths_of(compact) == {"a": 6}
    np.testing.assert_array_equal(
        *(outputs_of(m, own.x)[0] for m in (own.network, compact))
    )


def per_pixel():
    x = conv(picture := image(size=4), 16, name="a", activation="relu")
    return keras.Model(picture, conv(x, 3, 1, activation="softmax"))


def test_top1_of_a_label_per_pixel_is_that_of_all_pixels():
    model = randomize(per_pixel())
    x = inputs_of(model, 40)
    y = outputs_of(model, x)[0].argmax(axis=-1)
    compact = quiet(model, (x, y), tolerance=0.5)
    held = np.arange(40) % 32 % 5 == 4
    right = outputs_of(compact, x[held])[0].argmax(axis=-1) == y[held]
    assert right.mean() >= 0.5


# --- The user's model ----------------------------------------------------------------


def compiled_task(build):
    own = Task(build)
    own.network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    own.network.get_layer("b").trainable = False
    return own


@pytest.mark.parametrize(
    "build, options",
    [
        (sequential, {"budget": HALF}),
        (dense, {"budget": 1.0}),
        slowly(dense, {"budget": HALF}),
        slowly(dense, {"tolerance": 0.5}),
        slowly(sequential, {"tolerance": 0.5}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_model_is_not_changed(build, options):
    own = compiled_task(build)
    before = state_of(own.network)
    compact = quiet(own.network, own.data, **options)
    assert_state(own.network, before)
    assert compact is not own.network
    assert not {id(w) for w in compact.weights} & {id(w) for w in own.network.weights}
    assert compact.optimizer is not own.network.optimizer
    assert compact.loss == own.network.loss
    assert not compact.get_layer("b").trainable


def test_when_nothing_is_cut_the_model_comes_back_as_a_copy():
    own = task(a_residual_stream)
    before = state_of(own.network)
    compact = quiet(own.network, own.data, 1.0)
    assert_state(own.network, before)
    assert widths_of(compact) == widths_of(own.network)
    assert_same(compact, own.network)
    compact.get_layer("a").kernel.assign(0 * compact.get_layer("a").kernel)
    assert_state(own.network, state_of(own.network))


@pytest.mark.slow
def test_fine_tuning_per_layer_leaves_the_model_as_it_is():
    own = compiled_task(dense)
    before = state_of(own.network)
    quiet(own.network, own.data, HALF, finetune_per_layer=FineTune())
    assert_state(own.network, before)


# --- Fine-tuning ---------------------------------------------------------------------


class Epochs(keras.callbacks.Callback):
    """Notes the widths of the model in each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_end(self, epoch, logs=None):
        # Without labels, what is trained is a model around the compact one.
        compact = getattr(self.model, "compact", self.model)
        self.seen.append(widths_of(compact))


@pytest.mark.parametrize("distill", [False, slowly(True)])
def test_each_group_is_followed_by_training(distill):
    own, epochs = task(dense), Epochs()
    tuned = FineTune(epochs=2, callbacks=(epochs,), distill=distill)
    compact = quiet(
        own.network,
        own.data,
        Budget(macs=0.45, round_to=8),
        finetune_per_layer=tuned,
    )
    assert epochs.seen == [{"a": 8, "b": 16}] * 2 + [{"a": 8, "b": 8}] * 2
    assert widths_of(compact) == {"a": 8, "b": 8}


@pytest.mark.slow
def test_training_per_group_and_at_the_end_go_together():
    own, between, after = task(dense), Epochs(), Epochs()
    quiet(
        own.network,
        own.data,
        Budget(macs=0.45, round_to=8),
        finetune_per_layer=FineTune(epochs=1, callbacks=(between,)),
        finetune=FineTune(epochs=3, callbacks=(after,)),
    )
    assert len(between.seen) == 2
    assert after.seen == [{"a": 8, "b": 8}] * 3


def test_a_group_that_stays_whole_is_not_followed_by_training():
    own, epochs = task(dense), Epochs()
    tuned = FineTune(callbacks=(epochs,))
    quiet(own.network, own.data, 1.0, finetune_per_layer=tuned)
    assert not epochs.seen


# --- Labels and losses ---------------------------------------------------------------


LABELS = {
    "integers": lambda y: y,
    "small integers": lambda y: y.astype("uint8"),
    "floats": lambda y: y.astype("float32"),
    "a column": lambda y: y[:, None],
    "one-hot": lambda y: np.eye(5, dtype="float32")[y],
    "one-hot integers": lambda y: np.eye(5, dtype=int)[y],
}


@pytest.mark.parametrize(
    "labels, stop",
    [
        ("one-hot", {"tolerance": 0.3}),
        *(slowly(labels, {"budget": HALF}) for labels in LABELS),
        *(slowly(n, {"tolerance": 0.3}) for n in LABELS if n != "one-hot"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_labels_in_any_form_give_the_same_model(labels, stop):
    own = task(dense)
    compact = quiet(own.network, (own.x, LABELS[labels](own.y)), **stop)
    expected = as_integers(*stop.items())
    assert widths_of(compact) == widths_of(expected)
    for a, b in zip(compact.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@functools.cache
def as_integers(*stop):
    own = task(dense)
    return quiet(own.network, own.data, **dict(stop))


LOSSES = {
    "sparse": ("sparse_categorical_crossentropy", "integers"),
    "a loss": (keras.losses.SparseCategoricalCrossentropy(), "a column"),
    "categorical": ("categorical_crossentropy", "one-hot"),
    "a list": (["sparse_categorical_crossentropy"], "integers"),
    "a dict": ({"out": "sparse_categorical_crossentropy"}, "integers"),
    "of the user's": (lambda y, p: keras.losses.mean_squared_error(y, p), "one-hot"),
    "squared": ("mse", "one-hot"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_the_compile_settings(name):
    own, (loss, labels) = Task(dense), LOSSES[name]
    own.network.compile("sgd", loss)
    y = LABELS[labels](own.y)
    found = loss_on(own.network, (own.x, y))
    total = 0.0
    for inputs, targets in found.examples():
        answers = [tf.constant(outputs_of(own.network, inputs[0])[0])]
        total += float(np.sum(found.loss(answers, [tf.constant(t) for t in targets])))
    expected = own.network.evaluate(own.x, y, batch_size=96, verbose=0)
    np.testing.assert_allclose(total / 96, expected, rtol=1e-5)


def binary():
    x = layers.Dense(16, activation="relu", name="a")(vector := keras.Input((6,)))
    return keras.Model(vector, layers.Dense(1, activation="sigmoid")(x))


@pytest.mark.parametrize(
    "stop, shape, compiled",
    [
        ({"tolerance": 0.2}, (-1,), False),
        slowly({"tolerance": 0.2}, (-1, 1), True),
        slowly({"budget": 0.5}, (-1,), True),
        slowly({"budget": 0.5}, (-1, 1), False),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_binary_output(stop, shape, compiled):
    model = randomize(binary())
    if compiled:
        model.compile("adam", "binary_crossentropy")
    x = inputs_of(model, 96)
    p = outputs_of(model, x)[0].ravel()
    y = (p > 0.5).astype(int)
    compact = quiet(model, (x, y.reshape(shape)), **stop)
    assert widths_of(compact)["a"] in (8, 16)
    right = (outputs_of(compact, x)[0].ravel() > 0.5) == y
    assert right.mean() > max(y.mean(), 1 - y.mean()) - 0.1


def two_heads(names=None):
    x = layers.Dense(16, activation="relu", name="a")(vector := keras.Input((6,)))
    label = layers.Dense(5, activation="softmax", name="label")(x)
    size = layers.Dense(2, name="size")(x)
    outputs = dict(zip(names, (label, size), strict=True)) if names else [label, size]
    return keras.Model(vector, outputs)


TWO_LOSSES = ("sparse_categorical_crossentropy", "mse")


@pytest.mark.parametrize(
    "names, by_name",
    [
        (None, False),
        (None, True),
        (("label", "size"), True),
        (("what", "how_large"), True),
    ],
    ids=["lists", "dicts by layer", "dict of outputs", "dict with names of its own"],
)
def test_several_outputs_have_a_loss_each(names, by_name):
    model = randomize(two_heads(names))
    x, rng = inputs_of(model, 96), np.random.default_rng(0)
    y = [rng.integers(0, 5, 96), rng.normal(size=(96, 2)).astype("float32")]
    losses, keys = list(TWO_LOSSES), names or ("label", "size")
    if by_name:
        losses = dict(zip(keys, losses, strict=True))
        y = dict(zip(keys, y, strict=True))
    model.compile("adam", losses)
    whole = model.evaluate(x, y, batch_size=96, verbose=0)
    found = loss_on(model, (x, y))
    total = 0.0
    for inputs, targets in found.examples():
        answers = [tf.constant(answer) for answer in outputs_of(model, inputs[0])]
        total += float(np.sum(found.loss(answers, [tf.constant(t) for t in targets])))
    np.testing.assert_allclose(total / 96, np.ravel(whole)[0], rtol=1e-4)


@pytest.mark.slow
def test_a_model_of_several_outputs_is_pruned():
    model = randomize(two_heads())
    model.compile("adam", dict(zip(("label", "size"), TWO_LOSSES, strict=True)))
    x, rng = inputs_of(model, 96), np.random.default_rng(0)
    y = {"label": rng.integers(0, 5, 96), "size": rng.normal(size=(96, 2))}
    assert widths_of(quiet(model, (x, y), 0.5))["a"] == 8


def test_the_losses_of_several_outputs_are_weighed_as_in_training():
    model = randomize(two_heads())
    x, rng = inputs_of(model, 32), np.random.default_rng(0)
    y = [rng.integers(0, 5, 32), rng.normal(size=(32, 2)).astype("float32")]
    model.compile("adam", list(TWO_LOSSES), loss_weights=[0.1, 10.0])
    whole = model.evaluate(x, y, verbose=0)
    found = loss_on(model, (x, y))
    ((_, targets),) = found.examples()
    answers = [tf.constant(answer) for answer in outputs_of(model, x)]
    each = found.loss(answers, [tf.constant(target) for target in targets])
    np.testing.assert_allclose(np.mean(each), np.ravel(whole)[0], rtol=1e-4)


def test_an_output_that_has_no_loss_is_not_looked_at():
    model = randomize(two_heads())
    x, y = inputs_of(model, 32), np.random.default_rng(0).integers(0, 5, 32)
    model.compile("adam", [TWO_LOSSES[0], None])
    y = [y, np.zeros((32, 2), "float32")]
    whole = model.evaluate(x, y, verbose=0)
    found = loss_on(model, (x, y))
    ((_, targets),) = found.examples()
    answers = [tf.constant(answer) for answer in outputs_of(model, x)]
    each = found.loss(answers, [tf.constant(target) for target in targets])
    np.testing.assert_allclose(np.mean(each), np.ravel(whole)[0], rtol=1e-4)


# --- Sources of data -----------------------------------------------------------------


class Shelf(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, i):
        part = slice(32 * i, 32 * i + 32)
        return self.x[part], self.y[part]


SOURCES = {
    "tf.data": lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(32),
    "PyDataset": Shelf,
    "generator": lambda x, y: (Shelf(x, y)[i] for i in range(3)),
    "list": lambda x, y: [Shelf(x, y)[i] for i in range(3)],
    "other batches": lambda x, y: [(x[:50], y[:50]), (x[50:], y[50:])],
    "with sample weights": lambda x, y: (x, y, np.ones(len(x))),
}


@pytest.mark.parametrize(
    "source",
    [
        "generator",
        *(slowly(name) for name in SOURCES if name != "generator"),
    ],
)
def test_every_source_of_data_gives_the_same_model(source):
    own = task(dense)
    compact = quiet(own.network, SOURCES[source](*own.data), HALF)
    assert_same(compact, as_integers(("budget", HALF)))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["tf.data", "PyDataset", "generator", "list"])
def test_every_source_of_data_can_be_trained_on_after_each_group(source):
    own, epochs = task(dense), Epochs()
    tuned = FineTune(callbacks=(epochs,))
    data = SOURCES[source](*own.data)
    quiet(own.network, data, HALF, finetune_per_layer=tuned)
    assert len(epochs.seen) >= 1


@pytest.mark.slow
def test_the_divergence_needs_no_labels():
    own = task(dense)
    with_labels, without = (
        quiet(own.network, data, HALF, objective="divergence")
        for data in (own.data, own.x)
    )
    assert_same(with_labels, without)


# --- What bad input gets -------------------------------------------------------------


class OneBatch:
    """Data whose second batch only long work would read."""

    def __init__(self, *batch):
        self.batch = batch if len(batch) > 1 else batch[0]

    def __iter__(self):
        yield self.batch
        raise AssertionError("a second batch was read")


def assert_refused(message, model=None, labels=True, call=prune, **options):
    own = task(dense)
    model = own.network if model is None else model
    x = inputs_of(model, 32)
    data = OneBatch(x, own.y[:32]) if labels else OneBatch(x)
    options = {"objective": "loss", "step": "uniform", "verbose": 0} | options
    with warnings.catch_warnings():
        # The settings of a method given to `prune` itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            call(model, data, **options)
    assert "Expected" in str(error.value)
    assert "Received" in str(error.value)


def test_no_labels_are_refused():
    assert_refused("labels are needed", labels=False)


def test_no_labels_are_refused_by_a_search():
    assert_refused("labels are needed", labels=False, call=search)


def test_no_labels_are_refused_with_a_tolerance():
    assert_refused("labels are needed", labels=False, tolerance=0.1)


def test_a_budget_and_a_tolerance_are_refused():
    assert_refused("budget=0.5, tolerance=0.1", budget=0.5, tolerance=0.1)


@pytest.mark.parametrize("objective", ["global", "local", "divergence"])
def test_a_tolerance_is_refused_with_another_objective(objective):
    message = f"Received: tolerance=0.1 with objective={objective!r}"
    assert_refused(message, objective=objective, tolerance=0.1)


@pytest.mark.parametrize("tolerance", [-0.1, 1, 1.5, float("nan"), "0.1", True])
def test_tolerances_that_are_none_are_refused(tolerance):
    assert_refused(f"tolerance={tolerance!r}", tolerance=tolerance)


def test_a_tolerance_is_refused_for_a_regression():
    x = layers.Dense(16, activation="relu", name="a")(vector := keras.Input((6,)))
    model = randomize(keras.Model(vector, layers.Dense(1)(x)))
    model.compile("adam", "mse")
    assert_refused("['real']", model, tolerance=0.1)


def test_a_tolerance_is_refused_for_several_outputs():
    model = randomize(two_heads())
    model.compile("adam", list(TWO_LOSSES))
    y = [np.zeros(32, int), np.zeros((32, 2), "float32")]
    data = OneBatch(inputs_of(model, 32), y)
    with pytest.raises(ValueError, match="`tolerance` with a classifier"):
        quiet(model, data, tolerance=0.1)


@pytest.mark.parametrize("objective", ["global", "local"])
def test_training_per_layer_is_refused_where_there_are_no_layers(objective):
    assert_refused(
        "`finetune_per_layer`", objective=objective, finetune_per_layer=FineTune()
    )


@pytest.mark.parametrize("tuned", [3, "yes", {"epochs": 1}])
def test_training_per_layer_that_is_none_is_refused(tuned):
    assert_refused(f"finetune_per_layer={tuned!r}", finetune_per_layer=tuned)


@pytest.mark.parametrize("call", [prune, search])
@pytest.mark.parametrize("objective", ["global", "local"])
@pytest.mark.parametrize("option", [{"candidates": 50}, {"channels_per_step": 2}])
def test_candidates_are_refused_where_all_are_evaluated(option, objective, call):
    ((name, value),) = option.items()
    assert_refused(f"{name}={value!r}", objective=objective, call=call, **option)


@pytest.mark.parametrize("call", [prune, search])
@pytest.mark.parametrize("value", [0, -1, 2.5, "few", True])
def test_candidates_that_are_none_are_refused(value, call):
    assert_refused(f"candidates={value!r}", call=call, candidates=value)
    assert_refused(f"channels_per_step={value!r}", call=call, channels_per_step=value)


@pytest.mark.parametrize("call", [prune, search])
@pytest.mark.parametrize("objective", ["loss", "divergence"])
def test_the_corrective_rule_is_refused_for_the_output(objective, call):
    message = f"objective={objective!r}. Received: step='corrective'"
    assert_refused(message, call=call, objective=objective, step="corrective")


@pytest.mark.parametrize("call", [prune, search])
def test_unknown_objectives_and_steps_are_refused(call):
    assert_refused("objective='l2'", call=call, objective="l2")
    for objective in ("loss", "divergence", "global", "local"):
        assert_refused("step='best'", call=call, objective=objective, step="best")


def test_too_few_examples_to_hold_some_apart_are_refused():
    own = task(dense)
    with pytest.raises(ValueError, match=r"Expected `data`.*Received"):
        quiet(own.network, (own.x[:4], own.y[:4]), tolerance=0.1)


def test_fewer_labels_than_examples_are_refused():
    own = task(dense)
    with pytest.raises(ValueError, match="labels, as many as examples"):
        quiet(own.network, [(own.x[:32], own.y[:31])], HALF)


def test_labels_of_fewer_outputs_are_refused():
    model = randomize(two_heads())
    model.compile("adam", list(TWO_LOSSES))
    with pytest.raises(ValueError, match="for each output"):
        quiet(model, (inputs_of(model, 32), np.zeros(32, int)), 0.5)


def test_a_loss_that_does_not_show_is_refused():
    model = randomize(two_heads())
    y = [np.zeros(32, int), np.zeros((32, 2), "float32")]
    with pytest.raises(ValueError, match="Expected a loss"):
        quiet(model, (inputs_of(model, 32), y), 0.5)


def test_a_budget_that_cannot_be_met_is_refused():
    assert_refused("that or more can be met", budget=0.01)
