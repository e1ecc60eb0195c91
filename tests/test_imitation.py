import functools

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import conv, head, image, inputs_of, norm, randomize
from scipy.optimize import minimize_scalar

from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import observe
from keras_greedy.selection.moments.corrective import Problem, forward_path
from keras_greedy.selection.moments.mixture import (
    STEPS_PER_CHANNEL,
    MixtureError,
    gram,
    imitation_path,
    least_sizes,
    line_search,
    uniform,
)
from keras_greedy.selection.path import mixture
from keras_greedy.selection.steps import STEP_RULES

# --- Layers, and what their channels contribute --------------------------------------


def read_by_a_1x1():
    x = conv(picture := image(size=5), 6, name="a", activation="relu")
    return picture, conv(x, 4, 1)


def read_by_a_3x3():
    x = conv(picture := image(size=5), 5, name="a", activation="relu")
    return picture, conv(x, 3)


def read_by_a_strided_3x3():
    x = conv(picture := image(size=6), 5, name="a", activation="tanh")
    return picture, conv(x, 3, strides=2, use_bias=False)


def read_by_dense():
    x = layers.Dense(7, activation="relu", name="a")(vector := keras.Input((4,)))
    return vector, layers.Dense(5)(x)


def read_behind_flatten():
    x = conv(picture := image(size=3), 6, name="a", activation="relu")
    return picture, layers.Dense(5)(layers.Flatten()(x))


def read_by_several():
    x = conv(picture := image(size=5), 6, name="a", activation="relu")
    y = layers.Concatenate()([conv(x, 3), conv(x, 4, 1), conv(x, 2, dilation_rate=2)])
    return picture, y


def a_residual_stream():
    x = norm(conv(picture := image(size=5), 5, name="a"), "relu")
    for _ in range(2):
        x = layers.Add()([x, norm(conv(norm(conv(x, 4, 1), "relu"), 5))])
    return picture, conv(x, 3, 1)


LAYERS = [
    read_by_a_1x1,
    read_by_a_3x3,
    read_by_a_strided_3x3,
    read_by_dense,
    read_behind_flatten,
    read_by_several,
    a_residual_stream,
]
PARTS = [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 5))]
FIFTY = [(LAYERS[seed % len(LAYERS)], seed) for seed in range(50)]


@functools.cache
def observed_layer(build, seed, weighted=False):
    return Observed(build, seed, weighted)


class Observed:
    """A group of a random model: moments, and the rows they are of, as float64."""

    def __init__(self, build, seed, weighted=False):
        picture, x = build()
        head_of = layers.Dense(3) if len(x.shape) == 2 else head
        model = randomize(keras.Model(picture, head_of(x)), seed)
        graph, data = trace_quietly(model), inputs_of(model, 40, seed + 1)
        self.group = next(group for group in graph.groups if group.name == "a")
        consumers = consumers_of(graph)
        self.consumers = [consumers[call.name] for call in self.group.consumers]
        # With fewer positions than are sampled of an image, the moments are exact.
        _, moments = observe(graph, [[data]])
        self.scatters = [
            moments.scatters[consumer.call.name] for consumer in self.consumers
        ]
        tensors = [consumer.call.inputs[0] for consumer in self.consumers]
        values = keras.tree.flatten(keras.Model(graph.functional.input, tensors)(data))
        rng = np.random.default_rng(seed)
        self.rows, self.matrices = [], []
        for consumer, value in zip(self.consumers, values, strict=True):
            own = consumer.features_of(self.group.channels)
            rows = consumer.rows(value, consumer.positions(rng, 32))
            rows = ops.convert_to_numpy(rows).astype(float)[..., own]
            self.rows.append((rows - rows.mean(axis=0)).reshape(-1, len(own)))
            matrix = consumer.matrix()[own]
            columns = rng.uniform(0.1, 3, matrix.shape[1]) if weighted else 1.0
            self.matrices.append(matrix * columns)

    @property
    def size(self):
        return self.group.size

    def moments_and_kernels(self):
        """`(covariance, weights)` as the library takes them, from its moments."""
        for consumer, scatter, matrix in zip(
            self.consumers, self.scatters, self.matrices, strict=True
        ):
            own = consumer.features_of(self.group.channels)
            yield scatter.covariance()[np.ix_(own, own)], matrix

    def grams(self):
        return [gram(*pair, self.size) for pair in self.moments_and_kernels()]

    def contributions(self):
        """`(N, everything)` phi_i, explicitly: its mean square is its sum of squares.

        Rows and outputs of all consumers one after the other.
        """
        found = []
        for rows, matrix in zip(self.rows, self.matrices, strict=True):
            rows = rows.reshape(len(rows), self.size, -1)
            matrix = matrix.reshape(self.size, -1, matrix.shape[1])
            phi = np.einsum("rif,ifo->iro", rows, matrix) / np.sqrt(len(rows))
            found.append(phi.reshape(self.size, -1))
        return np.concatenate(found, axis=1)


