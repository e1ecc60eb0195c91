import dataclasses
import functools
import itertools
import re
import sys
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from models import (
    TOPOLOGIES,
    conv,
    depthwise,
    head,
    image,
    inputs_of,
    norm,
    outputs_of,
    randomize,
)

import keras_greedy
from keras_greedy import Budget, FineTune, prune, search, stages
from keras_greedy.selection.moments import Observed


def small(size=8):
    x = norm(conv(picture := image(size=size), 16, name="a", use_bias=False), "relu")
    x = norm(depthwise(x), "relu")
    x = norm(conv(x, 24, 1, "b", strides=2), "relu")
    return randomize(keras.Model(picture, head(x)))


def small_sequential():
    stack = [
        keras.Input((8, 8, 3)),
        layers.Conv2D(16, 3, name="a"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(24, activation="relu", name="b"),
        layers.Dense(4, activation="softmax"),
    ]
    return randomize(keras.Sequential(stack))


def small_nested():
    """What `transfer learning` guides build."""
    backbone = small()
    backbone = keras.Model(backbone.input, backbone.layers[-3].output, name="backbone")
    head = [layers.GlobalAveragePooling2D(), layers.Dense(12, "relu", name="a")]
    last = layers.Dense(4, activation="softmax")
    return keras.Sequential([keras.Input((8, 8, 3)), backbone, *head, last])


IMAGES = np.random.default_rng(0).normal(size=(70, 8, 8, 3)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 5, 70)


def quiet_prune(model, data=IMAGES, budget=0.5, **options):
    return prune(model, data, budget, verbose=0, **options)


def assert_same_weights(one, two):
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


# --- The compact model ---------------------------------------------------------------


COMMON = [
    "sequential",
    "inverted_residuals",
    "residual_with_projection",
    "squeeze_excite_keepdims",
    "dense_connections",
]


@pytest.mark.parametrize(
    "objective, name",
    [
        *itertools.product(["global"], COMMON),
        ("local", "sequential"),
        ("local", "several_inputs_and_outputs"),
        *(
            pytest.param("global", name, marks=pytest.mark.slow)
            for name in sorted(TOPOLOGIES.keys() - COMMON)
        ),
    ],
)
def test_every_topology_is_pruned_to_its_budget(objective, name):
    model = randomize(TOPOLOGIES[name]())
    data = inputs_of(model, 10)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some channels of model", UserWarning)
        compact = quiet_prune(
            model, data, Budget(macs=0.7, round_to=1), objective=objective
        )
    assert keras_greedy.macs(compact) <= 0.7 * keras_greedy.macs(model)
    full, cut = outputs_of(model, data), outputs_of(compact, data)
    assert [f.shape for f in full] == [c.shape for c in cut]
    assert all(np.isfinite(c).all() for c in cut)


@pytest.mark.parametrize("build", [small, small_sequential])
@pytest.mark.parametrize(
    "budget",
    [0.7, 0.46, Budget(params=0.5), Budget(macs=0.6, params=0.4, round_to=4), 37_000],
    ids=str,
)
def test_the_budget_is_met(build, budget):
    model = build()
    compact = quiet_prune(model, budget=budget)
    limits = Budget.of(budget)
    for limit, cost in (
        (limits.macs, keras_greedy.macs),
        (limits.params, keras_greedy.count_params),
    ):
        if limit is not None:
            whole = cost(model) if limit <= 1 else 1
            assert cost(compact) <= limit * whole
    assert compact.get_layer("a").filters % limits.round_to == 0


@pytest.mark.parametrize("budget", [1.0, Budget(params=1.0), 10**9], ids=str)
@pytest.mark.parametrize("build", [small, small_sequential])
def test_a_budget_that_cuts_nothing_leaves_the_outputs_as_they_are(build, budget):
    """Though the BatchNorm statistics are not those of the data."""
    model = build()
    compact = quiet_prune(model, budget=budget)
    before = model.predict(IMAGES, verbose=0)
    after = compact.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(after, before, atol=1e-5)


def without_biases():
    x = start = image(size=8)
    for width in (16, 24):
        x = layers.Conv2D(width, 3, activation="relu", use_bias=False)(x)
    x = layers.Dense(16, activation="relu", use_bias=False)(layers.Flatten()(x))
    return randomize(keras.Model(start, layers.Dense(4, use_bias=False)(x)))


@pytest.mark.parametrize("share", [0.9, 0.5, 0.25])
def test_budgets_of_parameters_count_the_biases_that_are_added(share):
    model = without_biases()
    paths = search(model, IMAGES, objective="local", verbose=0)
    budget = Budget(params=share, round_to=1)
    compact = paths.compact(budget)
    assert any(layer.use_bias for layer in compact.layers if hasattr(layer, "use_bias"))
    assert compact.count_params() <= share * model.count_params()
    assert paths.report(budget).params.after == compact.count_params()
    least = keras_greedy.count_params(paths.compact(Budget(params=0.1, round_to=1)))
    with pytest.raises(ValueError, match="that or more can be met"):
        paths.compact(Budget(params=5, round_to=1))
    assert least <= 0.1 * model.count_params()


def test_what_was_asked_for_and_what_is_kept_is_printed(capsys):
    model = small()
    for verbose in (0, 2):
        compact = prune(model, IMAGES, 0.5, objective="local", verbose=verbose)
        kept = keras_greedy.macs(compact) / keras_greedy.macs(model)
        line = f"Kept {kept:.1%} of the MACs, where 50.0% were asked for."
        assert (line[:-1] in capsys.readouterr().out) == (verbose > 0)


def test_a_sequential_comes_back_sequential_and_a_functional_functional():
    assert isinstance(quiet_prune(small_sequential()), keras.Sequential)
    compact = quiet_prune(small())
    assert type(compact) is type(small())
    assert not isinstance(compact, keras.Sequential)


@pytest.mark.parametrize("build", [small, small_sequential, small_nested])
def test_the_compact_model_is_an_ordinary_model_that_can_be_saved(build, tmp_path):
    compact = quiet_prune(build())
    compact.save(tmp_path / "compact.keras")
    loaded = keras.saving.load_model(tmp_path / "compact.keras")
    np.testing.assert_array_equal(
        outputs_of(loaded, IMAGES)[0], outputs_of(compact, IMAGES)[0]
    )


def test_the_greedy_choice_loses_less_than_a_random_one():
    """And with data it has not seen."""
    x = layers.Dense(64, activation="relu", name="a")(vector := keras.Input((12,)))
    x = layers.Dense(64, activation="relu", name="b")(x)
    model = randomize(keras.Model(vector, layers.Dense(5, name="c")(x)))
    data, unseen = (inputs_of(model, 1000, seed) for seed in (1, 2))
    paths = search(model, data, verbose=0)

    def loss():
        compact = paths.compact(0.4)
        return np.square(compact(unseen) - model(unseen)).mean()

    greedy = loss()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for name, path in paths.paths.items():
            paths.paths[name] = dataclasses.replace(
                path, order=rng.permutation(path.order)
            )
        assert greedy < 0.8 * loss()


def test_best_takes_for_each_group_the_path_that_changes_the_output_less():
    model = small()
    both, of_global, local = (
        search(model, IMAGES, objective=objective, verbose=0)
        for objective in ("best", "global", "local")
    )
    for name, path in both.paths.items():
        orders = [own.paths[name].order.tolist() for own in (of_global, local)]
        assert path.order.tolist() in orders
        found, other = (own.divergence[name].values for own in (both, of_global))
        assert np.log(found).mean() <= np.log(other).mean() + 1e-6


@pytest.mark.parametrize("step", ["uniform", "line_search"])
@pytest.mark.parametrize("objective", ["local", "global"])
def test_a_mixture_meets_the_budget_and_keeps_its_weights(objective, step):
    model = small()
    paths = search(model, IMAGES, objective=objective, step=step, verbose=0)
    compact, budget = paths.compact(Budget(0.5, round_to=4)), 0.5
    assert keras_greedy.macs(compact) <= budget * keras_greedy.macs(model)
    kernel, full = (m.get_layer("b").kernel.numpy() for m in (compact, model))
    width = paths.widths(Budget(0.5, round_to=4))["a"]
    kept, scale = (of(width) for of in (paths.paths["a"].kept, paths.paths["a"].scale))
    columns = paths.paths["b"].kept(paths.widths(Budget(0.5, round_to=4))["b"])
    expected = scale[kept, None] * full[0, 0][kept][:, columns]
    np.testing.assert_allclose(kernel[0, 0], expected, rtol=1e-4, atol=1e-6)


def read_by_dense():
    x = layers.Dense(16, name="a")(vector := keras.Input((20,)))
    return vector, layers.Dense(6, name="b")(x)


def read_behind_flatten():
    x = conv(picture := image(size=3), 16, name="a")
    return picture, layers.Dense(6, name="b")(layers.Flatten()(x))


@pytest.mark.parametrize("build", [read_by_dense, read_behind_flatten])
def test_global_keeps_what_the_output_needs_and_local_what_the_next_layer_does(build):
    """The last layer reads half of what b makes; half of a makes the other half."""
    inputs, x = build()
    model = randomize(keras.Model(inputs, layers.Dense(4, name="c")(x)))
    (last, last_bias), (kernel, bias) = (
        model.get_layer(name).get_weights() for name in "cb"
    )
    last[:3] = 0
    parts = kernel.reshape(-1, 16, 6)
    parts[:, :8, :3] *= 100
    parts[:, :8, 3:] *= 0
    parts[:, 8:, :3] *= 0
    model.get_layer("c").set_weights([last, last_bias])
    model.get_layer("b").set_weights([parts.reshape(kernel.shape), bias])
    data = inputs_of(model, 500)
    for objective, first in (("global", range(8, 16)), ("local", range(8))):
        paths = search(model, data, objective=objective, verbose=0).paths
        assert sorted(paths["a"].order[:8]) == list(first)


# --- The user's model ----------------------------------------------------------------


def state_of(model):
    optimizer = model.optimizer.variables if model.compiled else []
    return (
        [w.numpy() for w in model.weights],
        [np.array(v) for v in optimizer],
        [layer.trainable for layer in model.layers],
        [layer.get_config() for layer in model.layers],
        model.trainable,
        model.compiled,
        model.loss,
        model.name,
    )


@pytest.mark.parametrize("finetune", [None, FineTune(), FineTune(distill=True)])
def test_the_model_given_is_not_changed(finetune):
    model = small()
    model.layers[1].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(IMAGES, LABELS, verbose=0)
    before = state_of(model)
    quiet_prune(model, (IMAGES, LABELS), finetune=finetune)
    after = state_of(model)
    for old, new in zip(before[0] + before[1], after[0] + after[1], strict=True):
        np.testing.assert_array_equal(old, new)
    assert before[2:] == after[2:]


def test_trainable_flags_are_those_of_the_model():
    model = small()
    model.get_layer("b").trainable = False
    compact = quiet_prune(model)
    flags = {layer.name: layer.trainable for layer in compact.layers}
    assert flags == {layer.name: layer.trainable for layer in model.layers}


def test_a_compiled_model_comes_back_compiled_alike():
    model = small()
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(keras.optimizers.SGD(0.125, 0.5), loss, metrics=["accuracy"])
    compact = quiet_prune(model)
    assert isinstance(compact.optimizer, keras.optimizers.SGD)
    assert compact.optimizer is not model.optimizer
    assert float(compact.optimizer.learning_rate) == 0.125
    assert isinstance(compact.loss, keras.losses.SparseCategoricalCrossentropy)
    assert len(compact.evaluate(IMAGES, LABELS, verbose=0)) == 2


def test_a_model_that_is_not_compiled_comes_back_not_compiled():
    assert not quiet_prune(small()).compiled


def test_a_loss_that_cannot_be_serialized_is_carried_over():
    def own_loss(y, p):
        return ops.mean(ops.square(ops.one_hot(y, 5) - p))

    model = small()
    model.compile(keras.optimizers.SGD(0.125), own_loss)
    compact = quiet_prune(model)
    assert compact.loss is own_loss
    assert float(compact.optimizer.learning_rate) == 0.125
    assert np.isfinite(compact.evaluate(IMAGES, LABELS, verbose=0))


# --- The same every time -------------------------------------------------------------


@pytest.mark.parametrize("objective", ["global", "local"])
def test_the_same_seed_gives_the_same_bits(objective):
    again = quiet_prune(small(), objective=objective, seed=0)
    assert_same_weights(again, pruned_on_images(objective))


def test_another_seed_samples_other_positions():
    model = small(size=16)
    data = inputs_of(model, 5)
    one, other = (quiet_prune(model, data, seed=seed) for seed in (0, 1))
    assert any(
        (a != b).any()
        for a, b in zip(one.get_weights(), other.get_weights(), strict=True)
        if a.shape == b.shape
    )


def test_a_search_can_read_a_generator():
    model = small()
    paths, same = (search(model, data, verbose=0) for data in (IMAGES, generator()))
    assert_same_weights(paths.compact(0.6), same.compact(0.6))


def test_one_search_gives_what_a_call_for_each_budget_gives():
    model = small()
    paths = search(model, IMAGES, verbose=0)
    # In falling and in rising order: building one does not touch the next.
    for budget in (0.8, 0.46, Budget(params=0.5, round_to=4), 0.6):
        assert_same_weights(paths.compact(budget), quiet_prune(model, budget=budget))


def generator():
    yield from np.split(IMAGES, 7)


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return np.split(IMAGES, 7)[index], np.split(LABELS, 7)[index]


@functools.cache
def pruned_on_images(objective):
    return quiet_prune(small(), objective=objective)


FORMS = {
    "float64": lambda: IMAGES.astype("float64"),
    "(x, y)": lambda: (IMAGES, LABELS),
    "list": lambda: [*np.split(IMAGES, 7)],
    "batches of one": lambda: [*np.split(IMAGES, 70)],
    "generator": generator,
    "PyDataset": Sequence,
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices(IMAGES).batch(9),
    "tf.data of (x, y)": lambda: tf.data.Dataset.from_tensors((IMAGES, LABELS)),
}


@pytest.mark.parametrize(
    "objective, form",
    [*itertools.product(["global"], FORMS), ("local", "generator")],
)
def test_the_form_of_the_data_makes_no_difference(objective, form):
    compact = quiet_prune(small(), FORMS[form](), objective=objective)
    assert_same_weights(compact, pruned_on_images(objective))


# --- Data and models that are not the usual ------------------------------------------


def assert_useful(model, compact, data):
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(model)
    assert all(np.isfinite(output).all() for output in outputs_of(compact, data))


@pytest.mark.parametrize(
    "objective, count", [("global", 1), ("global", 17), ("global", 65), ("local", 1)]
)
def test_few_images_are_enough_to_go_on(objective, count):
    model = small()
    compact = quiet_prune(model, IMAGES[:count], objective=objective)
    assert_useful(model, compact, IMAGES)


@pytest.mark.parametrize(
    "count, measured",
    [(1, 1), (2, 1), (9, 4), (41, 16), (64, 32), (99, 48), (127, 48), (128, 64)],
)
def test_half_of_few_images_are_measured_which_no_weight_has_seen(
    monkeypatch, count, measured
):
    found = []

    def observed(apart, others):
        found.append((apart.examples, others.examples))
        return Observed(apart, others)

    monkeypatch.setattr(stages, "Observed", observed)
    images = np.resize(IMAGES, (count, *IMAGES.shape[1:]))
    paths = keras_greedy.search(small(), images, verbose=0)
    assert found == [(measured, count - measured)]
    assert paths.data.examples() == count


def test_bytes_are_read_as_they_are():
    x = layers.Rescaling(1 / 255)(picture := keras.Input((8, 8, 3), dtype="uint8"))
    x = norm(conv(x, 16), "relu")
    model = randomize(keras.Model(picture, head(conv(x, 16))))
    data = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3)).astype("uint8")
    compact = quiet_prune(model, data)
    assert_useful(model, compact, data)
    assert_same_weights(compact, quiet_prune(model, data.astype("float64")))


