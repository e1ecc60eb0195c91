import keras
import numpy as np
import pytest
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
    shared,
)

from keras_greedy.graph import outputs
from keras_greedy.graph.fold import folded
from keras_greedy.graph.outputs import Output
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.cut import cut
from keras_greedy.selection.divergence import Divergence, widths_to_measure
from keras_greedy.selection.measured import measure
from keras_greedy.selection.moments import observe
from keras_greedy.selection.moments.fisher import sensitivities
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.reconstruction import least_squares

# --- The divergence of two outputs ---------------------------------------------------


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def kl(p, q):
    return (p * np.log(p / q)).reshape(len(p), -1).sum(axis=1)


def plain_divergence(kind, full, cut):
    """`(n,)` by the definition, in float64."""
    full, cut = full.astype(float), cut.astype(float)
    if kind == "categorical":
        return kl(full, cut)
    if kind == "binary":
        return kl(full, cut) + kl(1 - full, 1 - cut)
    if kind == "logits":
        return kl(softmax(full), softmax(cut))
    squared = ((full - cut) ** 2).reshape(len(full), -1).sum(axis=1)
    return squared / (2 * full.var())


def two_outputs(kind, shape=(6, 3, 5)):
    pair = np.random.default_rng(0).normal(size=(2, *shape))
    squash = {"categorical": softmax, "binary": sigmoid}.get(kind, lambda x: x)
    return squash(pair).astype("float32")


@pytest.mark.parametrize("kind", ["categorical", "binary", "logits", "real"])
def test_the_divergence_is_that_of_the_distributions(kind):
    full, cut = two_outputs(kind)
    found = Output(kind).divergence(*map(ops.convert_to_tensor, (full, cut)))
    np.testing.assert_allclose(found, plain_divergence(kind, full, cut), rtol=1e-3)
    same = Output(kind).divergence(*map(ops.convert_to_tensor, (full, full)))
    np.testing.assert_allclose(same, 0, atol=1e-6)


@pytest.mark.parametrize("kind", ["categorical", "binary"])
def test_certain_predictions_do_not_make_it_infinite(kind):
    full = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
    value = Output(kind).divergence(*map(ops.convert_to_tensor, (full, full[::-1])))
    assert np.isfinite(value).all()
    assert (np.array(value) > 10).all()


def with_output(layer, **compile_settings):
    x = layers.Dense(8, activation="relu", name="hidden")(vector := keras.Input((4,)))
    model = keras.Model(vector, layer(layers.Dense(3, name="before")(x)))
    if compile_settings:
        model.compile(**compile_settings)
    return model


@pytest.mark.parametrize(
    "kind, layer",
    [
        ("categorical", layers.Dense(3, activation="softmax")),
        ("categorical", layers.Activation("softmax", dtype="float32")),
        ("categorical", layers.Softmax()),
        ("categorical", ops.softmax),
        ("binary", layers.Dense(1, activation="sigmoid")),
        ("binary", layers.Activation("sigmoid")),
        ("binary", ops.sigmoid),
        ("real", layers.Dense(3)),
        ("real", layers.Dense(3, activation="tanh")),
        ("real", layers.Rescaling(2.0)),
    ],
)
def test_the_kind_of_an_output_is_known_from_its_activation(kind, layer):
    assert [k.kind for k in outputs.outputs_of(trace_quietly(with_output(layer)))] == [
        kind
    ]


@pytest.mark.parametrize(
    "kind, loss",
    [
        ("logits", keras.losses.SparseCategoricalCrossentropy(from_logits=True)),
        ("logits", keras.losses.CategoricalCrossentropy(from_logits=True)),
        ("real", keras.losses.SparseCategoricalCrossentropy()),
        ("real", "mse"),
        ("real", lambda y, p: ops.mean(y - p)),
    ],
)
def test_a_linear_output_trained_from_logits_is_one_of_logits(kind, loss):
    graph = trace_quietly(with_output(layers.Dense(3), loss=loss))
    for traced in (graph, folded(graph)):
        assert [k.kind for k in outputs.outputs_of(traced)] == [kind]


# --- The measured divergence of a cut ------------------------------------------------