@pytest.mark.parametrize("build", LAYERS)
def test_the_gram_matrix_is_that_of_the_contributions(build):
    observed = observed_layer(build, seed=0)
    assert len(observed.consumers) == {read_by_several: 3, a_residual_stream: 3}.get(
        build, 1
    )
    phi = observed.contributions()
    np.testing.assert_allclose(
        sum(observed.grams()), phi @ phi.T, rtol=1e-4, atol=1e-5 * (phi**2).sum()
    )


def test_the_gram_matrix_sums_over_a_channels_features():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(50, 6)), rng.normal(size=(6, 4))
    phi = np.stack([x[:, [2 * i, 2 * i + 1]] @ w[[2 * i, 2 * i + 1]] for i in range(3)])
    phi = phi.reshape(3, -1)
    np.testing.assert_allclose(gram(x.T @ x, w, 3), phi @ phi.T)


# --- The plain greedy ----------------------------------------------------------------


def squared_error(phi, a):
    return ((phi.sum(axis=0) - len(phi) * a @ phi) ** 2).sum()


def best_size(phi, a, i, n):
    """The g in [-a_i / (1 - a_i), 1] of least error, of the actual residual."""
    if n == 0:
        return 1.0
    left = phi.sum(axis=0) - len(phi) * a @ phi
    way = len(phi) * (phi[i] - a @ phi)
    g = left @ way / max(way @ way, 1e-300)
    return float(np.clip(g, -a[i] / max(1 - a[i], 1e-12), 1.0))


def plain_greedy(phi, size_of):
    """Tries every channel by its actual squared error."""
    a, picks, sizes, errors = (
        np.zeros(len(phi)),
        [],
        [],
        [squared_error(phi, 0 * phi[:, 0])],
    )
    while set(picks) != set(range(len(phi))):
        repeat = len(picks) < STEPS_PER_CHANNEL * len(set(picks))
        may = [i for i in range(len(phi)) if repeat or i not in picks]
        steps = {i: size_of(a, i, len(picks)) for i in may}
        after = {i: (1 - g) * a + g * np.eye(len(phi))[i] for i, g in steps.items()}
        best = min(may, key=lambda i: squared_error(phi, after[i]))
        a = np.where(np.abs(after[best]) < 1e-12, 0, after[best])
        picks.append(best)
        sizes.append(steps[best])
        errors.append(squared_error(phi, a))
    return picks, sizes, errors


def exact(observed):
    """The library's Gram matrix to the last digit, so that ties break alike."""
    phi = observed.contributions()
    return phi, phi @ phi.T