def test_inputs_by_name():
    inputs = {"z": image(size=8, name="z"), "a": keras.Input((4,), name="a")}
    x = layers.Multiply()([conv(inputs["z"], 16), layers.Dense(16)(inputs["a"])])
    model = randomize(keras.Model(inputs, head(conv(x, 16))))
    data = {"a": np.ones((70, 4)), "z": IMAGES}
    compact = quiet_prune(model, data)
    assert_useful(model, compact, data)
    assert_same_weights(
        compact, quiet_prune(model, tf.data.Dataset.from_tensor_slices(data).batch(7))
    )


def test_several_outputs_of_different_kinds():
    x = norm(conv(picture := image(size=8), 16), "relu")
    x = y = conv(x, 16, activation="relu")
    y = conv(y, 4, name="linear", strides=2)
    outputs = {"label": head(x), "map": conv(x, 1, activation="sigmoid"), "y": y}
    model = randomize(keras.Model(picture, outputs))
    compact = quiet_prune(model)
    assert_useful(model, compact, IMAGES)
    assert set(compact.output) == {"label", "map", "y"}


def test_a_model_without_batch_norm():
    x = conv(picture := image(size=8), 16, activation="relu")
    model = randomize(keras.Model(picture, head(conv(x, 16, activation="relu"))))
    assert_useful(model, quiet_prune(model), IMAGES)


