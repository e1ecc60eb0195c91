import keras
import numpy as np
import pytest
from keras import layers
from models import conv, head, image, outputs_of, randomize

from keras_greedy import LossSearch, prune
from keras_greedy.batches import Batches
from keras_greedy.graph.fold import folded
from keras_greedy.graph.model_kinds import check_model
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.methods import OUTPUT_SEARCHES
from keras_greedy.selection.moments import observe
from keras_greedy.selection.output.around import Around
from keras_greedy.selection.output.candidates import EXACT, SMALL_STEPS, Candidates
from keras_greedy.selection.output.look import Look, cached
from keras_greedy.selection.output.search import OutputSelection
from keras_greedy.selection.output.suffix import Suffix
from keras_greedy.selection.path import mixture, move
from keras_greedy.selection.reconstruction import rescaled

# --- Small networks ------------------------------------------------------------------


def two_dense():
    x = layers.Dense(7, activation="relu", name="a")(vector := keras.Input((6,)))
    x = layers.Dense(6, activation="tanh", name="b")(x)
    return keras.Model(vector, layers.Dense(5, activation="softmax")(x))


def behind_flatten():
    x = conv(picture := image(size=4), 6, name="a", activation="relu")
    x = layers.Flatten()(conv(x, 5, name="b", activation="relu", strides=2))
    return keras.Model(picture, layers.Dense(5, activation="softmax")(x))


def a_residual_stream():
    x = conv(picture := image(size=4), 6, name="a", activation="relu")
    x = layers.Add()([x, conv(conv(x, 5, 1, "b", activation="relu"), 6, name="c")])
    return keras.Model(picture, head(layers.ReLU()(x)))


BUILDERS = [two_dense, behind_flatten, a_residual_stream]


