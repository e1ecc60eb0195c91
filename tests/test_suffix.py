import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import (
    TOPOLOGIES,
    conv,
    head,
    image,
    inputs_of,
    mixed_precision,
    norm,
    outputs_of,
    randomize,
    squeeze_excite,
)

from keras_greedy.batches import Batches
from keras_greedy.graph.calls import one_by_one
from keras_greedy.graph.fold import folded
from keras_greedy.graph.model_kinds import check_model
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.cut import cut
from keras_greedy.selection.moments import observe
from keras_greedy.selection.output.objectives import OutputDivergence
from keras_greedy.selection.output.rank_one import pointwise_behind
from keras_greedy.selection.output.suffix import CANDIDATES_AT_ONCE, Suffix
from keras_greedy.selection.path import mixture_path
from keras_greedy.selection.reconstruction import rescaled

EXAMPLES = 4


def squared(outputs, targets):
    """`(n,)` mean squared distance from the targets."""
    return sum(
        ops.mean(ops.reshape(ops.square(o - t), (ops.shape(t)[0], -1)), axis=1)
        for o, t in zip(outputs, targets, strict=True)
    )


class Network:
    """A random model with what a `Suffix` needs, and random targets."""

    def __init__(self, build):
        self.model = randomize(build())
        self.x = inputs_of(self.model, EXAMPLES)
        self.graph = trace_quietly(self.model)
        self.inference = folded(self.graph)
        self.inputs = tensors(keras.tree.flatten(self.x))
        _, self.moments = observe(self.inference, [keras.tree.flatten(self.x)])
        rng = np.random.default_rng(0)
        self.targets = tensors(
            rng.normal(size=full.shape) * full.std()
            for full in outputs_of(self.model, self.x)
        )
        self.groups = {group.name: group for group in self.inference.groups}
        self.suffixes = {
            name: Suffix(self.inference, group, self.moments, squared)
            for name, group in self.groups.items()
        }

    def live(self, name):
        return self.suffixes[name].prefix(self.inputs)


network = functools.cache(Network)


def tensors(arrays):
    return [ops.convert_to_tensor(np.asarray(a, "float32")) for a in arrays]


def concatenated_with_itself():
    """Each channel of a is read twice at each position."""
    x = conv(picture := image(size=6), 5, name="a")
    x = layers.Concatenate()([x, layers.ReLU()(x)])
    x = layers.Concatenate()([conv(x, 4, 1, name="b"), conv(x, 3, name="c")])
    return keras.Model(picture, head(x))


def pointwise_layers_in_a_row():
    """No activation between b and c, nor between d and e."""
    x = conv(picture := image(size=6), 6, name="a", activation="tanh")
    x = conv(conv(x, 5, 1, name="b"), 7, 1, name="c")
    x = layers.GlobalAveragePooling2D()(layers.Activation("tanh")(x))
    x = layers.Dense(5, name="e")(layers.Dense(6, name="d")(x))
    return keras.Model(picture, layers.Dense(3)(layers.ReLU()(x)))


def a_stream_past_rows():
    """One consumer reads rows of all positions, another one further behind maps."""
    x = conv(picture := image(size=4), 6, name="a", activation="tanh")
    rows = layers.Dense(5, activation="tanh", name="b")(ops.reshape(x, (-1, 6)))
    rows = layers.Dense(6, name="c")(rows)
    x = layers.Add()([x, ops.reshape(rows, (-1, 4, 4, 6))])
    return keras.Model(picture, head(conv(x, 5, name="d", activation="tanh")))


COMMON = ["padded_shortcut", "depthwise_multipliers", "two_flattens", "reshapes"]
every_topology = pytest.mark.parametrize(
    "build",
    [
        *(TOPOLOGIES[name] for name in COMMON),
        concatenated_with_itself,
        a_stream_past_rows,
        pointwise_layers_in_a_row,
        *(
            pytest.param(TOPOLOGIES[name], marks=pytest.mark.slow)
            for name in TOPOLOGIES
            if name not in COMMON
        ),
    ],
    ids=lambda build: build.__name__,
)