@pytest.mark.parametrize("objective", ["global", "local"])
def test_half_precision(half_precision, objective):
    model = small()
    keras.config.set_dtype_policy("float32")
    compact = quiet_prune(model, objective=objective)
    assert compact.get_layer("b").compute_dtype == "float16"
    assert_useful(model, compact, IMAGES)


def test_a_model_with_a_fixed_batch_size():
    picture = keras.Input(batch_shape=(10, 8, 8, 3))
    x = norm(conv(picture, 16), "relu")
    model = randomize(keras.Model(picture, head(conv(x, 16))))
    compact = quiet_prune(model)
    assert compact.input_shape == (10, 8, 8, 3)
    assert_useful(model, compact, IMAGES[:10])


def test_a_group_of_one_channel_stays_whole():
    x = conv(conv(picture := image(size=8), 1, name="one"), 16, name="a")
    model = randomize(keras.Model(picture, head(conv(x, 16))))
    compact = quiet_prune(model)
    assert compact.get_layer("one").filters == 1
    assert_useful(model, compact, IMAGES)


def test_one_image_more_than_full_batches_does_not_upset_a_regression():
    """The variance of the output over a single image is 0."""
    x = conv(picture := image(size=8), 16, activation="relu")
    x = layers.GlobalAveragePooling2D()(conv(x, 16))
    model = randomize(keras.Model(picture, layers.Dense(1)(x)))
    one, other = (
        search(model, IMAGES[:count], verbose=0).divergence for count in (32, 33)
    )
    for name, measured in one.items():
        assert (other[name].values < 3 * measured.values).all()