@pytest.mark.parametrize("weighted", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("rule", ["uniform", "line_search"])
@pytest.mark.parametrize("part", PARTS)
def test_the_path_is_the_plain_greedy_pick_for_pick_on_fifty_layers(
    part, rule, weighted
):
    for build, seed in FIFTY[part::5]:
        observed = observed_layer(build, seed, weighted)
        phi = observed.contributions()
        if rule == "uniform":
            picks, sizes, errors = plain_greedy(phi, lambda a, i, n: 1 / (n + 1))
        else:
            picks, sizes, errors = plain_greedy(phi, functools.partial(best_size, phi))
        path = STEP_RULES[rule].path(
            list(observed.moments_and_kernels()), observed.size
        )
        assert path.picks.tolist() == picks, (build.__name__, seed)
        np.testing.assert_allclose(path.sizes, sizes, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            path.errors[:-1],
            np.minimum.accumulate([errors[step] for step in path.steps])[:-1],
            rtol=1e-3,
            atol=1e-5 * errors[0],
        )


@pytest.mark.parametrize("weighted", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("part", PARTS)
def test_the_corrective_path_is_the_plain_greedy_on_fifty_layers(part, weighted):
    for build, seed in FIFTY[part::5]:
        observed = observed_layer(build, seed, weighted)
        parts = list(zip(observed.rows, observed.matrices, strict=True))
        # Sums of squares are those of the triangle, which is shorter.
        parts = [(np.linalg.qr(x, "r") / np.sqrt(len(x)), w) for x, w in parts]

        def error(chosen, parts=parts, size=observed.size):
            return sum(left_over(x, w, chosen, size) for x, w in parts)

        order = []
        while len(order) < observed.size:
            rest = [c for c in range(observed.size) if c not in order]
            order.append(min(rest, key=lambda c: error([*order, c])))
        problems = [
            Problem(*pair, observed.size) for pair in observed.moments_and_kernels()
        ]
        path = forward_path(problems)
        # The last errors are rounding where the other channels can stand for those.
        errors = [error(order[:n]) for n in range(observed.size + 1)]
        told_apart = np.count_nonzero(np.array(errors) > 1e-5 * errors[0])
        assert path.order[:told_apart].tolist() == order[:told_apart]
        np.testing.assert_allclose(
            path.errors, errors, rtol=1e-3, atol=1e-5 * errors[0]
        )


def left_over(x, w, chosen, channels):
    """Squared error of the best weights on the chosen channels."""
    kept = np.isin(np.arange(x.shape[1]) // (x.shape[1] // channels), chosen)
    best = np.linalg.lstsq(x[:, kept], x @ w, rcond=None)[0]
    return ((x @ w - x[:, kept] @ best) ** 2).sum()


# --- Single steps --------------------------------------------------------------------


def random_contributions(channels=8, seed=0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=5)
    return rng.uniform(0.3, 2, (channels, 1)) * (
        rng.normal(size=(channels, 5)) + common
    )


@pytest.mark.parametrize("rule", [uniform, line_search])
@pytest.mark.parametrize("seed", range(10))
def test_the_first_pick_equals_exhaustive_search(rule, seed):
    phi = random_contributions(seed=seed)
    alone = [squared_error(phi, one) for one in np.eye(8)]
    path = imitation_path(phi @ phi.T, rule)
    assert path.picks[0] == np.argmin(alone)
    np.testing.assert_allclose(
        path.errors[1], min(alone[path.picks[0]], path.errors[0])
    )


@pytest.mark.parametrize("seed", range(10))
def test_the_second_uniform_pick_equals_exhaustive_search(seed):
    phi = random_contributions(seed=seed)
    path = imitation_path(phi @ phi.T, uniform)
    first = np.eye(8)[path.picks[0]]
    errors = [squared_error(phi, (first + second) / 2) for second in np.eye(8)]
    assert path.picks[1] == np.argmin(errors)


def moved(phi, steps, rng):
    """An `Imitation` some random steps on its way, and its weights by definition."""
    imitation, a = MixtureError(phi @ phi.T), np.zeros(len(phi))
    for n in range(steps):
        i, g = int(rng.integers(len(phi))), 1.0 if n == 0 else rng.uniform(0.05, 0.7)
        imitation.move(i, g)
        a = (1 - g) * a + g * np.eye(len(phi))[i]
    return imitation, a


@pytest.mark.parametrize("steps", range(6))
def test_trials_are_the_errors_after_each_step(steps):
    rng = np.random.default_rng(steps)
    phi = random_contributions(seed=steps)
    imitation, a = moved(phi, steps, rng)
    np.testing.assert_allclose(imitation.weights, a, atol=1e-12)
    np.testing.assert_allclose(imitation.error, squared_error(phi, a))
    sizes = rng.uniform(-0.2, 1, 8)
    expected = [
        squared_error(phi, (1 - g) * a + g * one)
        for g, one in zip(sizes, np.eye(8), strict=True)
    ]
    np.testing.assert_allclose(imitation.trials(sizes), expected)


@pytest.mark.parametrize("seed", range(10))
def test_line_search_finds_the_least_error_on_each_way(seed):
    rng, phi = np.random.default_rng(seed), random_contributions(seed=seed)
    imitation, a = moved(phi, 4, rng)
    for i, (g, one) in enumerate(zip(line_search(imitation), np.eye(8), strict=True)):
        least = -a[i] / (1 - a[i])
        found = minimize_scalar(
            lambda g, one=one: squared_error(phi, (1 - g) * a + g * one),
            bounds=(least, 1.0),
            method="bounded",
            options={"xatol": 1e-10},
        )
        np.testing.assert_allclose(g, found.x, atol=1e-5)
        assert least - 1e-12 <= g <= 1


@pytest.mark.parametrize("seed", range(10))
def test_a_line_search_step_is_never_worse_than_a_uniform_one(seed):
    rng, phi = np.random.default_rng(seed), random_contributions(seed=seed)
    for steps in range(1, 10):
        imitation, _ = moved(phi, steps, rng)
        searched = imitation.trials(line_search(imitation)).min()
        assert searched <= imitation.trials(uniform(imitation)).min() + 1e-9
        assert searched <= imitation.error + 1e-9


@pytest.mark.parametrize("part", PARTS)
def test_line_search_never_increases_the_error_on_fifty_layers(part):
    for build, seed in FIFTY[part::5]:
        phi, matrix = exact(observed_layer(build, seed))
        path = imitation_path(matrix, line_search)
        a, before = np.zeros(len(phi)), np.inf
        for pick, size in zip(path.picks, path.sizes, strict=True):
            assert size >= -a[pick] / max(1 - a[pick], 1e-12) - 1e-9
            a = (1 - size) * a + size * np.eye(len(phi))[pick]
            error = squared_error(phi, a)
            assert error <= before * (1 + 1e-9) + 1e-9 * path.errors[0]
            before = error


# --- Whole paths ---------------------------------------------------------------------


def test_uniform_on_a_linear_layer_has_the_closed_form():
    """After n picks without a repeat: N / n of the picked ones for all of them."""
    phi = np.random.default_rng(0).normal(size=(12, 400)) + 0.2
    path = imitation_path(phi @ phi.T, uniform)
    assert path.picks[:6].tolist() == path.order[:6].tolist(), "no repeats"
    for n in range(1, 7):
        picked = np.isin(np.arange(12), path.picks[:n])
        np.testing.assert_allclose(path.mixture(n), picked / n)
        left = 12 / n * phi[picked].sum(axis=0) - phi.sum(axis=0)
        at_most_n = [
            np.square(12 / m * phi[path.picks[:m]].sum(axis=0) - phi.sum(axis=0)).sum()
            for m in range(1, n + 1)
        ]
        np.testing.assert_allclose(at_most_n[-1], (left**2).sum())
        expected = min([(phi.sum(axis=0) ** 2).sum(), *at_most_n])
        np.testing.assert_allclose(path.errors[n], expected)


@pytest.mark.parametrize("seed", range(10))
def test_uniform_gives_each_pick_the_same_weight(seed):
    phi = random_contributions(seed=seed)
    path = imitation_path(phi @ phi.T, uniform)
    for width in range(1, 8):
        picks = path.picks[: path.steps[width]]
        expected = np.bincount(picks, minlength=8) / len(picks)
        np.testing.assert_allclose(path.mixture(width), expected, atol=1e-12)


def test_uniform_picks_a_channel_again_when_that_is_better_than_a_new_one():
    repeats = 0
    for seed in range(20):
        phi = random_contributions(seed=seed)
        picks, *_ = plain_greedy(phi, lambda a, i, n: 1 / (n + 1))
        assert imitation_path(phi @ phi.T, uniform).picks.tolist() == picks
        repeats += len(picks) > len(set(picks))
    assert repeats > 10


def test_repeats_are_limited_so_that_every_path_ends():
    phi = np.concatenate([np.full((1, 3), 1.0), np.full((9, 3), -0.05)])
    phi[0] -= phi.sum(axis=0) - 10 * phi[0]
    for rule in (uniform, line_search):
        path = imitation_path(phi @ phi.T, rule)
        for n in range(1, len(path.picks)):
            picked = set(path.picks[:n])
            if path.picks[n] in picked:
                assert n < STEPS_PER_CHANNEL * len(picked)
        assert sorted(path.order) == list(range(10))


def test_a_weight_is_taken_back_by_a_negative_step_to_exactly_zero():
    back = 0
    for seed in range(200):
        phi = random_contributions(10, seed)
        path = imitation_path(phi @ phi.T, line_search)
        for n in np.flatnonzero(path.sizes < 0):
            a = replay(path, n)
            pick, least = path.picks[n], least_sizes(a)[path.picks[n]]
            assert path.sizes[n] >= least
            if path.sizes[n] == least:
                back += 1
                assert replay(path, n + 1)[pick] == 0
    assert back > 0


def replay(path, steps):
    return mixture(path.picks, path.sizes, len(path.order), steps)


def test_the_least_step_takes_the_weight_back():
    a = np.array([0.0, 0.2, 0.5, 0.3])
    np.testing.assert_allclose(least_sizes(a), [0, -0.25, -1, -3 / 7])


@pytest.mark.parametrize("rule", [uniform, line_search])
def test_errors_never_rise_with_the_width(rule):
    for seed in range(20):
        phi = random_contributions(seed=seed)
        errors = imitation_path(phi @ phi.T, rule).errors
        assert (np.diff(errors) <= 0).all()
        np.testing.assert_allclose(errors[0], (phi.sum(axis=0) ** 2).sum())
        assert errors[-1] == 0


@pytest.mark.parametrize("rule", [uniform, line_search])
@pytest.mark.parametrize(
    "matrix",
    [np.zeros((5, 5)), np.eye(1), np.ones((6, 6)), np.diag([1.0, 0, 0, 2])],
    ids=["nothing", "one channel", "twins", "silent channels"],
)
def test_degenerate_layers_still_give_a_path(matrix, rule):
    path = imitation_path(matrix, rule)
    channels = len(matrix)
    assert sorted(path.order) == list(range(channels))
    assert np.isfinite(path.errors).all()
    assert np.isfinite(path.sizes).all()
    for width in range(channels + 1):
        assert np.isfinite(path.scale(width)).all()
        assert len(path.kept(width)) == width


def test_of_twins_one_stands_for_all():
    for rule in (uniform, line_search):
        errors = imitation_path(np.ones((6, 6)), rule).errors
        np.testing.assert_allclose(errors, [36, 0, 0, 0, 0, 0, 0], atol=1e-9)


@pytest.mark.parametrize("rule", ["uniform", "line_search", "corrective"])
def test_equal_channels_are_added_in_their_order(rule):
    path = STEP_RULES[rule].path([(np.eye(6), np.eye(6))], 6)
    assert path.order.tolist() == list(range(6))


def test_line_search_is_better_than_uniform_in_the_middle_of_the_path():
    """Not at each width of each layer: on the average over random layers."""
    ratios = []
    for seed in range(50):
        phi = random_contributions(12, seed)
        searched, even = (
            imitation_path(phi @ phi.T, rule).errors[4]
            for rule in (line_search, uniform)
        )
        ratios.append(np.log(max(searched, 1e-12) / max(even, 1e-12)))
    assert np.mean(ratios) < 0
