import keras
import numpy as np
import pytest
from keras import layers
from models import randomize

import keras_greedy
from keras_greedy.selection.path import (
    MixturePath,
    SelectionPath,
    mixture,
    mixture_path,
    move,
)


def replayed(picks, sizes, channels):
    """The weights after each step, by the definition, from the empty mixture on."""
    states = [np.zeros(channels)]
    for pick, size in zip(picks, sizes, strict=True):
        states.append((1 - size) * states[-1] + size * np.eye(channels)[pick])
    return np.array(states)


def random_steps(channels, seed):
    """Steps with repeats; some take a weight back as a whole, some a part of it."""
    rng = np.random.default_rng(seed)
    fresh, weights = set(range(channels)), np.zeros(channels)
    picks, sizes, errors = [], [], [10.0]
    while fresh:
        pick = int(rng.integers(channels))
        size = 1.0 if not picks else rng.uniform(0.05, 0.6)
        if 1e-9 < weights[pick] < 0.9 and rng.random() < 0.6:
            size = -weights[pick] / (1 - weights[pick]) * rng.choice([1.0, 0.5])
        weights = (1 - size) * weights + size * np.eye(channels)[pick]
        picks.append(pick)
        sizes.append(size)
        errors.append(errors[-1] * rng.uniform(0.7, 1.05))
        fresh.discard(pick)
    return picks, sizes, errors


def used_by(states):
    return (np.abs(states) > 1e-12).sum(axis=1)


SEEDS = range(20)


def test_the_random_steps_take_weights_back_and_fill_widths():
    back = filled = 0
    for seed in SEEDS:
        picks, sizes, errors = random_steps(7, seed)
        used = used_by(replayed(picks, sizes, 7))
        back += (np.diff(used) < 0).any()
        path = mixture_path(picks, sizes, errors, 7)
        filled += any(used[path.steps[width]] < width for width in range(8))
    assert min(back, filled) > len(SEEDS) / 2


@pytest.mark.parametrize("seed", SEEDS)
def test_the_scale_is_that_of_the_last_mixture_of_at_most_so_many_channels(seed):
    picks, sizes, errors = random_steps(7, seed)
    path = mixture_path(picks, sizes, errors, 7)
    states = replayed(picks, sizes, 7)
    for width in range(7):
        last = max(t for t, used in enumerate(used_by(states)) if used <= width)
        assert path.steps[width] == last
        np.testing.assert_allclose(path.mixture(width), states[last], atol=1e-12)
        np.testing.assert_allclose(path.scale(width), 7 * states[last], atol=1e-11)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_kept_is_as_many_as_the_width_and_all_that_is_scaled(seed):
    picks, sizes, errors = random_steps(7, seed)
    path = mixture_path(picks, sizes, errors, 7)
    for width in range(8):
        kept, used = path.kept(width), np.flatnonzero(path.scale(width))
        assert len(kept) == width
        assert (np.diff(kept) > 0).all()
        if width < 7:
            assert set(used) <= set(kept)
            unused = [c for c in path.order if c not in used]
            assert set(kept) == {*used, *unused[: width - len(used)]}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_error_is_the_least_of_the_mixtures_of_all_widths_up_to_it(seed):
    picks, sizes, errors = random_steps(7, seed)
    path = mixture_path(picks, sizes, errors, 7)
    used = used_by(replayed(picks, sizes, 7))
    last = [max(t for t, u in enumerate(used) if u <= w) for w in range(7)]
    expected = [min(errors[last[w]] for w in range(width + 1)) for width in range(7)]
    assert path.errors.tolist() == [*expected, 0.0]
    assert (np.diff(path.errors) <= 0).all()


def test_uniform_steps_scale_all_that_is_kept_alike():
    order = [3, 0, 4, 1, 2]
    sizes = [1 / n for n in range(1, 6)]
    path = mixture_path(order, sizes, range(5, -1, -1), 5)
    assert path.order.tolist() == order
    for width in range(1, 6):
        expected = np.zeros(5)
        expected[order[:width]] = 5 / width
        np.testing.assert_allclose(path.scale(width), expected)
        np.testing.assert_array_equal(path.kept(width), sorted(order[:width]))
    assert path.scale(0).tolist() == [0] * 5
    assert not len(path.kept(0))


def test_at_full_width_each_channel_is_as_in_the_full_layer():
    path = mixture_path([0, 1, 0, 2], [1.0, 0.5, 0.3, 0.1], [4, 3, 2, 1, 0.5], 3)
    assert path.scale(3).tolist() == [1, 1, 1]
    assert path.kept(3).tolist() == [0, 1, 2]
    assert path.errors[-1] == 0
    assert not np.allclose(3 * path.mixture(3), 1)


def test_the_order_is_that_of_the_first_picks():
    path = mixture_path(
        [2, 0, 2, 2, 1], [1.0, 0.2, 0.1, 0.1, 0.1], [6, 5, 4, 3, 2, 1], 3
    )
    assert path.order.tolist() == [2, 0, 1]
    assert path.steps.tolist() == [0, 1, 4, 5]