def test_channels_that_no_image_lights_up_can_be_cut():
    model = small()
    norms = [n for n in model.layers if "batch_norm" in n.name]
    for layer in norms:
        layer.beta.assign(layer.beta - 100)
    compact = quiet_prune(model)
    assert_useful(model, compact, IMAGES)


# --- The mean that is given back -----------------------------------------------------


def with_constant_half(model, name):
    """Makes every other channel of a layer a constant, which pruning cuts for free."""
    kernel, bias = model.get_layer(name).get_weights()
    kernel[..., ::2] = 0
    model.get_layer(name).set_weights([kernel, bias])
    return model


def read_without_bias(x):
    return layers.Dense(8, use_bias=False, name="b")(x)


def read_with_bias(x):
    return layers.Dense(8, name="b")(x)


def read_with_an_activation(x):
    return layers.Dense(8, use_bias=False, activation="relu", name="b")(x)


@pytest.mark.parametrize(
    "read, has_norm, is_output",
    [
        (read_without_bias, False, False),
        (read_without_bias, True, False),
        (read_without_bias, True, True),
        (read_with_bias, True, False),
        (read_with_an_activation, True, False),
    ],
)
def test_constants_that_are_cut_live_on(read, has_norm, is_output, tmp_path):
    x = layers.Dense(16, activation="relu", name="a")(vector := keras.Input((10,)))
    x = y = read(x)
    if has_norm:
        y = layers.BatchNormalization()(y)
    y = layers.Dense(3, name="c")(y)
    model = randomize(keras.Model(vector, [x, y] if is_output else y))
    data = inputs_of(with_constant_half(model, "a"), 100)
    search(model, data, verbose=0).save(tmp_path / "paths.npz")
    # Loaded without data: BatchNorm statistics are not measured anew.
    compact = keras_greedy.load_paths(tmp_path / "paths.npz", model).compact(0.6)
    assert compact.get_layer("a").units == 8
    for full, cut in zip(
        outputs_of(model, data), outputs_of(compact, data), strict=True
    ):
        np.testing.assert_allclose(cut, full, rtol=1e-4, atol=1e-4)
    plain = read is read_without_bias and has_norm and not is_output
    assert compact.get_layer("b").use_bias != plain