def searched(model, x, seed=0):
    """Graph, inference copy, moments and random paths with plausible errors."""
    graph = trace_quietly(model)
    inference = folded(graph)
    flat = keras.tree.flatten(x)
    _, moments = observe(inference, [flat])
    rng = np.random.default_rng(seed)
    paths = {
        g.name: SelectionPath(rng.permutation(g.size), np.linspace(1, 0, g.size + 1))
        for g in graph.groups
    }
    return graph, inference, moments, paths, flat


def assert_measured_as_rebuilt(model, kinds, count=6):
    x = inputs_of(model, count)
    graph, inference, moments, paths, flat = searched(model, x)
    widths = {g.name: np.unique([1, g.size // 2]) for g in graph.groups if g.size > 1}
    widths |= {g.name: np.array([], int) for g in graph.groups if g.size == 1}
    halves = [[a[: count // 3] for a in flat], [a[count // 3 :] for a in flat]]
    found = measure(inference, moments, paths, halves, widths, least_squares)
    assert found.keys() == graph.widths.keys()

    full = outputs_of(model, x)
    for name, measured in found.items():
        np.testing.assert_array_equal(measured.widths, widths[name])
        for width, value in zip(measured.widths, measured.values, strict=True):
            one, at = {name: paths[name]}, {name: width}
            compact = cut(graph, moments, one, at, "corrective")
            expected = sum(
                plain_divergence(kind, f, c).mean()
                for kind, f, c in zip(kinds, full, outputs_of(compact, x), strict=True)
            )
            np.testing.assert_allclose(
                value, expected, rtol=2e-3, atol=1e-5, err_msg=f"{name} at {width}"
            )


CATEGORICAL = [
    "inverted_residuals",
    "residual_with_projection",
    "preactivated_residual",
    "padded_shortcut",
    "dense_connections",
    "concatenated_then_added",
    "squeeze_excite_keepdims",
    "squeeze_excite_dense",
    "depthwise_multipliers",
    "spatial_attention",
    "sequential",
]


@pytest.mark.parametrize("name", CATEGORICAL)
def test_a_measured_cut_is_the_divergence_of_the_rebuilt_model(name):
    assert_measured_as_rebuilt(randomize(TOPOLOGIES[name]()), ["categorical"])


def test_a_measured_cut_of_probabilities_per_pixel():
    model = randomize(TOPOLOGIES["encoder_decoder"]())
    assert_measured_as_rebuilt(model, ["binary"])


def test_a_measured_cut_of_logits():
    x = norm(conv(picture := image(), 8, name="a"), "relu")
    x = layers.GlobalAveragePooling2D()(conv(x, 6, name="b", strides=2))
    model = randomize(keras.Model(picture, layers.Dense(4)(x)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss)
    assert_measured_as_rebuilt(model, ["logits"])


def test_a_measured_cut_of_several_outputs_is_the_sum():
    x = conv(picture := image(), 8, name="a", activation="relu")
    x = conv(x, 6, name="b", activation="relu")
    pooled = layers.GlobalAveragePooling2D()(x)
    heads = [
        layers.Dense(3, activation="softmax")(pooled),
        conv(x, 1, name="map", activation="sigmoid"),
    ]
    model = randomize(keras.Model(picture, heads))
    assert_measured_as_rebuilt(model, ["categorical", "binary"])


def test_a_measured_cut_of_a_linear_output():
    x = layers.Dense(8, activation="relu")(vector := keras.Input((4,)))
    model = randomize(keras.Model(vector, layers.Dense(3)(layers.Dense(1)(x))))
    # The variance is that of a batch: with one batch it is that of all.
    x = inputs_of(model, 30)
    graph, inference, moments, paths, flat = searched(model, x)
    widths = {g.name: widths_to_measure(g.size, 3, 1) for g in graph.groups}
    found = measure(inference, moments, paths, [flat], widths, least_squares)
    assert [len(d.widths) for d in found.values()] == [3, 0]
    name, (full,) = graph.groups[0].name, outputs_of(model, x)
    for width, value in zip(found[name].widths, found[name].values, strict=True):
        compact = cut(graph, moments, {name: paths[name]}, {name: width}, "corrective")
        expected = plain_divergence("real", full, outputs_of(compact, x)[0]).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_measuring_does_not_change_the_model():
    model = randomize(TOPOLOGIES["inverted_residuals"]())
    before = model.get_weights()
    assert_measured_as_rebuilt(model, ["categorical"])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# --- From a few widths to a curve ----------------------------------------------------


def test_the_curve_passes_through_what_was_measured():
    errors = np.geomspace(10, 1e-3, 33)
    measured = Divergence(np.array([4, 8, 20]), np.array([3.0, 0.5, 0.01]))
    curve = measured.curve(errors)
    np.testing.assert_allclose(curve[measured.widths], measured.values, rtol=1e-6)


@pytest.mark.parametrize("seed", range(10))
def test_the_curve_only_falls_and_ends_at_zero(seed):
    rng = np.random.default_rng(seed)
    errors = np.append(np.sort(rng.exponential(size=24) ** 4)[::-1], 0)
    widths = widths_to_measure(24, 5, 1)
    curve = Divergence(widths, rng.exponential(size=len(widths))).curve(errors)
    assert curve.shape == (25,)
    assert (np.diff(curve[1:]) <= 0).all()
    assert curve[0] == np.inf
    assert curve[-1] == 0
    assert (curve >= 0).all()
    assert np.isfinite(curve[1:]).all()


@pytest.mark.parametrize(
    "errors", [np.zeros(9), np.full(9, 1e-30), np.append(np.ones(8), 0)], ids=str
)
def test_errors_that_do_not_fall_still_make_a_curve(errors):
    curve = Divergence(np.array([2, 4]), np.array([0.1, 0.0])).curve(errors)
    assert np.isfinite(curve[1:]).all()
    assert (np.diff(curve[1:]) <= 0).all()
    assert curve[-1] == 0


def test_a_measured_zero_is_not_free_for_ever():
    errors = np.append(np.geomspace(1, 1e-8, 16), np.zeros(17))
    curve = Divergence(np.array([16, 24]), np.zeros(2)).curve(errors)
    np.testing.assert_allclose(curve[1:16], errors[1:16])
    assert (curve[16:] < 1e-9).all()


@pytest.mark.parametrize("values", [[-1e-9, -2e-9], [0.1, -1e-7]], ids=str)
def test_rounding_below_zero_does_not_pull_the_curve_below_it(values):
    errors = np.geomspace(1, 1e-8, 33)
    curve = Divergence(np.array([16, 24]), np.array(values)).curve(errors)
    assert (curve >= 0).all()


def measured_to_the_end(errors, divergence, count, round_to=8):
    """Measures `divergence`, `(N + 1,)`, at first and wherever there is doubt."""
    widths = widths_to_measure(len(errors) - 1, count, round_to)
    found = Divergence(widths, divergence[widths])
    doubt = found.widths_in_doubt(errors, count, round_to)
    while len(doubt):
        assert not set(doubt) & set(found.widths), "nothing is measured twice"
        found = found.with_more(Divergence(doubt, divergence[doubt]))
        doubt = found.widths_in_doubt(errors, count, round_to)
    return found


@pytest.mark.parametrize("live", [1, 2, 7, 8, 9, 24, 63])
@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("errors_tell", [True, False])
def test_where_a_cut_begins_to_cost_is_measured(live, count, errors_tell):
    widths = np.arange(65)
    divergence = np.where(widths < live, 3.0 - widths / 64, 1e-8)
    errors = 64.0 - widths
    if errors_tell:
        errors = np.maximum(0.0, live - widths)
    found = measured_to_the_end(errors, divergence, count)
    curve = found.curve(errors)
    # As exactly as budgets go, and to a channel where the errors tell.
    known_free = live if errors_tell else -(-live // 8) * 8
    assert (curve[known_free:] < 1e-6).all() or live > found.widths[-1]
    assert (curve[:live] > 1e-2).all()
    assert len(found.widths) < (20 if errors_tell else 10)


def test_nothing_more_is_measured_where_all_cuts_cost_something():
    errors = np.geomspace(1, 1e-5, 65)
    first = widths_to_measure(64, 5, 8)
    np.testing.assert_array_equal(measured_to_the_end(errors, errors, 5).widths, first)


def test_a_group_of_one_channel_has_a_curve_without_a_measurement():
    nothing = np.array([], int)
    assert not len(widths_to_measure(1, 5, 8))
    curve = Divergence(nothing, nothing).curve(np.array([2.0, 0.0]))
    assert curve.tolist() == [np.inf, 0]


def test_at_width_0_the_curve_is_what_was_measured():
    errors = np.geomspace(1, 1e-4, 33)
    measured = Divergence(np.array([0, 8, 24]), np.array([0.3, 0.2, 0.01]))
    curve = measured.curve(errors)
    np.testing.assert_allclose(curve[[0, 8, 24]], measured.values, rtol=1e-6)
    assert (np.diff(curve) <= 0).all()


@pytest.mark.parametrize("size", [2, 3, 8, 9, 16, 17, 100, 1000])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_widths_measured_are_few_and_below_the_size(size, count):
    widths = widths_to_measure(size, count, 8)
    # Two at least, where there are two: one does not tell the slope.
    assert min(2, count, size - 1) <= len(widths) <= count
    assert 0 < widths.min() <= widths.max() < size
    assert (np.diff(widths) > 0).all()
    if size >= 16:
        assert (widths % 4 == 0).all()
    if size > 24:
        assert (widths % 8 == 0).all()


# --- The inference copy --------------------------------------------------------------


def norm_is_gone(graph):
    return not any("batch_norm" in call.name for call in graph.calls)


def assert_folds_to_the_same_function(model, rtol=1e-5):
    randomize(model)
    x = inputs_of(model, 4)
    graph = trace_quietly(model)
    inference = folded(graph)
    pairs = zip(outputs_of(model, x), outputs_of(inference.functional, x), strict=True)
    for full, copy in pairs:
        np.testing.assert_allclose(copy, full, rtol=rtol, atol=rtol * np.ptp(full))
    for group, same in zip(graph.groups, inference.groups, strict=True):
        assert group.name == same.name
        np.testing.assert_array_equal(group.channels, same.channels)
        for calls, copies in ((group.producers, same.producers),) + (
            (group.consumers, same.consumers),
        ):
            assert [c.name for c in calls] == [c.name for c in copies]
            for call, copy in zip(calls, copies, strict=True):
                assert call.operation is not copy.operation
                for old, new in zip(call.inputs, copy.inputs, strict=True):
                    np.testing.assert_array_equal(
                        graph.channels_of(old), inference.channels_of(new)
                    )
    assert [c.index for c in inference.calls] == list(range(len(inference.calls)))
    return inference


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_inference_copy_computes_the_same_with_the_same_groups(name):
    mixed = name == "mixed_precision"
    assert_folds_to_the_same_function(shared(name), 0.05 if mixed else 1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(6, 3, use_bias=False),
        layers.Conv2D(6, 3, strides=2),
        layers.Dense(6),
        layers.DepthwiseConv2D(3, depth_multiplier=3),
        layers.DepthwiseConv2D(3, use_bias=False, strides=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("norm_options", [{}, {"scale": False}, {"center": False}])
def test_a_batch_norm_behind_a_linear_layer_is_folded(layer, norm_options):
    x = conv(picture := image(), 4)
    copy = type(layer).from_config(layer.get_config())
    x = layers.BatchNormalization(**norm_options)(copy(x))
    model = keras.Model(picture, head(layers.ReLU()(x)))
    assert norm_is_gone(assert_folds_to_the_same_function(model))


def behind_an_activation(x):
    return layers.BatchNormalization()(conv(x, 6, activation="relu"))


def read_by_two(x):
    x = conv(x, 6)
    return layers.Add()([layers.BatchNormalization()(x), x])


def read_by_two_norms(x):
    x = conv(x, 6)
    return layers.Add()([layers.BatchNormalization()(x) for _ in "ab"])


def on_another_axis(x):
    return layers.BatchNormalization(axis=1)(conv(x, 6))


def behind_a_pooling(x):
    return layers.BatchNormalization()(layers.MaxPooling2D()(x))


def always_in_training(x):
    return layers.BatchNormalization()(conv(x, 6), training=True)


def shared_between_two(x):
    shared = layers.BatchNormalization()
    return layers.Add()([shared(conv(x, 6)), shared(conv(x, 6))])


@pytest.mark.parametrize(
    "build",
    [
        behind_an_activation,
        read_by_two,
        read_by_two_norms,
        on_another_axis,
        behind_a_pooling,
        shared_between_two,
        always_in_training,
    ],
)
def test_a_batch_norm_that_cannot_be_folded_stays(build):
    x = build(conv(picture := image(), 4))
    inference = assert_folds_to_the_same_function(keras.Model(picture, head(x)))
    assert not norm_is_gone(inference)


def test_a_convolution_that_is_an_output_keeps_its_batch_norm():
    x = conv(conv(picture := image(), 4), 6)
    model = keras.Model(picture, [x, head(layers.BatchNormalization()(x))])
    assert not norm_is_gone(assert_folds_to_the_same_function(model))


def test_half_precision_is_searched_in_full_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        x = norm(conv(picture := image(), 8), "relu")
        x = head(conv(depthwise(x), 6))
        model = keras.Model(picture, layers.Activation("linear", dtype="float32")(x))
    finally:
        keras.config.set_dtype_policy("float32")
    inference = assert_folds_to_the_same_function(model, rtol=0.02)
    assert {call.outputs[0].dtype for call in inference.calls} == {"float32"}


# --- What the output cares for -------------------------------------------------------


def drawn_and_exact(activation, kind):
    """The sensitivity of a layer with an activation, from draws and exactly.

    Exactly: the Fisher information of the logits, through a Jacobian by differences.
    """
    x = layers.Dense(6, activation="tanh", name="a")(vector := keras.Input((3,)))
    x = layers.Dense(4, activation=activation, name="b")(x)
    last = {"categorical": "softmax", "binary": "sigmoid"}[kind]
    model = keras.Model(vector, layers.Dense(3, activation=last, name="c")(x))
    randomize(model)
    example = np.random.default_rng(0).normal(size=(1, 3)).astype("float32")
    batch = np.repeat(example, 5000, axis=0)
    drawn = sensitivities(trace_quietly(model), [[batch]] * 4)["b"]

    hidden = ops.convert_to_numpy(model.get_layer("a")(example)).astype(float)
    (w, b), (v, c) = (
        map(np.float64, model.get_layer(name).get_weights()) for name in "bc"
    )
    act = {"relu": lambda x: np.maximum(x, 0), "sigmoid": sigmoid}[activation]

    def logits(shift):
        return (act(hidden @ w + b + shift) @ v + c)[0]

    jacobian = [(logits(e) - logits(-e)) / 2e-5 for e in 1e-5 * np.eye(4)]
    p = {"categorical": softmax, "binary": sigmoid}[kind](logits(0))
    outer = np.outer(p, p) if kind == "categorical" else np.diag(p * p)
    fisher = np.diag(p) - outer
    return drawn, np.einsum("ij,jk,ik->i", jacobian, fisher, jacobian)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("kind", ["categorical", "binary"])
def test_sensitivities_are_the_fisher_information_in_front_of_the_activation(
    kind, activation
):
    drawn, exact = drawn_and_exact(activation, kind)
    np.testing.assert_allclose(drawn, exact, rtol=0.1, atol=0.02 * exact.max())


def test_the_sensitivity_of_a_softmax_layer_is_that_of_its_logits():
    x = layers.Dense(6, name="a")(vector := keras.Input((3,)))
    x = layers.Dense(4, activation="softmax", name="b")(x)
    model = randomize(keras.Model(vector, x))
    data = np.repeat(np.random.default_rng(0).normal(size=(1, 3)), 4000, axis=0)
    found = sensitivities(trace_quietly(model), [[data.astype("float32")]])
    p = outputs_of(model, data[:1].astype("float32"))[0][0]
    np.testing.assert_allclose(found["b"], p * (1 - p), rtol=0.1)


def test_sensitivities_are_summed_over_positions():
    """Each position of a map adds its own error to the output's."""
    x = conv(picture := keras.Input((4, 4, 2)), 5, name="a")
    x = conv(x, 3, 1, name="b")
    model = randomize(keras.Model(picture, layers.GlobalAveragePooling2D()(x)))
    data = inputs_of(model, 2000)
    found = sensitivities(trace_quietly(model), [[data]])
    variance = outputs_of(model, data)[0].var()
    np.testing.assert_allclose(found["b"], 16 * (1 / 16) ** 2 / variance, rtol=1e-3)


def test_sensitivities_are_a_function_of_the_seed():
    model = randomize(TOPOLOGIES["inverted_residuals"]())
    data = [[inputs_of(model, 8)]]
    one, same, other = (sensitivities(trace_quietly(model), data, s) for s in (0, 0, 1))
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert any((one[name] != other[name]).any() for name in one)
