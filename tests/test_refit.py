"""Layers behind a cut fitted again, to what they read in the compact model."""

import keras
import numpy as np
import pytest
from keras import layers
from models import (
    TOPOLOGIES,
    UNPRUNABLE,
    conv,
    depthwise,
    head,
    image,
    inputs_of,
    norm,
    outputs_of,
    randomize,
    shared,
)

import keras_greedy
from keras_greedy.graph.outputs import outputs_of as kinds_of
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace, trace_quietly
from keras_greedy.selection.moments import scatter_of
from keras_greedy.training import refit as refitting
from keras_greedy.training.readers import readers_of_cuts
from keras_greedy.training.refit import RIDGES, refit
from keras_greedy.training.side_by_side import SideBySide

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(256, 12, 12, 3)).astype("float32")
UNSEEN = RNG.normal(size=(128, 12, 12, 3)).astype("float32")


def batches(images=IMAGES, size=64):
    return [[images[i : i + size]] for i in range(0, len(images), size)]


def residual(x, width, name):
    h = norm(conv(x, 3 * width, 1, f"{name}_expand"), "relu")
    h = norm(depthwise(h, name=f"{name}_depthwise"), "relu")
    project = conv(h, width, 1, f"{name}_project")
    return layers.Add(name=f"{name}_add")([x, norm(project)])


def blocks():
    x = norm(conv(picture := image(size=12), 8, name="stem"), "relu")
    x = residual(residual(residual(x, 8, "a"), 8, "b"), 8, "c")
    return randomize(keras.Model(picture, head(x)))