# --- Progress ------------------------------------------------------------------------

TITLES = [
    "Observing what each layer reads",
    "Weighing what the output cares for",
    "Selecting channels",
    "Measuring each group's cut",
]


@pytest.mark.parametrize("finetune", [None, FineTune(distill=True)])
def test_silence(finetune, capfd):
    quiet_prune(small(), finetune=finetune)
    assert capfd.readouterr().out == ""


@pytest.fixture
def terminal(capsys, monkeypatch):
    """What is printed where bars are drawn."""
    monkeypatch.setenv("PYCHARM_HOSTED", "1")
    return capsys


@pytest.mark.parametrize("verbose", ["auto", 1, 2])
def test_a_file_or_a_pipe_gets_a_line_per_stage_and_epoch(verbose, capsys):
    model = small()
    model.compile("sgd", "sparse_categorical_crossentropy")
    data, tuning = (IMAGES, LABELS), FineTune(epochs=2)
    prune(model, data, 0.5, objective="local", finetune=tuning, verbose=verbose)
    printed = capsys.readouterr().out
    assert not {"\b", "\r", "\x1b"} & {*printed}
    titles = [line for line in printed.splitlines() if line in TITLES]
    assert titles == TITLES[::2] + TITLES[3:]
    assert printed.count(" - loss: ") == 2


