"""Examples held apart, and the weights that are best on them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import outputs_of, randomize

import keras_greedy
from keras_greedy import FineTune
from keras_greedy.batches import Batches
from keras_greedy.graph.outputs import Output
from keras_greedy.training.amounts import epochs_for
from keras_greedy.training.held import _spread

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(200, 6)).astype("float32")
LABELS = np.arange(200)


def network():
    x = keras.Input((6,))
    h = layers.Dense(16, activation="relu")(layers.Dense(16, activation="relu")(x))
    return randomize(keras.Model(x, layers.Dense(3, activation="softmax")(h)))


def linear(features=6):
    x = keras.Input((features,))
    return keras.Model(x, layers.Dense(2)(x))


def damaged(model):
    student = keras.models.clone_model(model)
    student.set_weights([w / 2 for w in model.get_weights()])
    return student


def rows(batches):
    return {row.tobytes() for (array,) in batches for row in array}


ALL = {row.tobytes() for row in VECTORS}


class Shuffled:
    """Gives its examples in another order each time."""

    def __iter__(self):
        order = RNG.permutation(200)
        for start in range(0, 200, 25):
            own = order[start : start + 25]
            yield VECTORS[own], LABELS[own]


FORMS = {
    "array": VECTORS,
    "x and y": (VECTORS, LABELS),
    "dict": {"z": VECTORS},
    "batches": np.split(VECTORS, 8),
    "dataset": tf.data.Dataset.from_tensor_slices((VECTORS, LABELS)).batch(32),
    "shuffled": Shuffled(),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_examples_are_held_apart_in_each_pass(form):
    x = keras.Input((6,), name="z")
    batches = Batches(FORMS[form], keras.Model(x, layers.Dense(2)(x)))
    rest, held = batches.held_apart()
    first, again = rows(held), rows(held)
    assert first == again
    assert 8 <= len(first) <= 50, "about an eighth"
    assert rows(rest) == ALL - first


@pytest.mark.parametrize("form", FORMS)
def test_of_what_a_part_leaves_others_are_held_apart(form):
    x = keras.Input((6,), name="z")
    rest, _ = Batches(FORMS[form], keras.Model(x, layers.Dense(2)(x))).held_apart()
    own_rest, own_held = rest.held_apart()
    assert len(rows(own_held)) >= 8
    assert rows(own_rest) == rows(rest) - rows(own_held)


def test_parts_keep_the_labels_of_their_examples():
    model = linear()
    for data in ((VECTORS, LABELS), Shuffled()):
        for part in Batches(data, model).held_apart():
            for (x,), (y,) in part.labelled().pairs():
                np.testing.assert_array_equal(x, VECTORS[y])


def test_two_copies_of_an_example_are_in_the_same_part():
    model = linear()
    rest, held = Batches(np.concatenate([VECTORS] * 2), model).held_apart()
    assert not rows(rest) & rows(held)


@pytest.mark.parametrize("data", [VECTORS[:63], np.ones((100, 6), "float32")])
def test_too_few_examples_or_copies_of_one_are_not_parted(data):
    model = linear()
    assert Batches(data, model).held_apart() is None


def test_of_many_examples_about_a_thousand_are_held_apart():
    many = np.random.default_rng(1).normal(size=(40_000, 2)).astype("float32")
    model = linear(2)
    rest, held = Batches(many, model).held_apart()
    assert 900 < held.examples() < 1200
    assert rest.examples() + held.examples() == 40_000


def divergence(model, compact, data):
    pair = [outputs_of(each, data)[0] for each in (model, compact)]
    return float(np.mean(Output("categorical").divergence(*pair)))


@pytest.mark.parametrize("distill", [True, False])
def test_a_training_that_makes_it_worse_leaves_the_model_as_pruned(distill):
    model = network()
    student = damaged(model)
    before = student.get_weights()
    labels = model.predict(VECTORS, verbose=0).argmax(axis=-1)
    tune = FineTune(2, keras.optimizers.SGD(1000.0), distill=distill)
    with pytest.warns(UserWarning, match="No epoch.*left as it was"):
        history = tune.apply(student, model, (VECTORS, labels), verbose=0)
    for weight, old in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    name = "val_divergence" if distill else "val_loss"
    assert len(history.history[name]) == 2


def test_the_best_epoch_is_kept():
    model = network()
    student = damaged(model)

    class TooFar(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                student.set_weights([5 * w for w in student.get_weights()])

    tune = FineTune(3, keras.optimizers.Adam(1e-2), distill=True, callbacks=TooFar())
    held = VECTORS[:50]
    history = tune.apply(student, model, VECTORS, validation_data=held, verbose=0)
    seen = history.history["val_divergence"]
    assert seen[1] < seen[2]
    reached = divergence(model, student, held)
    np.testing.assert_allclose(reached, min(seen), rtol=1e-4)


def test_what_was_reached_is_said(capsys):
    model = network()
    FineTune(3, "adam", distill=True).apply(damaged(model), model, VECTORS, verbose=2)
    out = capsys.readouterr().out
    assert "val_divergence:" in out
    assert "On the examples that judge it: divergence" in out


def test_the_search_does_not_see_the_examples_held_apart(monkeypatch):
    model = network()
    seen = []
    observe = keras_greedy.stages.observe

    def watched(graph, batches, *others):
        read = list(batches)
        seen.extend(rows(read))
        return observe(graph, read, *others)

    monkeypatch.setattr(keras_greedy.stages, "observe", watched)
    tune = FineTune(1, distill=True)
    keras_greedy.prune(model, VECTORS, 0.6, finetune=tune, verbose=0)
    _, held = Batches(VECTORS, model).held_apart()
    assert rows(held)
    assert seen
    assert not rows(held) & set(seen)


@pytest.mark.parametrize("labels", [True, False])
def test_true_trains_as_the_full_model_computes_then_on_labels(labels, monkeypatch):
    model = network()
    model.compile("adam", "sparse_categorical_crossentropy")
    applied = []
    apply = FineTune.apply

    def watched(self, *args, **fit):
        applied.append(self)
        return apply(self, *args, **fit)

    monkeypatch.setattr(FineTune, "apply", watched)
    monkeypatch.setattr("keras_greedy.training.finetune.epochs_for", lambda n: 2)
    data = (VECTORS, LABELS % 3) if labels else VECTORS
    compact = keras_greedy.prune(model, data, 0.6, finetune=True, verbose=0)
    expected = [FineTune(distill=True), FineTune()]
    assert applied == expected[: 1 + labels]
    assert compact.loss == "sparse_categorical_crossentropy"


@pytest.mark.parametrize("finetune", [1, "yes", [FineTune()]])
def test_what_is_no_fine_tuning_is_an_error(finetune):
    with pytest.raises(ValueError, match="Expected `finetune` to be a"):
        keras_greedy.prune(network(), VECTORS, finetune=finetune)


def test_fewer_examples_are_passed_more_often():
    counts = [epochs_for(n) for n in (1, 200, 1_000, 10_000, 100_000, 10_000_000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 1


@pytest.mark.parametrize("form", ["array", "batches of 25"])
def test_the_learning_rate_falls_over_all_steps_that_fit_makes(form):
    model = network()
    model.compile(keras.optimizers.SGD(0.125), "sparse_categorical_crossentropy")
    labels = model.predict(VECTORS, verbose=0).argmax(axis=-1)
    rates = []

    class Rates(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    data = (VECTORS, labels)
    if form == "batches of 25":
        data = [(VECTORS[i : i + 25], labels[i : i + 25]) for i in range(0, 200, 25)]
    FineTune(4, callbacks=Rates()).apply(
        damaged(model), model, data, validation_data=(VECTORS, labels), verbose=0
    )
    assert max(rates) == pytest.approx(0.125, rel=0.05)
    assert rates[-1] < 0.01
    assert rates[-3] > 0.0, "not before the end"


@pytest.mark.parametrize("examples", [100, 1_000])
def test_statistics_are_those_of_all_data_that_are_in_order_of_class(examples):
    ordered = np.arange(examples, dtype="float32")[:, None]
    few = np.concatenate([x for (x,) in _spread(Batches(ordered, linear(1)), 256)])
    assert min(examples, 200) <= len(few) <= 256
    assert few.mean() == pytest.approx(ordered.mean(), rel=0.01)


@pytest.mark.parametrize("size, most", [(24, 256), (24, 8), (100, 64)])
def test_a_model_of_a_fixed_batch_size_is_judged_with_whole_batches(size, most):
    x = keras.Input(batch_shape=(size, 6))
    model = keras.Model(x, layers.Dense(2)(x))
    sizes = {len(x) for (x,) in _spread(Batches(VECTORS, model), most)}
    assert sizes == {size}
