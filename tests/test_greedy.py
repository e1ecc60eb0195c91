import numpy as np
import pytest

from keras_greedy.selection.moments import corrective, gram
from keras_greedy.selection.moments.corrective import BLOCK, Problem, forward_path
from keras_greedy.selection.moments.gram import FactoredGram, WholeGram, gram_of


def samples(rows, features, seed):
    """Correlated rows of unequal variances, with mean 0."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, features)) @ rng.normal(size=(features, features))
    mixed *= rng.uniform(0.2, 3, features)
    return mixed - mixed.mean(axis=0)


def left_over(x, w, kept):
    """Mean squared error of the best weights on the kept features."""
    target = x @ w
    if not len(kept):
        return (target**2).sum() / len(x)
    best = np.linalg.lstsq(x[:, kept], target, rcond=None)[0]
    return ((target - x[:, kept] @ best) ** 2).sum() / len(x)


def plain_greedy(consumers, channels):
    """The definition: try every channel, keep the one that leaves the least error."""

    def error(chosen):
        return sum(
            left_over(x, w, np.flatnonzero(np.isin(owner(x, channels), chosen)))
            for x, w in consumers
        )

    order, errors = [], [error([])]
    while len(order) < channels:
        left = [c for c in range(channels) if c not in order]
        trials = [error([*order, c]) for c in left]
        order.append(left[int(np.argmin(trials))])
        errors.append(min(trials))
    return order, errors


def owner(x, channels):
    return np.arange(x.shape[1]) // (x.shape[1] // channels)


def problem(x, w, channels):
    return Problem(x.T @ x / len(x), w, channels)


def random_consumer(channels, width, outputs, seed):
    x = samples(20 * channels * width, channels * width, seed)
    return x, np.random.default_rng(seed + 1).normal(size=(x.shape[1], outputs))


def assert_as_plain_greedy(consumers, channels):
    path = forward_path([problem(x, w, channels) for x, w in consumers])
    order, errors = plain_greedy(consumers, channels)
    assert path.order.tolist() == order
    np.testing.assert_allclose(path.errors, errors, rtol=1e-7, atol=1e-9 * errors[0])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("outputs", [1, 4, 30])
def test_the_path_is_the_plain_greedy_for_one_consumer(outputs, seed):
    assert_as_plain_greedy([random_consumer(9, 1, outputs, seed)], 9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("width", [2, 4, 9])
def test_the_path_is_the_plain_greedy_for_patches(width, seed):
    assert_as_plain_greedy([random_consumer(6, width, 5, seed)], 6)


def test_the_path_is_the_plain_greedy_for_the_sum_of_several_consumers():
    consumers = [random_consumer(7, width, 3, seed=width) for width in (1, 4, 1)]
    assert_as_plain_greedy(consumers, 7)


@pytest.mark.parametrize("channels, width", [(BLOCK + 12, 1), (20, 4), (3, BLOCK)])
def test_pending_updates_are_applied_when_a_block_is_full(channels, width):
    x, w = random_consumer(channels, width, 3, seed=8)
    path = forward_path([problem(x, w, channels)])
    features = np.arange(channels * width).reshape(channels, width)
    expected = [
        left_over(x, w, features[path.order[:n]].ravel()) for n in range(channels + 1)
    ]
    np.testing.assert_allclose(path.errors, expected, atol=1e-7 * expected[0])
    for n in (0, channels // 2, channels - 2):
        rest = path.order[n:]
        trials = [left_over(x, w, features[[*path.order[:n], c]].ravel()) for c in rest]
        assert np.argmin(trials) == 0, "another channel would have left less error"


@pytest.mark.parametrize("form", [WholeGram, FactoredGram])
@pytest.mark.parametrize("channels, width", [(300, 1), (70, 4)])
def test_tiles_and_factors_change_nothing(channels, width, form, monkeypatch):
    x, w = random_consumer(channels, width, 20, seed=5)
    monkeypatch.setattr(
        corrective, "gram_of", lambda factor, width, waiting: form(factor, waiting)
    )
    monkeypatch.setattr(gram, "TILE", 50)
    found = forward_path([problem(x, w, channels)])
    monkeypatch.setattr(
        corrective, "gram_of", lambda factor, width, waiting: WholeGram(factor, waiting)
    )
    monkeypatch.setattr(gram, "TILE", channels * width)
    monkeypatch.setattr(corrective, "FEW_GONE", 1)
    whole = forward_path([problem(x, w, channels)])
    assert found.order.tolist() == whole.order.tolist()
    np.testing.assert_allclose(found.errors, whole.errors, atol=1e-9 * whole.errors[0])


@pytest.mark.parametrize(
    "features, columns, width, form",
    [
        (2304, 256, 9, FactoredGram),
        (2048, 10, 1, FactoredGram),
        (2048, 512, 1, WholeGram),
        (144, 144, 9, WholeGram),
    ],
)
def test_many_taps_or_few_outputs_are_kept_as_a_factor(features, columns, width, form):
    assert type(gram_of(np.zeros((features, columns)), width, BLOCK)) is form


def test_many_more_outputs_than_features_cost_no_more_and_change_nothing():
    x, w = random_consumer(8, 1, 500, seed=3)
    narrow = np.linalg.cholesky(w @ w.T)
    wide, same = (forward_path([problem(x, m, 8)]) for m in (w, narrow))
    assert wide.order.tolist() == same.order.tolist()
    np.testing.assert_allclose(wide.errors, same.errors, atol=1e-9 * wide.errors[0])


def test_the_error_falls_from_that_of_nothing_to_zero():
    x, w = random_consumer(60, 1, 10, seed=0)
    errors = forward_path([problem(x, w, 60)]).errors
    np.testing.assert_allclose(errors[0], ((x @ w) ** 2).sum() / len(x))
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 1e-9 * errors[0]


def test_every_channel_is_added_once():
    x, w = random_consumer(100, 1, 3, seed=0)
    order = forward_path([problem(x, w, 100)]).order
    assert sorted(order) == list(range(100))


def test_a_channel_that_another_one_repeats_comes_last():
    x, w = random_consumer(6, 1, 4, seed=1)
    x[:, 5] = 2 * x[:, 0] - x[:, 3]
    covariance = x.T @ x / len(x) + 1e-9 * np.eye(6)
    path = forward_path([Problem(covariance, w, 6)])
    assert path.order[-1] in (0, 3, 5)
    assert path.errors[-2] < 1e-6 * path.errors[0]


def test_a_channel_that_no_weight_reads_helps_only_by_its_correlation():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(4000, 5)), rng.normal(size=(5, 3))
    w[2] = 0
    assert forward_path([problem(x - x.mean(axis=0), w, 5)]).order[-1] == 2


def test_equal_channels_are_added_in_their_order():
    path = forward_path([Problem(np.eye(6), np.ones((6, 2)), 6)])
    assert path.order.tolist() == list(range(6))


def test_the_covariance_and_the_weights_given_stay_as_they_are():
    x, w = random_consumer(60, 1, 3, seed=0)
    covariance, weights = x.T @ x / len(x), w.copy()
    before = covariance.copy()
    forward_path([Problem(covariance, weights, 60)])
    np.testing.assert_array_equal(covariance, before)
    np.testing.assert_array_equal(weights, w)


@pytest.mark.slow
def test_2048_channels_take_seconds():
    import time

    rng = np.random.default_rng(0)
    x = rng.normal(size=(4096, 2048)) @ np.diag(rng.uniform(0.1, 2, 2048))
    big = problem(x, rng.normal(size=(2048, 256)), 2048)
    start = time.perf_counter()
    path = forward_path([big])
    assert time.perf_counter() - start < 60
    assert path.errors[-1] < 1e-9 * path.errors[0]