@pytest.mark.parametrize("kernel, draws", [(None, False), (object(), True)])
def test_a_shell_draws_bars_in_a_notebook_alone(kernel, draws, monkeypatch, capsys):
    shell = types.SimpleNamespace(kernel=kernel)
    ipython = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    search(small(), IMAGES, objective="local", verbose=1)
    assert ("\b" in capsys.readouterr().out) == draws


@pytest.mark.parametrize("verbose, count", [("auto", 1), (1, 70), (2, 40), (True, 40)])
def test_every_stage_starts_on_a_line_of_its_own(verbose, count, terminal):
    search(small(), IMAGES[:count], verbose=verbose)
    printed = terminal.readouterr().out
    plain = re.sub("\x1b\\[[0-9;]*m|\x08", "", printed)
    lines = [line for line in plain.splitlines() if line]
    assert [line for line in lines if line in TITLES] == TITLES
    assert ("/step" in plain) == (verbose != 2)
    assert plain.endswith("\n")


def test_the_local_objective_shows_its_stages(capsys):
    search(small(), IMAGES, objective="local", verbose=1)
    assert TITLES[1] not in (printed := capsys.readouterr().out)
    assert all(title in printed for title in TITLES[::2] + TITLES[3:])


# --- Bad input -----------------------------------------------------------------------