class Task:
    """A network, 64 examples of it in two batches, and one of its groups."""

    def __init__(self, build, objective="loss", group="a", examples=64):
        rng = np.random.default_rng(0)
        self.model = randomize(build())
        shape = (examples, *self.model.input_shape[1:])
        self.x = rng.normal(size=shape).astype("float32")
        answers = outputs_of(self.model, self.x)[0].argmax(axis=1)
        wrong = rng.random(examples) < 0.1
        self.y = np.where(wrong, rng.integers(0, 5, examples), answers)
        self.graph = folded(trace_quietly(self.model))
        self.group = next(g for g in self.graph.groups if g.name == group)
        batches = [[x] for x in np.split(self.x, examples // 32)]
        _, self.moments = observe(self.graph, batches)
        data = Batches((self.x, self.y), check_model(self.model))
        self.objective = OUTPUT_SEARCHES[objective]().objective_on(self.model, data)
        self.full = outputs_of(self.model, self.x)[0].astype(float)
        self.kind = objective
        self._copy = keras.models.clone_model(self.model)

    def begin(self, step="uniform", which="all", per_step=1, seed=0):
        search = LossSearch(step, which, per_step)
        return search.begin(self.graph, self.group, self.moments, self.objective, seed)

    def loss(self, weights):
        """Of the whole network made anew with rescaled consumers."""
        self._copy.set_weights(self.model.get_weights())
        scales = self.graph.scales({self.group.name: self.group.size * weights})
        for name, read in consumers_of(self.graph).items():
            if name in [call.name for call in self.group.consumers]:
                scatter = self.moments.scatters[name]
                new = rescaled(read, scatter, scales[read.features])
                self._copy.get_layer(name).set_weights(new)
        p = outputs_of(self._copy, self.x)[0].astype(float)
        if self.kind == "loss":
            return -np.log(p[np.arange(len(p)), self.y]).mean()
        return (self.full * np.log(self.full / p)).sum(axis=1).mean()


def run(selection):
    while not selection.finished:
        selection.advance()
    return selection


def plain_greedy(task):
    """Uniform steps, each candidate evaluated by the whole network."""
    a, picks, one = np.zeros(task.group.size), [], np.eye(task.group.size)
    while len(set(picks)) < len(a):
        g = 1 / (len(picks) + 1)
        repeat = len(picks) < 3 * len(set(picks))
        may = [i for i in range(len(a)) if repeat or i not in picks]
        best = min(may, key=lambda i, a=a, g=g: task.loss((1 - g) * a + g * one[i]))
        a = (1 - g) * a + g * one[best]
        picks.append(best)
    return picks


# --- Picks ---------------------------------------------------------------------------


slow = pytest.mark.slow


@pytest.mark.parametrize("objective", ["loss", pytest.param("divergence", marks=slow)])
@pytest.mark.parametrize("build", BUILDERS)
def test_the_picks_are_those_of_a_plain_loop_over_whole_networks(build, objective):
    task = Task(build, objective)
    selection = run(task.begin())
    picks = plain_greedy(task)
    assert selection.picks == picks
    path = selection.path()
    full = task.loss(np.full(task.group.size, 1 / task.group.size))
    for width in range(task.group.size):
        reached = [max(0, task.loss(path.mixture(w)) - full) for w in range(width + 1)]
        np.testing.assert_allclose(path.errors[width], min(reached), atol=1e-4)


@pytest.mark.parametrize(
    "step, which",
    [
        ("line_search", "screened"),
        ("uniform", 50),
        *(pytest.param("uniform", n, marks=slow) for n in ("all", "screened")),
        *(pytest.param("line_search", n, marks=slow) for n in ("all", 50)),
    ],
)
def test_the_first_pick_equals_exhaustive_search(step, which):
    task = Task(two_dense)
    selection = task.begin(step, which)
    selection.advance()
    alone = [task.loss(one) for one in np.eye(task.group.size)]
    assert selection.picks == [np.argmin(alone)]
    assert (
        selection.weights.tolist() == np.eye(task.group.size)[np.argmin(alone)].tolist()
    )


@pytest.mark.parametrize("group", ["a", pytest.param("b", marks=slow)])
def test_screening_ends_as_low_as_evaluating_all(group):
    def wide():
        x = layers.Dense(24, activation="relu", name="a")(vector := keras.Input((6,)))
        x = layers.Dense(24, activation="relu", name="b")(x)
        return keras.Model(vector, layers.Dense(5, activation="softmax")(x))

    task = Task(wide, group=group)
    losses = {}
    for which in ("all", "screened"):
        selection = task.begin("uniform", which)
        while selection.width < 12:
            selection.advance()
        losses[which] = task.loss(selection.weights)
    nothing = task.loss(np.zeros(24))
    assert losses["all"] < 0.6 * nothing
    assert losses["screened"] - losses["all"] < 0.05 * nothing


@pytest.mark.parametrize(
    "which, objective",
    [
        ("screened", "loss"),
        ("screened", "divergence"),
        *(pytest.param(n, "loss", marks=slow) for n in ("all", 3)),
        *(pytest.param(n, "divergence", marks=slow) for n in ("all", 3)),
    ],
)
def test_line_search_never_raises_the_loss(which, objective):
    """Of few batches each step sees all."""
    task = Task(a_residual_stream, objective)
    selection = task.begin("line_search", which)
    before = task.loss(selection.weights)
    selection.advance()
    assert selection.weights.max() == 1
    before = task.loss(selection.weights)
    while not selection.finished:
        selection.advance()
        after = task.loss(selection.weights)
        assert after <= before + 1e-5
        before = after


def test_line_search_steps_take_back_at_most_the_whole_weight():
    task = Task(two_dense)
    path = run(task.begin("line_search", "all")).path()
    for n, (pick, size) in enumerate(zip(path.picks, path.sizes, strict=True)):
        before = mixture(path.picks, path.sizes, task.group.size, n)
        assert -before[pick] / max(1 - before[pick], 1e-12) - 1e-9 <= size <= 1
    weights = mixture(path.picks, path.sizes, task.group.size, len(path.picks))
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(), 1)


# --- Candidates ----------------------------------------------------------------------


class Watched(Suffix):
    """Notes which steps it evaluates."""

    def trials(self, live, targets, weights, channels, sizes):
        self.seen = [*vars(self).get("seen", []), np.array(channels)]
        return super().trials(live, targets, weights, channels, sizes)


def watched(task, step="uniform", which="all", per_step=1, seed=0):
    suffix = Watched(task.graph, task.group, task.moments, task.objective.loss)
    batches = cached(suffix, task.objective)[:1]
    candidates, rng = Candidates(which, per_step), np.random.default_rng(seed)
    return suffix, OutputSelection(suffix, batches, step, candidates, rng)


def test_so_many_candidates_are_drawn_without_repeats():
    suffix, selection = watched(Task(two_dense), which=3)
    for _ in range(4):
        selection.advance()
    assert [len(set(seen)) for seen in suffix.seen] == [3] * 4
    assert [len(seen) for seen in suffix.seen] == [3] * 4
    assert len({tuple(seen) for seen in suffix.seen}) > 1
    assert all(p in s for p, s in zip(selection.picks, suffix.seen, strict=True))


def test_the_draws_are_a_function_of_the_seed():
    def drawn(seed):
        suffix, selection = watched(Task(two_dense), which=3, seed=seed)
        run(selection)
        return [seen.tolist() for seen in suffix.seen], selection.picks

    assert drawn(0) == drawn(0)
    assert drawn(0)[0] != drawn(1)[0]


def test_more_candidates_than_channels_are_all_of_them():
    suffix, selection = watched(Task(two_dense), which=50)
    selection.advance()
    assert suffix.seen[0].tolist() == list(range(7))


def test_every_channel_is_evaluated_unless_told_otherwise():
    suffix, selection = watched(Task(two_dense), which="all")
    selection.advance()
    selection.advance()
    assert [seen.tolist() for seen in suffix.seen] == [list(range(7))] * 2


def test_screening_evaluates_promising_and_random_channels_and_fewer_as_it_goes():
    predicted = np.random.default_rng(0).permutation(100).astype(float)
    allowed = np.arange(1, 100)

    def chosen(steps, **options):
        candidates, rng = Candidates("screened", **options), np.random.default_rng(1)
        return candidates.chosen(allowed, lambda: predicted, steps, rng)

    counts = [len(chosen(steps)) for steps in (0, 1, 2, 4, 8, 20)]
    assert counts == [64, 64, 32, EXACT, EXACT, EXACT]
    assert len(chosen(20, per_step=12)) == 24
    for steps in (0, 1, 20):
        found = chosen(steps)
        assert len(np.unique(found)) == len(found)
        half = len(found) // 2
        best = np.sort(predicted[allowed])[:half]
        np.testing.assert_array_equal(predicted[found[:half]], best)
        assert (predicted[found[half:]] > best[-1]).all()


def test_small_uniform_steps_go_by_rank_alone():
    predicted = np.random.default_rng(0).permutation(100).astype(float)
    candidates, rng = Candidates("screened"), np.random.default_rng(1)

    def chosen(steps):
        allowed = np.arange(100)
        return candidates.chosen(allowed, lambda: predicted, steps, rng, True)

    assert len(chosen(SMALL_STEPS - 1)) == EXACT
    best = np.argsort(predicted)[: EXACT // 2]
    np.testing.assert_array_equal(chosen(SMALL_STEPS), best)


def looking(task):
    suffix = Suffix(task.graph, task.group, task.moments, task.objective.loss)
    return Look(suffix, cached(suffix, task.objective))


def test_a_race_ends_with_the_losses_on_all_batches_of_the_better_half():
    task = Task(two_dense, examples=128)
    look = looking(task)
    channels, sizes = np.arange(7), np.full(7, 0.5)
    weights = np.eye(7)[3]
    for turn in range(4):
        look.turn_to(turn + 1)
        left, losses = look.race(weights, channels, sizes, finalists=8)
        everywhere = look.trials(weights, channels, sizes)
        np.testing.assert_allclose(losses, everywhere[left], rtol=1e-5)
        first = look.batches[look.number % 4]
        there = look._suffix.trials(*first, weights, channels, sizes)
        assert left.tolist() == np.argsort(there)[:4].tolist()
    left, _ = look.race(weights, channels, sizes, finalists=2)
    assert len(left) == 2


def test_of_one_batch_there_is_no_race():
    task = Task(two_dense, examples=32)
    look = looking(task)
    left, losses = look.race(np.zeros(7), np.arange(7), np.ones(7), finalists=2)
    alone = [task.loss(one) for one in np.eye(7)]
    np.testing.assert_allclose(losses, alone, rtol=1e-4)
    assert left.tolist() == list(range(7))


def test_an_expansion_knows_the_derivatives_of_its_quadratic_everywhere():
    rng = np.random.default_rng(0)
    draws, slopes = rng.normal(size=(20, 5)), rng.normal(size=5)
    here, there = rng.dirichlet(np.ones(5), 2)

    def quadratic(a):
        return slopes @ (a - here) + np.square(draws @ (a - here)).mean() / 2

    found = Around(here, slopes, draws, 20).towards_each(there)
    for i, one in enumerate(np.eye(5)):
        for size in (0.3, -0.1):
            change = quadratic(there + size * (one - there)) - quadratic(there)
            expected = found.at(np.full(5, size))[i]
            np.testing.assert_allclose(change, expected, rtol=1e-9)


class Expanding(Suffix):
    """Counts how often it is asked for derivatives."""

    times = 0

    def slopes(self, *args):
        self.times += 1
        return super().slopes(*args)


def wide_dense():
    x = layers.Dense(60, activation="relu", name="a")(vector := keras.Input((6,)))
    return keras.Model(vector, layers.Dense(5, activation="softmax")(x))


def advanced(steps, step="uniform", which="screened", per_step=1):
    """A selection after some steps, and how many expansions it has made."""
    task = Task(wide_dense)
    suffix = Expanding(task.graph, task.group, task.moments, task.objective.loss)
    batches = cached(suffix, task.objective)
    candidates, rng = Candidates(which, per_step), np.random.default_rng(0)
    selection = OutputSelection(suffix, batches, step, candidates, rng)
    while len(selection.picks) < steps:
        selection.advance()
    return selection, suffix.times // len(batches)


def test_an_expansion_serves_a_sixteenth_of_the_steps_before_it():
    _, until_32 = advanced(33)
    assert until_32 == 32  # The very first step goes by the imitation error.
    _, until_48 = advanced(49)
    assert until_48 == 32 + 8
    _, of_several = advanced(48, per_step=8)
    assert of_several == 5


def test_ranked_steps_are_taken_in_blocks_and_pick_each_channel_once():
    selection, expansions = advanced(48, which="ranked")
    assert len(set(selection.picks)) == len(selection.picks)
    # One by one to 16, then 2, 2, 2, 2, 3, 3, 3, 4, 4, 5 and 5.
    assert expansions == 15 + 11
    assert len(selection.path().errors) == 61


def test_a_ranked_block_goes_by_the_expansion_at_each_of_its_steps():
    selection, _ = advanced(18, which="ranked")
    weights, picks = selection.weights.copy(), list(selection.picks)
    selection.advance()
    for n in (18, 19):
        fresh = np.setdiff1d(np.flatnonzero(selection.suffix.is_read), picks)
        towards = selection._around.towards_each(weights)
        expected = fresh[towards.at(np.full(60, 1 / (n + 1)))[fresh].argmin()]
        assert selection.picks[n] == expected
        picks.append(expected)
        move(weights, expected, 1 / (n + 1))
    np.testing.assert_allclose(weights, selection.weights)


def test_a_ranked_selection_ends_with_all_channels():
    selection, _ = advanced(60, which="ranked")
    assert selection.finished
    assert selection.width == 60


def test_ranked_steps_of_a_chosen_size_are_refused():
    with pytest.raises(ValueError, match=r"step='uniform'.*Received: step='line"):
        LossSearch("line_search", "ranked")


@pytest.mark.parametrize("which", ["screened", "ranked"])
@pytest.mark.parametrize("steps", [31, 33, 34, 50])
def test_a_selection_goes_on_alike_with_an_expansion_under_way(steps, which):
    whole, _ = advanced(steps, which=which)
    state = whole.state()
    other, _ = advanced(0, which=which)
    other.restore(state)
    for _ in range(8):
        whole.advance()
        other.advance()
    assert other.picks == whole.picks
    assert other._errors == whole._errors
    np.testing.assert_equal(other.state(), whole.state())


@pytest.mark.parametrize("step", ["uniform", "line_search"])
@pytest.mark.parametrize("per_step", [2, 3])
def test_a_step_adds_as_many_channels_as_told(step, per_step):
    task = Task(two_dense)
    selection = task.begin(step, "all", per_step)
    for steps in range(1, 3):
        selection.advance()
        assert len(selection.picks) == steps * per_step
        assert len(set(selection.picks[-per_step:])) == per_step
    np.testing.assert_allclose(selection.weights.sum(), 1)
    path = run(selection).path()
    assert sorted(path.order) == list(range(7))
    assert (np.diff(path.errors) <= 0).all()


def test_the_channels_of_one_step_are_the_best_of_it():
    task = Task(two_dense)
    selection = task.begin("uniform", "all", 3)
    selection.advance()
    alone = [task.loss(one) for one in np.eye(7)]
    assert selection.picks == np.argsort(alone)[:3].tolist()
    assert np.flatnonzero(selection.weights).tolist() == sorted(selection.picks)
    np.testing.assert_allclose(selection.weights[selection.picks], 1 / 3)


def test_more_channels_per_step_than_there_are_are_all_of_them():
    selection = Task(two_dense).begin("uniform", "all", 100)
    selection.advance()
    assert sorted(selection.picks) == list(range(7))


@pytest.mark.parametrize("which", ["some", "", 0, -1, 2.0, True, None])
def test_candidates_that_are_none_name_what_came(which):
    with pytest.raises(ValueError, match=r"`candidates`.*candidates=") as error:
        Candidates(which)
    assert repr(which) in str(error.value)


@pytest.mark.parametrize("per_step", [0, -3, 1.5, True, None, "2"])
def test_channels_per_step_that_are_none_name_what_came(per_step):
    with pytest.raises(ValueError, match="`channels_per_step`") as error:
        Candidates("all", per_step)
    assert f"channels_per_step={per_step!r}" in str(error.value)


def test_numpy_integers_are_numbers_of_candidates():
    assert Candidates(np.int64(5), np.int32(2)).which == 5


# --- The course of a search ----------------------------------------------------------


def test_a_channel_that_was_never_picked_has_no_weight():
    selection = Task(two_dense).begin("uniform", "all")
    for _ in range(4):
        selection.advance()
    assert selection.width == len(set(selection.picks))
    assert sorted([*selection.fresh, *set(selection.picks)]) == list(range(7))
    assert (selection.weights[selection.fresh] == 0).all()
    path = selection.path()
    assert set(path.order[selection.width :]) == set(selection.fresh)


def test_the_expansion_is_along_the_steps():
    """Slopes against the change of the loss a small step makes."""
    task = Task(two_dense)
    selection = task.begin("line_search", "all")
    selection.weights[:] = np.arange(7) / 21
    slopes, curvatures = selection.expansion()
    a, one = selection.weights, np.eye(7)
    for i in range(7):
        rise = task.loss(a + 1e-2 * (one[i] - a)) - task.loss(a - 1e-2 * (one[i] - a))
        np.testing.assert_allclose(slopes[i], rise / 2e-2, rtol=0.02, atol=2e-3)
    assert (curvatures >= 0).all()


@pytest.mark.parametrize("step", ["uniform", "line_search"])
def test_each_function_of_the_network_is_traced_once(step):
    task, traces = Task(two_dense), []

    class Counted:
        examples = task.objective.examples

        def loss(self, outputs, targets):
            traces.append(1)
            return task.objective.loss(outputs, targets)

    search = LossSearch(step, "screened")
    selection = search.begin(task.graph, task.group, task.moments, Counted(), seed=0)
    for _ in range(2):
        selection.advance()
    early = len(traces)
    run(selection).path()
    assert len(traces) == early
    assert early == 3, "the loss, the trials and the slopes"


def test_each_step_looks_at_the_next_four_batches():
    task = Task(two_dense, examples=192)
    suffix = Watched(task.graph, task.group, task.moments, task.objective.loss)
    batches = cached(suffix, task.objective)
    assert len(batches) == 6
    looked = []

    class Noting(Watched):
        def trials(self, live, targets, *step):
            places = [i for i, (_, t) in enumerate(batches) if t[0] is targets[0]]
            looked.extend(places)
            return super().trials(live, targets, *step)

    suffix = Noting(task.graph, task.group, task.moments, task.objective.loss)
    rng = np.random.default_rng(0)
    selection = OutputSelection(suffix, batches, "uniform", Candidates("all"), rng)
    for _ in range(3):
        selection.advance()
    assert all(len(set(looked[i : i + 4])) == 4 for i in (0, 4, 8))
    assert set(looked) == set(range(6))


def test_the_whole_search_is_a_function_of_the_seed():
    def found(seed):
        return run(Task(two_dense).begin("line_search", 3, 1, seed)).path()

    one, same, other = found(0), found(0), found(1)
    for field in ("order", "errors", "picks", "sizes", "steps"):
        np.testing.assert_array_equal(getattr(one, field), getattr(same, field))
    assert one.picks.tolist() != other.picks.tolist()


def test_a_group_of_one_channel_has_a_path():
    def narrow():
        x = layers.Dense(1, activation="relu", name="a")(vector := keras.Input((6,)))
        return keras.Model(vector, layers.Dense(5, activation="softmax")(x))

    for step in ("uniform", "line_search"):
        path = run(Task(narrow).begin(step, "screened")).path()
        assert path.order.tolist() == [0]
        assert path.scale(1).tolist() == [1]
        assert path.errors[-1] == 0


# --- Weights of the examples ---------------------------------------------------------

VECTORS = np.random.default_rng(5).normal(size=(64, 6)).astype("float32")
OF_FOUR = np.random.default_rng(6).integers(0, 4, 64)


def of_vectors(**compiled):
    x = keras.Input((6,))
    h = keras.layers.Dense(24, activation="relu")(x)
    model = keras.Model(x, keras.layers.Dense(4, activation="softmax")(h))
    model.compile("sgd", "sparse_categorical_crossentropy", **compiled)
    return model


@pytest.mark.parametrize("step", ["uniform", "line_search"])
def test_equal_weights_change_nothing_and_others_favour_their_examples(step):
    model = of_vectors()
    is_first = OF_FOUR == 0

    def loss_of_first(*weights):
        data = (VECTORS, OF_FOUR, *weights)
        method = LossSearch(step, "all")
        compact = prune(model, data, 0.4, method=method, verbose=0)
        answers = compact.predict(VECTORS, verbose=0)[is_first, 0]
        return -np.log(answers).mean()

    plain = loss_of_first()
    assert loss_of_first(np.full(64, 3.0)) == pytest.approx(plain, rel=1e-5)
    assert loss_of_first(np.full((64, 1), 3)) == pytest.approx(plain, rel=1e-5)
    weighed = loss_of_first(np.where(is_first, 1000.0, 0.0))
    assert weighed < plain


def test_examples_without_weight_do_not_count():
    model = of_vectors()
    others = (OF_FOUR + np.arange(64) % 4) % 4
    weights = np.repeat([1.0, 0.0], 32)

    def pruned(labels, **options):
        settings = {"objective": "loss", "step": "uniform", "verbose": 0}
        data = (VECTORS, labels, weights)
        return prune(model, data, **settings, **options).get_weights()

    labels = np.concatenate([OF_FOUR[:32], others[32:]])
    for options in ({"budget": 0.4}, {"tolerance": 0.2}):
        pairs = zip(pruned(OF_FOUR, **options), pruned(labels, **options), strict=True)
        for one, two in pairs:
            np.testing.assert_array_equal(one, two)


def test_each_output_may_have_weights_of_its_own():
    x = keras.Input((6,))
    h = keras.layers.Dense(16, activation="relu")(x)
    heads = {name: keras.layers.Dense(2, name=name)(h) for name in ("one", "two")}
    model = keras.Model(x, heads)
    model.compile("sgd", "mse")
    labels = {"one": VECTORS[:, :2], "two": VECTORS[:, 2:4]}
    weights = {"one": np.ones(64), "two": np.zeros(64)}
    batches = Batches((VECTORS, labels, weights), model)
    objective = LossSearch().objective_on(model, batches)
    (inputs, targets), *_ = objective.examples()
    outputs = [model(inputs[0])[name] for name in ("one", "two")]
    tensors = [keras.ops.convert_to_tensor(target) for target in targets]
    # The mean of all weights is 1.
    expected = 2 * np.square(outputs[0] - targets[0]).mean(axis=1)
    np.testing.assert_allclose(objective.loss(outputs, tensors), expected, rtol=1e-5)


def test_weights_that_are_all_0_are_an_error_before_long_work():
    data = (VECTORS, OF_FOUR, np.zeros(64))
    with pytest.raises(ValueError, match="not all 0"):
        prune(of_vectors(), data, 0.5, objective="loss", step="uniform")


def test_labels_out_of_range_are_an_error_before_long_work(capsys):
    data = (VECTORS, OF_FOUR + 9)
    with pytest.raises(ValueError, match=r"labels of `data`.*4 classes"):
        prune(of_vectors(), data, 0.5, objective="loss", step="uniform")
    assert not capsys.readouterr().out