def test_a_repeated_pick_grows_the_weight_within_the_same_width():
    path = mixture_path([2, 0, 2], [1.0, 0.5, 0.5], [4, 3, 2, 1], 4)
    np.testing.assert_allclose(path.scale(2), [1, 0, 3, 0])
    np.testing.assert_allclose(path.scale(1), [0, 0, 4, 0])


@pytest.mark.parametrize("weight", np.random.default_rng(0).uniform(0.01, 0.99, 50))
def test_a_weight_that_is_taken_back_is_exactly_zero(weight):
    weights = np.array([weight, (1 - weight) / 3, 2 * (1 - weight) / 3])
    move(weights, 0, -weight / (1 - weight))
    assert weights[0] == 0
    np.testing.assert_allclose(weights[1:], [1 / 3, 2 / 3])


def test_a_channel_taken_back_makes_room_for_another():
    picks, sizes = [0, 1, 0, 2], [1.0, 0.5, -1.0, 0.25]
    path = mixture_path(picks, sizes, [8, 4, 3, 2, 1], 3)
    assert path.kept(1).tolist() == [1]
    np.testing.assert_allclose(path.scale(1), [0, 3, 0])
    assert path.kept(2).tolist() == [1, 2]
    np.testing.assert_allclose(path.scale(2), [0, 2.25, 0.75])


def test_a_width_that_is_not_used_up_is_filled_in_the_order_of_picks():
    picks, sizes = [3, 1, 3, 0, 2], [1.0, 0.5, -1.0, 0.0, 0.0]
    path = mixture_path(picks, sizes, [9, 5, 4, 3, 3, 3], 4)
    assert path.kept(1).tolist() == [1]
    assert path.kept(2).tolist() == [1, 3]
    assert path.kept(3).tolist() == [0, 1, 3]
    np.testing.assert_allclose(path.scale(3), [0, 4, 0, 0])


def test_a_path_that_was_stopped_keeps_its_last_mixture_at_every_width_beyond():
    path = mixture_path([4, 2], [1.0, 0.5], [3, 2, 1], 5)
    assert path.order.tolist() == [4, 2, 0, 1, 3]
    assert path.kept(4).tolist() == [0, 1, 2, 4]
    np.testing.assert_allclose(path.scale(4), [0, 0, 2.5, 0, 2.5])
    assert path.scale(5).tolist() == [1] * 5
    assert path.errors.tolist() == [3, 2, 1, 1, 1, 0]


def test_a_path_without_a_step_keeps_channels_in_their_order():
    path = mixture_path([], [], [2.0], 3)
    assert path.kept(2).tolist() == [0, 1]
    assert path.scale(2).tolist() == [0, 0, 0]
    assert path.errors.tolist() == [2, 2, 2, 0]


def test_the_mixture_after_some_steps_sums_to_one():
    picks, sizes, _ = random_steps(6, 0)
    states = replayed(picks, sizes, 6)
    for steps in range(1, len(picks) + 1):
        weights = mixture(picks, sizes, 6, steps)
        np.testing.assert_allclose(weights, states[steps], atol=1e-12)
        np.testing.assert_allclose(weights.sum(), 1)
        assert weights.min() >= 0


def test_a_plain_path_keeps_the_first_of_its_order_as_they_are():
    path = SelectionPath(np.array([2, 0, 3, 1]), np.array([4.0, 3, 2, 1, 0]))
    assert path.kept(3).tolist() == [0, 2, 3]
    assert path.scale(3).tolist() == [1, 0, 1, 1]
    assert path.scale(0).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("step", ["uniform", "line_search"])
def test_a_saved_path_keeps_its_mixtures(step, tmp_path):
    x = layers.Dense(12, activation="relu", name="a")(vector := keras.Input((6,)))
    x = layers.Dense(10, activation="relu", name="b")(x)
    model = randomize(keras.Model(vector, layers.Dense(3, activation="softmax")(x)))
    data = np.random.default_rng(0).normal(size=(60, 6)).astype("float32")
    found = keras_greedy.search(model, data, objective="local", step=step, verbose=0)
    found.save(tmp_path / "paths.npz")
    loaded = keras_greedy.load_paths(tmp_path / "paths.npz", model)
    assert loaded.step == step
    for name, path in found.paths.items():
        same = loaded.paths[name]
        assert type(same) is MixturePath
        for field, value in vars(path).items():
            np.testing.assert_array_equal(getattr(same, field), value)
        for width in range(len(path.order) + 1):
            np.testing.assert_array_equal(same.kept(width), path.kept(width))
            np.testing.assert_array_equal(same.scale(width), path.scale(width))
    compact, again = (p.compact(0.7, data) for p in (found, loaded))
    for one, two in zip(compact.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_saved_path_of_the_corrective_rule_stays_a_plain_one(tmp_path):
    x = layers.Dense(12, activation="relu", name="a")(vector := keras.Input((6,)))
    model = randomize(keras.Model(vector, layers.Dense(3, activation="softmax")(x)))
    data = np.random.default_rng(0).normal(size=(60, 6)).astype("float32")
    keras_greedy.search(model, data, verbose=0).save(tmp_path / "paths.npz")
    loaded = keras_greedy.load_paths(tmp_path / "paths.npz", model)
    assert {type(path) for path in loaded.paths.values()} == {SelectionPath}