def halved(model, names):
    """The graph of a model, what half of some groups leaves of it, and which half."""
    graph = trace(model)
    selection = {}
    for group in graph.groups:
        if any(name in group.name for name in names):
            selection[group.name] = np.arange(group.size // 2)
    assert selection, "nothing is cut"
    return graph, rebuild(graph, selection), selection


def halved_inside():
    return halved(blocks(), ["_expand"])


def side_by_side(graph, compact, seen, held):
    return SideBySide(graph, trace_quietly(compact), seen, held)


def divergence(graph, compact, images):
    """The mean divergence of the only output."""
    (kind,) = kinds_of(graph)
    full, found = outputs_of(graph.model, images), outputs_of(compact, images)
    return float(keras.ops.mean(kind.divergence(full, found)))


def test_the_outputs_come_closer_on_images_never_seen():
    graph, compact, selection = halved_inside()
    without = keras.models.clone_model(compact)
    without.set_weights(compact.get_weights())
    assert refit(graph, compact, selection, batches())
    for model in (compact, without):
        keras_greedy.reestimate_batch_norm(model, IMAGES)
    before = divergence(graph, without, UNSEEN)
    assert divergence(graph, compact, UNSEEN) < 0.8 * before


def test_compact_models_of_a_search_have_been_fitted_again(monkeypatch):
    model = blocks()
    paths = keras_greedy.search(model, IMAGES, verbose=0)
    fitted = paths.compact(0.5)
    monkeypatch.setattr("keras_greedy.paths.refit", lambda *arguments: [])
    as_cut = paths.compact(0.5)
    graph = trace(model)
    assert divergence(graph, fitted, UNSEEN) < divergence(graph, as_cut, UNSEEN)


def test_the_steps_of_the_papers_keep_the_weights_that_they_say(monkeypatch):
    def fail(*arguments):
        raise AssertionError("fitted again")

    monkeypatch.setattr("keras_greedy.paths.refit", fail)
    for step in ("uniform", "line_search"):
        keras_greedy.prune(blocks(), IMAGES[:64], 0.5, step=step, verbose=0)


def test_on_the_held_examples_no_fit_makes_it_worse():
    graph, compact, selection = halved_inside()
    held = batches()[refitting.HELD - 1 :: refitting.HELD]
    before = side_by_side(graph, compact, batches(), held).divergence()
    refit(graph, compact, selection, batches())
    after = side_by_side(graph, compact, batches(), held).divergence()
    assert after < before


def test_a_fit_that_brings_nothing_is_taken_back(monkeypatch):
    graph, compact, selection = halved_inside()
    before = compact.get_weights()

    def spoiled(reader, scatter, ridges):
        yield 0 * reader.compact.matrix(), np.full(len(reader.kept), 100.0)

    monkeypatch.setattr(refitting, "_fits", spoiled)
    assert refit(graph, compact, selection, batches()) == []
    for own, other in zip(compact.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, other)


@pytest.mark.parametrize("ridge", RIDGES)
def test_a_fit_is_the_least_squares_solution_of_rows_with_the_ridge_below(ridge):
    graph, compact, selection = halved_inside()
    reader = readers_of_cuts(graph, trace_quietly(compact), graph.kept_mask(selection))[
        0
    ]
    x = RNG.normal(size=(400, len(reader.compact.features))) + 1
    y = RNG.normal(size=(400, len(reader.kept))) - x[:, : len(reader.kept)]
    scatter = scatter_of(keras.ops.convert_to_tensor(np.hstack([x, y]), "float32"))
    covariance = scatter.covariance()[: x.shape[1], : x.shape[1]]
    before = reader.matrix(covariance)
    ((matrix, bias),) = refitting._fits(reader, scatter, [ridge])

    # An example for each weight, that asks for what the weight was.
    variances = x.var(0) + refitting.LEAST_VARIANCE * x.var(0).mean()
    below = np.diag(np.sqrt(ridge * variances * len(x)))
    rows = np.vstack(
        [np.hstack([x, np.ones((400, 1))]), np.pad(below, ((0, 0), (0, 1)))]
    )
    wanted = np.vstack([y, below @ before])
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(matrix, solution[:-1], atol=1e-4)
    np.testing.assert_allclose(bias, solution[-1], atol=1e-4)


def test_targets_are_what_the_full_model_makes_with_what_the_stream_lacks():
    graph, compact, selection = halved_inside()
    smaller = trace_quietly(compact)
    readers = readers_of_cuts(graph, smaller, graph.kept_mask(selection))
    assert [reader.name for reader in readers] == [
        "a_project",
        "b_project",
        "c_project",
    ]
    seen = batches()[:2]
    models = SideBySide(graph, smaller, seen, seen)
    reader = readers[1]
    models.advance(reader)
    positions = np.array([0, 5, 77])
    scatter = models.scatter(reader, positions)

    full = keras.Model(graph.model.input, graph.model.get_layer("b_add").output)
    project = compact.get_layer("b_project")
    stream = compact.get_layer("a_add").output
    smaller_parts = keras.Model(compact.input, [stream, project.input])
    rows = []
    for (images,) in seen:
        wanted = keras.ops.convert_to_numpy(full(images))
        # In training, BatchNorm normalises by the statistics of the batch.
        own_stream, read = smaller_parts(images, training=True)
        lacking = wanted - keras.ops.convert_to_numpy(own_stream)
        for part in (keras.ops.convert_to_numpy(read), lacking):
            rows.append(part.reshape(len(images), -1, part.shape[-1])[:, positions])
    x = np.concatenate(rows[::2]).reshape(-1, rows[0].shape[-1])
    y = np.concatenate(rows[1::2]).reshape(-1, rows[1].shape[-1])
    both = np.hstack([x, y])
    np.testing.assert_allclose(scatter.mean[0], both.mean(0), atol=1e-4)
    np.testing.assert_allclose(scatter.covariance(), np.cov(both.T, ddof=0), atol=1e-3)


@pytest.mark.parametrize("statistics", ["as placed", "measured anew"])
def test_a_layer_and_its_batch_norm_compute_the_matrix_and_the_bias(statistics):
    graph, compact, selection = halved_inside()
    smaller = trace_quietly(compact)
    reader = readers_of_cuts(graph, smaller, graph.kept_mask(selection))[0]
    models = SideBySide(graph, smaller, batches(), batches()[:1])
    models.advance(reader)
    scatter = models.scatter(reader, np.arange(12 * 12))
    matrix = RNG.normal(size=(len(reader.compact.features), len(reader.kept)))
    bias = RNG.normal(size=len(reader.kept))
    reader.place(matrix, bias, scatter)
    read = keras.Model(compact.input, compact.get_layer("a_project").input)
    made = keras.Model(compact.input, reader.norm.output)
    if statistics == "measured anew":
        keras_greedy.reestimate_batch_norm(made, IMAGES)
    else:
        keras_greedy.reestimate_batch_norm(read, IMAGES)
    expected = outputs_of(read, UNSEEN) @ matrix + bias
    np.testing.assert_allclose(outputs_of(made, UNSEEN), expected, rtol=0.02, atol=0.05)


def chain():
    x = layers.Dense(24, activation="relu", name="one")(picture := keras.Input((10,)))
    x = layers.Dense(24, activation="tanh", name="two")(x)
    x = layers.Dense(24, activation="relu", name="three")(x)
    return keras.Model(picture, layers.Dense(4, activation="softmax")(x))


def many_kinds():
    """Layers of many kinds that read what is cut, some that cannot be fitted."""
    x = norm(conv(picture := image(size=12), 12, name="one"), "relu")
    x = norm(layers.SeparableConv2D(12, 3, padding="same", name="two")(x), "relu")
    x = layers.Conv2DTranspose(12, 3, 2, padding="same", name="three")(x)
    x = layers.LayerNormalization()(x)
    x = layers.Conv2D(12, 3, groups=3, padding="same", name="four")(layers.ReLU()(x))
    shared = layers.Conv2D(12, 1, activation="relu", name="five")
    x = shared(shared(x))
    x = layers.BatchNormalization(scale=False)(layers.Conv2D(12, 1, name="six")(x))
    x = layers.Flatten()(layers.AveragePooling2D(6)(x))
    return randomize(keras.Model(picture, layers.Dense(4, name="answer")(x)))


def sequences():
    tokens = keras.Input((7, 6))
    x = layers.Masking()(tokens)
    x = layers.Dense(16, activation="relu", name="one")(x)
    x = layers.Dense(8, name="two")(x)
    x = layers.GlobalAveragePooling1D()(x)
    return randomize(keras.Model(tokens, layers.Dense(3)(x)))


def of_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        return blocks()
    finally:
        keras.config.set_dtype_policy(before)


def two_outputs():
    x = norm(conv(picture := image(size=12), 12, name="one"), "relu")
    a = layers.Conv2D(2, 1, name="map")(norm(conv(x, 12, name="two"), "relu"))
    b = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return randomize(keras.Model(picture, {"map": a, "answer": b}))


KINDS = {
    chain: RNG.normal(size=(256, 10)).astype("float32"),
    many_kinds: IMAGES,
    sequences: RNG.normal(size=(256, 7, 6)).astype("float32"),
    two_outputs: IMAGES,
}


def refitted_halves(model, data):
    """The names of the fitted layers, and the divergence before and behind it."""
    graph = trace_quietly(model)
    selection = {g.name: np.arange(max(1, g.size // 2)) for g in graph.groups}
    compact = rebuild(graph, selection)
    held = data[refitting.HELD - 1 :: refitting.HELD]
    before = side_by_side(graph, compact, data, held).divergence()
    names = refit(graph, compact, selection, data)
    after = side_by_side(graph, compact, data, held).divergence()
    return names, before, after


@pytest.mark.parametrize("make", KINDS)
def test_models_of_all_kinds_come_closer_or_stay_as_they_are(make):
    names, before, after = refitted_halves(make(), batches(KINDS[make]))
    assert after < before if names else after == before


@pytest.mark.parametrize("name", ["mixed_bfloat16", "bfloat16", "float64"])
def test_models_of_any_precision_come_closer(name):
    names, before, after = refitted_halves(of_policy(name), batches())
    assert names
    assert after < before


@pytest.mark.parametrize("name", [*TOPOLOGIES, *UNPRUNABLE])
def test_models_of_all_topologies_come_closer_or_stay_as_they_are(name):
    model = shared(name)
    data = []
    for seed in range(4):
        inputs = inputs_of(model, count=32, seed=seed)
        data.append(keras.tree.flatten(inputs))
    names, before, after = refitted_halves(model, data)
    assert after < before if names else after == before


def test_layers_that_are_called_twice_or_grouped_or_flattened_are_left():
    model = many_kinds()
    graph = trace(model)
    selection = {g.name: np.arange(g.size // 2) for g in graph.groups}
    compact = rebuild(graph, selection)
    smaller = trace_quietly(compact)
    readers = readers_of_cuts(graph, smaller, graph.kept_mask(selection))
    names = {reader.name for reader in readers}
    assert "two" in names
    assert names.isdisjoint({"four", "five", "six"})


def test_masked_positions_are_left_alone():
    model = sequences()
    graph = trace(model)
    selection = {g.name: np.arange(g.size // 2) for g in graph.groups}
    compact = rebuild(graph, selection)
    data = KINDS[sequences].copy()
    data[:, 4:] = 0
    assert "two" not in refit(graph, compact, selection, batches(data))


@pytest.mark.parametrize("examples", [1, 64, 127])
def test_few_examples_change_nothing(examples):
    graph, compact, selection = halved_inside()
    before = compact.get_weights()
    assert refit(graph, compact, selection, batches(IMAGES[:examples])) == []
    for own, other in zip(compact.get_weights(), before, strict=True):
        np.testing.assert_array_equal(own, other)


def test_activations_that_would_not_fit_into_memory_change_nothing(monkeypatch):
    graph, compact, selection = halved_inside()
    monkeypatch.setattr(refitting, "MOST_BYTES", 1000)
    assert refit(graph, compact, selection, batches()) == []


def test_only_as_many_examples_are_read_as_are_looked_at():
    graph, compact, selection = halved_inside()
    read = []

    def endless():
        while True:
            read.append(64)
            yield [IMAGES[:64]]

    refit(graph, compact, selection, endless())
    assert sum(read) <= refitting.MOST_EXAMPLES + 64


def test_of_many_readers_a_few_held_examples_judge_one_ridge(monkeypatch):
    graph, compact, selection = halved_inside()
    judged = []
    by_divergence = SideBySide.divergence

    def counted(models):
        judged.append(len(models._held.values))
        return by_divergence(models)

    monkeypatch.setattr(SideBySide, "divergence", counted)
    monkeypatch.setattr(refitting, "MANY", 2)
    monkeypatch.setattr(refitting, "MOST_PASSES", 0.1)
    refit(graph, compact, selection, batches(size=16))
    assert judged == [1] * (1 + 3), "one batch, as it is and with each reader"


def test_twice_the_same_is_the_same():
    results = []
    for _ in range(2):
        graph, compact, selection = halved_inside()
        refit(graph, compact, selection, batches())
        results.append(compact.get_weights())
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