class Watched:
    """Data that tell how far they have been read."""

    def __init__(self, labels=True):
        self.read, self._labels = 0, labels

    def __iter__(self):
        for x, y in zip(np.split(IMAGES, 7), np.split(LABELS, 7), strict=True):
            self.read += 1
            yield (x, y) if self._labels else x


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.layer = layers.Dense(3)

    def call(self, x):
        return self.layer(x)


def variable_size():
    return keras.Model(picture := keras.Input((None, None, 3)), head(conv(picture, 16)))


def without_channels_to_cut():
    return keras.Model(vector := keras.Input((4,)), layers.Dense(3)(vector))


@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"model": Subclassed()}, "to be built, .*Received: Subclassed"),
        ({"model": None}, "to be a keras.Model.*Received: model=None"),
        ({"model": keras.Sequential([layers.Dense(3)])}, "`model` to be built"),
        ({"model": variable_size()}, "fixed input size"),
        ({"model": without_channels_to_cut()}, "channels that can be pruned"),
        ({"data": None}, "Expected `data` to be arrays.*Received: data=None"),
        ({"data": []}, "at least one batch"),
        ({"data": np.zeros((5, 9, 9, 3))}, r"\(None, 8, 8, 3\).*\(5, 9, 9, 3\)"),
        ({"data": np.full((5, 8, 8, 3), np.nan)}, "NaN or infinite"),
        ({"data": tf.data.Dataset.from_tensor_slices(IMAGES)}, "looks unbatched"),
        (
            {"data": tf.data.Dataset.from_tensors(IMAGES).repeat()},
            "repeats for ever",
        ),
        ({"budget": 0}, "`macs` to be positive.*Received: 0"),
        ({"budget": -0.5}, "`macs` to be positive.*Received: -0.5"),
        ({"budget": "half"}, "`budget` to be a number.*Received: budget='half'"),
        ({"budget": 0.01}, r"Received: 431 MACs, 1\.0% .* that or more can be met"),
        ({"objective": "l1"}, r"\['global', 'local', .*objective='l1'"),
        ({"objective": None}, "Received: objective=None"),
        ({"step": "exact"}, "'corrective', .* Received: step='exact'"),
        ({"finetune": 2}, "`finetune` to be a keras_greedy.FineTune, True"),
        ({"seed": "a"}, "`seed` to be an integer.*seed='a'"),
        ({"seed": -1}, "`seed` to be an integer.*seed=-1"),
        ({"seed": 1.5}, "`seed` to be an integer.*seed=1.5"),
        ({"verbose": 3}, "`verbose` to be 'auto', 0, 1 or 2. Received: 3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_a_clear_error_before_long_work(arguments, match):
    good = {"model": small(), "data": Watched(), "budget": 0.5, "verbose": 0}
    data = (good | arguments)["data"]
    with pytest.raises(ValueError, match=re.compile(match, re.DOTALL)):
        prune(**good | arguments)
    if isinstance(data, Watched):
        assert data.read <= 4, "no more than the first batch of 32"
    if arguments.keys() <= {"model", "data", "objective", "step", "verbose"}:
        with pytest.raises(ValueError, match=re.compile(match, re.DOTALL)):
            search(**{k: v for k, v in (good | arguments).items() if k != "budget"})


def test_missing_labels_are_an_error_before_long_work():
    data = Watched(labels=False)
    with pytest.raises(ValueError, match=r"\(x, y\).*x alone.*distill=True"):
        quiet_prune(small(), data, finetune=FineTune())
    assert data.read <= 5


def test_an_image_with_nan_is_found_wherever_it_is():
    images = IMAGES.copy()
    images[69, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        quiet_prune(small(), images)


@pytest.mark.parametrize("search_or_prune", [search, prune])
def test_a_model_that_answers_nan_is_an_error_though_no_search_sees_it(search_or_prune):
    model = small()
    kernel, bias = model.get_layer("head").get_weights()
    model.get_layer("head").set_weights([kernel, np.full_like(bias, np.nan)])
    with pytest.raises(ValueError, match=r"finite answers.*'head'.*of \['head'\]"):
        search_or_prune(model, IMAGES, verbose=2)


def test_data_without_an_end_are_an_error_before_a_stage_begins(capsys):
    class WithoutEnd:
        def __iter__(self):
            return itertools.repeat(IMAGES[:1])

    with pytest.raises(ValueError, match="`data` to be finite"):
        prune(small(), WithoutEnd(), verbose=2)
    assert not capsys.readouterr().out


def test_a_model_that_makes_infinite_values_is_an_error():
    model = small()
    kernel, bias = model.get_layer("b").get_weights()
    model.get_layer("b").set_weights([kernel, np.full_like(bias, np.inf)])
    with pytest.raises(ValueError, match=r"finite answers.*weights of \['b'\]"):
        quiet_prune(model)


def test_an_impossible_budget_is_an_error_for_a_finished_search_too():
    paths = search(small(), IMAGES, verbose=0)
    with pytest.raises(ValueError, match="that or more can be met"):
        paths.compact(0.01)
    paths.compact(0.5)


def test_layers_without_a_rule_are_named_in_one_warning():
    x = conv(picture := image(size=8), 16, name="a")
    x = layers.Softmax(name="own")(x)
    x = norm(conv(conv(x, 16, name="b"), 8), "relu")
    model = randomize(keras.Model(picture, head(x)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compact = prune(
            model, (IMAGES, LABELS), 0.7, finetune=FineTune(distill=True), verbose=0
        )
    caught = [w for w in caught if issubclass(w.category, UserWarning)]
    assert len(caught) == 1
    assert "own: a softmax mixes the channels" in str(caught[0].message)
    assert compact.get_layer("a").filters == 16
    assert compact.get_layer("b").filters == 8


# --- Paths ---------------------------------------------------------------------------


def test_the_curve_goes_from_nothing_lost_to_the_least_that_can_be_met():
    paths = search(small(), IMAGES, verbose=0)
    rows = paths.curve(8)
    assert len(rows) == 8
    assert rows[0] == {"macs": 1.0, "params": 1.0, "divergence": 0.0}
    macs = [row["macs"] for row in rows]
    divergence = [row["divergence"] for row in rows]
    assert macs == sorted(macs, reverse=True)
    assert divergence == sorted(divergence)
    paths.compact(macs[-1] + 1e-6)


@pytest.mark.parametrize("build", [small, small_nested])
def test_saved_and_loaded_paths_give_the_same_model(build, tmp_path):
    model = build()
    paths = search(model, IMAGES, verbose=0)
    paths.save(tmp_path / "paths.npz")
    loaded = keras_greedy.load_paths(tmp_path / "paths.npz", model)
    for budget in (0.7, Budget(params=0.4)):
        assert loaded.widths(budget) == paths.widths(budget)
        assert_same_weights(loaded.compact(budget, data=IMAGES), paths.compact(budget))
    assert [file.name for file in tmp_path.iterdir()] == ["paths.npz"]


def test_paths_of_another_model_are_an_error(tmp_path):
    search(small(), IMAGES, verbose=0).save(tmp_path / "paths.npz")
    with pytest.raises(ValueError, match="the one the search was made on"):
        keras_greedy.load_paths(tmp_path / "paths.npz", small_sequential())


@pytest.mark.parametrize("dtype", ["int32", "float64"])
@pytest.mark.parametrize("objective", ["local", "global"])
def test_channels_are_pruned_that_an_operation_reads_in_another_type(objective, dtype):
    x = conv(picture := image(size=8), 8, name="a", activation="relu")
    total = ops.sum(ops.cast(x * 9.0, dtype), axis=-1, keepdims=True)
    x = layers.Concatenate()([conv(x, 6, name="b"), ops.cast(total, "float32")])
    model = randomize(keras.Model(picture, head(x)))
    budget = Budget(macs=0.6, round_to=1)
    compact = prune(model, inputs_of(model, 48), budget, objective=objective, verbose=0)
    assert keras_greedy.macs(compact) <= 0.6 * keras_greedy.macs(model)