def random_mixture(channels, seed=0):
    """Weights of which a third is 0, and the steps that made them."""
    rng = np.random.default_rng(seed)
    picks = rng.permutation(channels)[: -(-2 * channels // 3)]
    sizes = [1.0, *rng.uniform(0.2, 0.6, len(picks) - 1)]
    path = mixture_path(picks, sizes, np.zeros(len(picks) + 1), channels)
    return path, len(picks), path.mixture(channels)


def single(weights):
    return weights.astype("float32")


def assert_close(found, expected, tolerance=1e-4):
    for one, two in zip(found, expected, strict=True):
        one, two = ops.convert_to_numpy(one), ops.convert_to_numpy(two)
        assert one.shape == two.shape
        assert np.abs(one - two).max() <= tolerance * np.abs(two).max()


# --- The outputs of a mixture --------------------------------------------------------


@every_topology
def test_a_mixture_is_the_network_with_its_consumers_rescaled(build):
    net = network(build)
    reads = consumers_of(net.inference)
    for name, group in net.groups.items():
        *_, weights = random_mixture(group.size)
        scales = net.inference.scales({name: group.size * weights})

        def apply(call, *args, group=group, scales=scales, **kwargs):
            if call in group.normalizers:
                kept = scales[net.inference.channels_read(call)] != 0
                return call.rule.over_kept(call.operation, args[0], *tensors([kept]))
            if call not in group.consumers:
                return call.compute(*args, **kwargs)
            read, scatter = reads[call.name], net.moments.scatters[call.name]
            new = rescaled(read, scatter, scales[read.features])
            first, *others = one_by_one(args)
            return read.apply(first, *tensors(new), *others, **kwargs)

        expected = net.inference.run_all(net.inputs, apply)
        found = net.suffixes[name].outputs(net.live(name), single(weights))
        assert_close(found, expected)


@every_topology
def test_a_mixture_is_the_compact_model_of_its_path(build):
    net = network(build)
    for name, group in net.groups.items():
        path, width, weights = random_mixture(group.size)
        if width == group.size:
            continue  # Of all channels a path leaves the network as it is.
        compact = cut(net.graph, net.moments, {name: path}, {name: width}, "uniform")
        found = net.suffixes[name].outputs(net.live(name), single(weights))
        assert_close(found, outputs_of(compact, net.x), 1e-3)


@every_topology
def test_the_even_mixture_of_all_channels_is_the_full_network(build):
    net = network(build)
    for name, group in net.groups.items():
        even = np.full(group.size, 1 / group.size)
        found = net.suffixes[name].outputs(net.live(name), single(even))
        assert_close(found, outputs_of(net.model, net.x))


@pytest.mark.slow
def test_half_precision_is_evaluated_in_full_precision():
    net = network(mixed_precision)
    for name, group in net.groups.items():
        even = np.full(group.size, 1 / group.size)
        found = net.suffixes[name].outputs(net.live(name), single(even))
        assert_close(found, outputs_of(net.model, net.x), 0.02)


def test_each_example_may_have_a_mixture_of_its_own():
    net = network(TOPOLOGIES["padded_shortcut"])
    for name, group in net.groups.items():
        rng, suffix = np.random.default_rng(0), net.suffixes[name]
        own = single(rng.dirichlet(np.ones(group.size), EXAMPLES))
        (together,) = suffix.outputs(net.live(name), own)
        apart = [suffix.outputs(net.live(name), a)[0][i] for i, a in enumerate(own)]
        assert_close([together], [ops.stack(apart)])


# --- Many candidates at once ---------------------------------------------------------


@pytest.mark.parametrize(
    "count", [1, CANDIDATES_AT_ONCE, 2 * CANDIDATES_AT_ONCE + 3], ids=str
)
def test_trials_are_the_losses_after_each_step_for_any_number_of_them(count):
    assert_trials_are_losses(network(TOPOLOGIES["padded_shortcut"]), count)


@every_topology
def test_trials_are_the_losses_after_each_step(build):
    assert_trials_are_losses(network(build), 6)


def assert_trials_are_losses(net, count):
    rng = np.random.default_rng(1)
    for name, group in net.groups.items():
        suffix, live = net.suffixes[name], net.live(name)
        for weights in (random_mixture(group.size)[-1], np.zeros(group.size)):
            channels = rng.integers(group.size, size=count)
            sizes = rng.uniform(-0.1, 1, count)
            sizes[0] = 1.0
            found = suffix.trials(live, net.targets, weights, channels, sizes)
            expected = [
                suffix.loss(live, net.targets, (1 - g) * weights + g * one)
                for g, one in zip(sizes, np.eye(group.size)[channels], strict=True)
            ]
            atol = 1e-3 * np.ptp(expected) + 1e-6 * max(expected)
            np.testing.assert_allclose(found, expected, atol=atol, rtol=0, err_msg=name)


def pushed_through(build):
    """Name of a group -> the names of the layers its candidates are pushed through."""
    net = network(build)
    return {
        name: [
            behind.name
            for call in group.consumers
            if (behind := pointwise_behind(net.inference, group, call)) is not None
        ]
        for name, group in net.groups.items()
    }


def test_candidates_are_pushed_through_a_pointwise_layer_that_alone_reads_them():
    def read_twice():
        x = conv(picture := image(size=6), 6, name="a")
        x = conv(x, 5, 1, name="b")
        x = layers.Concatenate()([conv(x, 4, 1, name="c"), layers.ReLU()(x)])
        return keras.Model(picture, head(x))

    def not_pointwise():
        x = conv(picture := image(size=6), 6, name="a")
        x = conv(conv(x, 5, 1, name="b"), 4, 3, name="c")
        x = conv(conv(x, 5, 1, name="d", activation="relu"), 4, 1, name="e")
        return keras.Model(picture, head(x))

    found = pushed_through(pointwise_layers_in_a_row)
    assert found["a"] == ["c"]
    assert found["c"] == ["e"]
    assert not any(pushed_through(read_twice).values())
    assert not pushed_through(not_pointwise)["a"]
    assert not pushed_through(not_pointwise)["c"]


def test_a_candidate_does_not_depend_on_those_evaluated_with_it():
    net = network(smooth_excitation)
    suffix, live, weights = net.suffixes["a"], net.live("a"), np.full(6, 1 / 6)
    channels, sizes = np.arange(6), np.linspace(0.1, 0.8, 6)
    together = suffix.trials(live, net.targets, weights, channels, sizes)
    for i in range(6):
        own = channels[i : i + 1], sizes[i : i + 1]
        alone = suffix.trials(live, net.targets, weights, *own)
        np.testing.assert_allclose(together[i], alone, rtol=1e-5)


# --- Derivatives ---------------------------------------------------------------------
# Smooth networks, or the finite differences would cross kinks.


def smooth_stack():
    x = norm(conv(picture := image(size=6), 6, name="a"), "tanh")
    x = norm(conv(x, 5, name="b", strides=2), "swish")
    x = layers.Dense(7, activation="tanh", name="c")(layers.Flatten()(x))
    return keras.Model(picture, layers.Dense(4, activation="softmax")(x))


def smooth_stream():
    x = norm(conv(picture := image(size=6), 6, name="a"), "tanh")
    x = layers.Add()([x, norm(conv(norm(conv(x, 5, 1, "b"), "gelu"), 6, name="c"))])
    x = layers.Add()([x, norm(conv(norm(conv(x, 5, 1, "d"), "gelu"), 6, name="e"))])
    return keras.Model(picture, head(layers.Activation("swish")(x)))


def smooth_excitation():
    x = norm(conv(picture := image(size=6), 6, name="a"), "swish")
    x = layers.GlobalAveragePooling2D(keepdims=True)(x) * x
    return keras.Model(picture, head(conv(x, 5, 1, name="b", activation="tanh")))


def smooth_rows():
    """The examples' positions become the batch axis."""
    x = conv(picture := image(size=4), 6, name="a", activation="tanh")
    x = layers.Dense(5, activation="tanh", name="b")(ops.reshape(x, (-1, 6)))
    x = layers.Dense(4, activation="tanh", name="c")(ops.reshape(x, (-1, 16 * 5)))
    return keras.Model(picture, layers.Dense(3, activation="softmax")(x))


SMOOTH = [
    smooth_excitation,
    pytest.param(smooth_stack, marks=pytest.mark.slow),
    pytest.param(smooth_stream, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("build", [*SMOOTH, smooth_rows, a_stream_past_rows])
def test_slopes_are_the_finite_differences_of_each_examples_loss(build):
    net = network(build)
    rng = np.random.default_rng(2)
    for name, group in net.groups.items():
        suffix = net.suffixes[name]
        weights = (random_mixture(group.size)[-1] + 1 / group.size) / 2
        slopes, sampled = suffix.slopes(net.live(name), net.targets, weights, rng)
        assert slopes.shape == sampled.shape == (EXAMPLES, group.size)
        for i in range(EXAMPLES):
            live = suffix.prefix([x[i : i + 1] for x in net.inputs])
            target = [t[i : i + 1] for t in net.targets]
            expected = [
                (
                    suffix.loss(live, target, weights + 5e-3 * one)
                    - suffix.loss(live, target, weights - 5e-3 * one)
                )
                / 1e-2
                for one in np.eye(group.size)
            ]
            atol = 0.01 * np.abs(slopes).max() + 1e-5 * float(squared_of(net))
            np.testing.assert_allclose(slopes[i], expected, rtol=0.02, atol=atol)


def squared_of(net):
    return ops.max(squared(tensors(outputs_of(net.model, net.x)), net.targets))


@pytest.mark.parametrize("build", SMOOTH)
def test_halving_the_step_cuts_the_error_of_the_expansion_by_four(build):
    net = network(build)
    rng, ratios = np.random.default_rng(3), []
    for name, group in net.groups.items():
        suffix, live = net.suffixes[name], net.live(name)
        weights = np.full(group.size, 1 / group.size)
        slopes, _ = suffix.slopes(live, net.targets, weights, rng)
        slope = (slopes - (slopes @ weights)[:, None]).sum(axis=0)
        channels = np.arange(group.size)
        here = suffix.loss(live, net.targets, weights)
        wide, half = (
            suffix.trials(
                live, net.targets, weights, channels, np.full(group.size, size)
            )
            - here
            - size * slope
            for size in (0.1, 0.05)
        )
        ratios.extend(wide / half)
    assert 3.3 < np.median(ratios) < 4.7


def diverging(build):
    """Suffixes and batches of the divergence from the network's own answers."""
    net = network(build)
    batches = Batches(net.x, check_model(net.model))
    objective = OutputDivergence(net.model, batches)
    ((inputs, answers),) = objective.examples()
    for group in net.groups.values():
        suffix = Suffix(net.inference, group, net.moments, objective.loss)
        yield group, suffix, suffix.prefix(tensors(inputs)), tensors(answers)


@pytest.mark.parametrize("build", SMOOTH)
def test_the_full_network_has_no_slope_and_no_loss_of_its_own_divergence(build):
    for group, suffix, live, answers in diverging(build):
        even = np.full(group.size, 1 / group.size)
        slopes, sampled = suffix.slopes(live, answers, even, np.random.default_rng(0))
        assert np.abs(slopes).max() < 1e-3 * np.abs(sampled).max()
        assert abs(suffix.loss(live, answers, even)) < 1e-5


@pytest.mark.parametrize("build", SMOOTH)
def test_squared_sampled_slopes_are_the_second_derivative_of_the_divergence(build):
    found, expected = [], []
    for group, suffix, live, answers in diverging(build):
        even, rng = np.full(group.size, 1 / group.size), np.random.default_rng(0)
        draws = [suffix.slopes(live, answers, even, rng)[1] for _ in range(200)]
        along = np.array(draws) - np.mean(draws, axis=2, keepdims=True)
        found.extend(np.square(along).mean(axis=0).sum(axis=0))
        channels = np.arange(group.size)
        second = sum(
            suffix.trials(live, answers, even, channels, np.full(group.size, g))
            for g in (0.03, -0.03)
        )
        expected.extend(second / 0.03**2)
    found, expected = np.array(found), np.array(expected)
    large = expected > 0.1 * expected.max()
    np.testing.assert_allclose(found[large], expected[large], rtol=0.25)
    np.testing.assert_allclose(found[large].sum(), expected[large].sum(), rtol=0.1)


def test_drawn_labels_are_a_function_of_the_generator():
    net = network(smooth_excitation)
    suffix, live, even = net.suffixes["a"], net.live("a"), np.full(6, 1 / 6)

    def sampled(seed):
        rng = np.random.default_rng(seed)
        return suffix.slopes(live, net.targets, even, rng)[1]

    np.testing.assert_array_equal(sampled(0), sampled(0))
    assert (sampled(0) != sampled(1)).any()


def test_several_outputs_of_several_kinds_are_drawn_from():
    x = conv(picture := image(size=6), 6, name="a", activation="tanh")
    x = conv(squeeze_excite(x, 3, "se"), 5, 1, name="b", activation="tanh")
    pooled = layers.GlobalAveragePooling2D()(x)
    outputs = {
        "label": layers.Dense(3, activation="softmax")(pooled),
        "map": conv(x, 1, name="map", activation="sigmoid"),
        "size": layers.Dense(2)(pooled),
    }
    model = randomize(keras.Model(picture, outputs))
    net = network(lambda: model)
    for name, group in net.groups.items():
        even = np.full(group.size, 1 / group.size)
        rng = np.random.default_rng(0)
        found = net.suffixes[name].slopes(net.live(name), net.targets, even, rng)
        for part in found:
            assert part.shape == (EXAMPLES, group.size)
            assert np.isfinite(part).all()
            assert part.any()
