import itertools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from models import (
    conv,
    depthwise,
    head,
    image,
    norm,
    outputs_of,
    randomize,
)

import keras_greedy
from keras_greedy import FineTune, prune, reestimate_batch_norm
from keras_greedy.graph.outputs import Output


def small():
    x = norm(conv(picture := image(size=8), 16, name="a", use_bias=False), "relu")
    x = norm(depthwise(x), "relu")
    x = norm(conv(x, 24, 1, "b", strides=2), "relu")
    return randomize(keras.Model(picture, head(x)))


def linear_output():
    x = conv(picture := image(size=8), 16, activation="relu")
    x = layers.GlobalAveragePooling2D()(conv(x, 16))
    return randomize(keras.Model(picture, layers.Dense(5)(x)))


IMAGES = np.random.default_rng(0).normal(size=(70, 8, 8, 3)).astype("float32")
LABELS = np.random.default_rng(1).integers(0, 5, 70)
ONE_HOT = np.eye(5, dtype="float32")[LABELS]


@pytest.fixture(autouse=True)
def few_epochs(monkeypatch):
    """Two epochs where none are named: how many there are is tested elsewhere."""
    monkeypatch.setattr("keras_greedy.training.finetune.epochs_for", lambda n: 2)


def pruned(model, data=IMAGES, budget=0.6, **options):
    return prune(model, data, budget, verbose=0, **options)


def divergences(model, compact, data, kinds):
    """Mean over the examples, for each output."""
    full, cut = outputs_of(model, data), outputs_of(compact, data)
    tensors = (map(ops.convert_to_tensor, pair) for pair in zip(full, cut, strict=True))
    return [
        float(ops.mean(Output(kind).divergence(*pair)))
        for kind, pair in zip(kinds, tensors, strict=True)
    ]


def changed(one, two):
    pairs = zip(one.get_weights(), two.get_weights(), strict=True)
    return any((a != b).any() for a, b in pairs)


def damaged(model, scale=0.5):
    """A student of the model's own architecture that has something to learn."""
    student = keras.models.clone_model(model)
    student.set_weights([w * scale for w in model.get_weights()])
    return student


def tuned(tune, model, data, **fit):
    """A student trained as `prune` does it, without a search before."""
    tune.apply(student := damaged(model), model, data, verbose=0, **fit)
    return student


# --- Labels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"]
)
def test_labels_with_the_compile_settings_of_the_model(loss):
    model = small()
    labels = model.predict(IMAGES, verbose=0).argmax(axis=-1)
    labels = labels if "sparse" in loss else np.eye(5, dtype="float32")[labels]
    model.compile(keras.optimizers.SGD(0.125), loss, metrics=["accuracy"])
    compact = tuned(FineTune(epochs=2), model, (IMAGES, labels))
    assert isinstance(compact.optimizer, keras.optimizers.SGD)
    assert float(compact.optimizer.learning_rate) == 0.125
    assert int(compact.optimizer.iterations) == 0, "as new, at its own rate"
    assert compact.loss == loss
    assert changed(compact, damaged(model))


@pytest.mark.parametrize(
    "labels, loss",
    [
        (LABELS, keras.losses.SparseCategoricalCrossentropy),
        (LABELS[:, None], keras.losses.SparseCategoricalCrossentropy),
        (ONE_HOT, keras.losses.CategoricalCrossentropy),
    ],
    ids=["numbers", "a column", "one-hot"],
)
def test_labels_with_defaults_for_a_model_that_is_not_compiled(labels, loss):
    compact = tuned(FineTune(), small(), (IMAGES, labels))
    assert type(compact.loss) is loss
    assert isinstance(compact.optimizer, keras.optimizers.Adam)
    assert np.isfinite(compact.evaluate(IMAGES, labels, verbose=0)).all()


def test_labels_of_two_classes_with_defaults():
    x = conv(picture := image(size=8), 16, activation="relu")
    x = layers.GlobalAveragePooling2D()(conv(x, 16))
    model = keras.Model(picture, layers.Dense(1, activation="sigmoid")(x))
    compact = tuned(FineTune(), model, (IMAGES, LABELS % 2))
    assert type(compact.loss) is keras.losses.BinaryCrossentropy


def test_training_on_labels_lowers_the_loss():
    model = small()
    data = (IMAGES, LABELS)
    tune = FineTune(epochs=8, optimizer=keras.optimizers.Adam(0.01))
    before, after = pruned(model), pruned(model, data, finetune=tune)
    before.compile(loss="sparse_categorical_crossentropy")
    tuned = after.evaluate(*data, verbose=0, return_dict=True)["loss"]
    assert tuned < 0.8 * before.evaluate(*data, verbose=0)


def in_batches(size=20):
    return [(IMAGES[i : i + size], LABELS[i : i + size]) for i in range(0, 70, size)]


class Sequence(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return in_batches()[index]


class Reiterable:
    def __iter__(self):
        yield from in_batches()


LABELLED = {
    "arrays": lambda: (IMAGES, LABELS),
    "arrays and weights": lambda: (IMAGES, LABELS, np.ones(70)),
    "list of (x, y)": in_batches,
    "list of [x, y]": lambda: [[x, y] for x, y in in_batches()],
    "iterable": Reiterable,
    "PyDataset": Sequence,
    "tf.data": lambda: tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(20),
}


@pytest.mark.parametrize(
    "form, distill",
    [*((form, False) for form in LABELLED), ("arrays", True), ("tf.data", True)],
)
def test_every_form_of_data_is_read_once_per_epoch(form, distill):
    model, seen = linear_output(), []
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    class Watch(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(0)

        def on_train_batch_end(self, batch, logs=None):
            seen[-1] += 1

    tune = FineTune(epochs=3, distill=distill, callbacks=(Watch(),))
    tuned(tune, model, LABELLED[form](), validation_data=(IMAGES, LABELS))
    assert seen == ([3] * 3 if distill or "arrays" in form else [4] * 3)


@pytest.mark.parametrize("distill", [False, True])
def test_a_generator_is_there_for_search_and_training(distill):
    tune = FineTune(epochs=2, distill=distill)
    model = linear_output()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    batches = (batch for batch in in_batches())
    assert changed(pruned(model, batches, finetune=tune), pruned(model))


def test_validation_data_are_evaluated_after_each_epoch():
    model = small()
    history = FineTune(epochs=2).apply(
        *(small(), model, (IMAGES, LABELS)),
        validation_data=(IMAGES[:9], LABELS[:9]),
        verbose=0,
    )
    assert len(history.history["val_accuracy"]) == 2


@pytest.mark.parametrize("tune", [FineTune(), FineTune(loss="mse"), FineTune(epochs=3)])
@pytest.mark.parametrize("data", [IMAGES, [IMAGES], (IMAGES,), (IMAGES, None)])
def test_missing_labels_are_an_error_that_names_distillation(tune, data):
    with pytest.raises(ValueError, match=r"x alone.*FineTune\(distill=True\)"):
        pruned(small(), data, finetune=tune)


# --- Settings ------------------------------------------------------------------------


def test_an_optimizer_given_can_be_used_again():
    optimizer = keras.optimizers.Adam(0.015625)
    for distill in (True, False):
        tune = FineTune(optimizer=optimizer, distill=distill)
        compact = tuned(tune, small(), (IMAGES, LABELS))
        assert getattr(compact, "optimizer", None) is not optimizer
    assert float(compact.optimizer.learning_rate) == 0.015625
    assert not optimizer.built


@pytest.mark.parametrize(
    "tune, loss, optimizer",
    [
        (FineTune(), "mse", keras.optimizers.SGD),
        (FineTune(loss="mae"), "mae", keras.optimizers.SGD),
        (FineTune(optimizer="adam"), "mse", keras.optimizers.Adam),
        (FineTune(optimizer="adam", loss="mae"), "mae", keras.optimizers.Adam),
    ],
)
def test_what_is_not_given_is_as_the_model_was_compiled(tune, loss, optimizer):
    model = small()
    model.compile(keras.optimizers.SGD(0.125), "mse")
    compact = tuned(tune, model, (IMAGES, ONE_HOT))
    assert compact.loss == loss
    assert type(compact.optimizer) is optimizer
    if optimizer is keras.optimizers.SGD:
        assert float(compact.optimizer.learning_rate) == 0.125


def test_a_loss_that_cannot_be_serialized_is_trained_with():
    def own_loss(y, p):
        return ops.mean(ops.square(ops.one_hot(y, 5) - p))

    model = small()
    model.compile("sgd", own_loss)
    compact = pruned(model, (IMAGES, LABELS), finetune=FineTune())
    assert compact.loss is own_loss
    assert changed(compact, pruned(small()))


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3"])
def test_epochs_that_are_no_positive_integer_are_an_error(epochs):
    with pytest.raises(ValueError, match="`epochs` to be a positive integer"):
        FineTune(epochs=epochs)


def two_outputs():
    x = conv(picture := image(size=8), 16, activation="relu")
    x = conv(x, 16, activation="relu")
    outputs = {"label": head(x), "map": conv(x, 1, activation="sigmoid", name="map")}
    return randomize(keras.Model(picture, outputs))


@pytest.mark.parametrize("build", [linear_output, two_outputs])
def test_a_loss_that_does_not_show_is_asked_for_before_long_work(build, monkeypatch):
    monkeypatch.delattr(keras_greedy.stages, "observe")
    with pytest.raises(ValueError, match=r"FineTune\(loss=...\).*not compiled"):
        pruned(build(), (IMAGES, LABELS), finetune=FineTune())


# --- Settings of one's own -----------------------------------------------------------

VECTORS = np.random.default_rng(2).normal(size=(64, 6)).astype("float32")
CLASSES = np.random.default_rng(3).integers(0, 3, 64)


def quick(**compiled):
    """A model of two layers, compiled with these settings if there are any."""
    x = keras.Input((6,))
    h = layers.Dense(16, activation="relu")(layers.Dense(16, activation="relu")(x))
    model = keras.Model(x, layers.Dense(3, activation="softmax", name="class")(h))
    if compiled:
        defaults = {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"}
        model.compile(**defaults | compiled)
    return model


def said(warned):
    """The warnings for users, but for that of a training on noise that is of no use.

    There may be others of the libraries underneath.
    """
    for_users = [warning for warning in warned if warning.category is UserWarning]
    return [each for each in for_users if "No epoch" not in str(each.message)]


def quickly(model, data=(VECTORS, CLASSES), **options):
    return prune(model, data, 0.5, objective="local", verbose=0, **options)


class Warm(keras.optimizers.schedules.LearningRateSchedule):
    """Has no config."""

    def __call__(self, step):
        return 0.125 * ops.minimum(1.0, (ops.cast(step, "float32") + 1) / 10)


class Configured(Warm):
    """Has one, and is not registered to be read back."""

    def get_config(self):
        return {}


class OwnRate(keras.optimizers.SGD):
    """Takes an argument that is not in its config, and fails without."""

    def __init__(self, my_rate=0.01, **options):
        super().__init__(my_rate, **options)


class OwnExtra(keras.optimizers.SGD):
    """Takes an argument that is not in its config, and does without."""

    def __init__(self, learning_rate=0.01, extra=0.5, **options):
        super().__init__(learning_rate, **options)
        self.extra = extra


class OwnMetric(keras.metrics.Mean):
    def __init__(self, threshold=0.5, name="own", **options):
        super().__init__(name=name, **options)
        self.threshold = threshold


SCHEDULES = {"without a config": Warm, "not registered": Configured}


@pytest.mark.parametrize("distill", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("wrap", [lambda x: x, keras.optimizers.LossScaleOptimizer])
def test_a_schedule_of_ones_own_goes_over_to_the_compact_model(wrap, schedule, distill):
    model = quick(optimizer=wrap(keras.optimizers.Adam(SCHEDULES[schedule]())))
    for tune in (None, FineTune(distill=distill)):
        optimizer = quickly(model, finetune=tune).optimizer
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        assert isinstance(inner._learning_rate, Warm)
        assert inner is not getattr(model.optimizer, "inner_optimizer", model.optimizer)


@pytest.mark.parametrize("optimizer", [OwnRate(0.125), OwnExtra(0.125, extra=0.9)])
def test_an_optimizer_that_cannot_be_copied_stays_behind_with_a_warning(optimizer):
    model = quick(optimizer=optimizer, metrics=["accuracy"])
    with pytest.warns(UserWarning, match="compile settings.*optimizer") as warned:
        compact = quickly(model)
    (warning,) = said(warned)
    assert warning.filename == __file__
    assert len(compact.evaluate(VECTORS, CLASSES, verbose=0)) == 2


def test_training_with_an_optimizer_that_cannot_be_copied_is_an_error_first(
    monkeypatch,
):
    monkeypatch.delattr(keras_greedy.stages, "observe")
    model = quick(optimizer=OwnRate())
    with pytest.raises(ValueError, match="`optimizer` to be one that can be copied"):
        quickly(model, finetune=FineTune())
    with pytest.raises(ValueError, match="`optimizer` to be one that can be copied"):
        quickly(quick(), finetune=FineTune(optimizer=OwnRate(), distill=True))


def test_a_metric_that_cannot_be_copied_stays_behind_with_a_warning():
    model = quick(metrics=[OwnMetric(0.9)])
    with pytest.warns(UserWarning, match="metrics.*lacks 'threshold'"):
        compact = quickly(model)
    assert compact.loss == "sparse_categorical_crossentropy"


def test_pruning_layer_by_layer_says_once_what_stays_behind():
    model = quick(optimizer=OwnRate())
    with pytest.warns(UserWarning, match="optimizer") as warned:
        prune(model, VECTORS, 0.5, objective="divergence", step="uniform", verbose=0)
    assert len(said(warned)) == 1


def test_functions_and_objects_of_ones_own_go_over():
    def own_metric(y, p):
        return ops.max(p, -1)

    class OwnLoss(keras.losses.Loss):
        def __init__(self, weight):
            super().__init__()
            self.weight = weight

        def call(self, y, p):
            return self.weight * keras.losses.sparse_categorical_crossentropy(y, p)

    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")
    model = quick(loss=OwnLoss(2.0), metrics=[own_metric, top, "accuracy"])
    model.fit(VECTORS, CLASSES, verbose=0)
    for tune in (None, FineTune(), FineTune(distill=True)):
        compact = quickly(model, finetune=tune)
        assert compact.loss is model.loss
        found = compact.evaluate(VECTORS, CLASSES, verbose=0, return_dict=True)
        assert set(found) == {"loss", "own_metric", "top", "accuracy"}
    assert model.evaluate(VECTORS[:1], CLASSES[:1], verbose=0)[2] in (0.0, 1.0)


def two_heads(**compiled):
    x = keras.Input((6,))
    h = layers.Dense(16, activation="relu")(layers.Dense(16, activation="relu")(x))
    heads = {
        "one": layers.Dense(3, name="one")(h),
        "two": layers.Dense(2, name="two")(h),
    }
    model = keras.Model(x, heads)
    model.compile("sgd", **compiled)
    return model


TWO = {"one": VECTORS[:, :3], "two": VECTORS[:, 3:5]}


def test_with_a_loss_of_ones_own_the_other_settings_go_over():
    model = two_heads(
        loss={"one": "mse", "two": lambda y, p: ops.mean(ops.abs(y - p), -1)},
        loss_weights={"one": 1.0, "two": 0.25},
        metrics={"one": ["mae"], "two": ["mse"]},
    )
    model.fit(VECTORS, TWO, verbose=0)
    full = model.evaluate(VECTORS, TWO, verbose=0, return_dict=True)
    whole = prune(model, (VECTORS, TWO), 1.0, objective="local", verbose=0)
    own = whole.evaluate(VECTORS, TWO, verbose=0, return_dict=True)
    assert own == pytest.approx(full, rel=1e-3)
    tuned = quickly(model, (VECTORS, TWO), finetune=FineTune())
    own = tuned.evaluate(VECTORS, TWO, verbose=0, return_dict=True)
    assert set(own) == set(full)
    assert own["loss"] == pytest.approx(own["one_loss"] + 0.25 * own["two_loss"])


def test_a_loss_given_keeps_the_metrics_of_the_compile_settings():
    model = quick(metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")])
    own = keras.losses.SparseCategoricalCrossentropy()
    compact = quickly(model, finetune=FineTune(loss=own, optimizer="adam"))
    found = compact.evaluate(VECTORS, CLASSES, verbose=0, return_dict=True)
    assert set(found) == {"loss", "top"}


class OwnTraining(keras.Model):
    steps = 0

    def train_step(self, *data):
        OwnTraining.steps += 1
        return super().train_step(*data)


class OwnCompile(keras.Model):
    def compile(self, optimizer, my_loss, **options):
        super().compile(optimizer, **options)
        self.my_loss = my_loss

    def train_step(self, data):
        return {"loss": self.my_loss(data[1], self(data[0], training=True))}


@pytest.mark.parametrize("tune", [None, FineTune()])
@pytest.mark.parametrize("objective", ["local", "divergence"])
def test_a_train_step_of_ones_own_stays_behind_with_one_warning(tune, objective):
    plain = quick()
    model = OwnTraining(plain.inputs, plain.outputs)
    model.compile("sgd", "sparse_categorical_crossentropy")
    settings = {"objective": objective, "step": "uniform", "verbose": 0}
    with pytest.warns(UserWarning, match="OwnTraining.*train_step") as warned:
        prune(model, (VECTORS, CLASSES), 0.5, finetune=tune, **settings)
    assert len(said(warned)) == 1
    assert OwnTraining.steps == 0


def test_a_compile_of_ones_own_stays_behind_with_a_warning():
    plain = quick()
    model = OwnCompile(plain.inputs, plain.outputs)
    model.compile("sgd", my_loss=keras.losses.SparseCategoricalCrossentropy())
    with pytest.warns(UserWarning, match="compile, train_step"):
        compact = quickly(model, finetune=FineTune())
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(model)


# --- Checked before the search -------------------------------------------------------


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"optimizer": "adamm"}, "`optimizer` to be a name.*optimizer='adamm'"),
        ({"optimizer": 3}, "`optimizer` to be a name.*optimizer=3"),
        ({"loss": "sparse_crossentropy"}, "`loss` to be.*loss='sparse_crossentropy'"),
        ({"loss": {"class": "nonsense"}}, "`loss` to be.*nonsense"),
        ({"callbacks": 3}, "`callbacks` to be.*callbacks=3"),
        ({"callbacks": (3,)}, r"`callbacks` to be.*callbacks=\(3,\)"),
        ({"epochs": True}, "`epochs` to be"),
    ],
)
def test_settings_that_are_none_are_an_error_at_once(settings, match):
    with pytest.raises(ValueError, match=match):
        FineTune(**settings)


def test_one_callback_need_not_be_in_a_list():
    history = keras.callbacks.History()
    quickly(quick(metrics=["accuracy"]), finetune=FineTune(2, callbacks=history))
    assert len(history.history["loss"]) == 2


def rejected(match, data=(VECTORS, CLASSES), model=None, tune=None, **options):
    """Checks that it is an error before the search."""
    model = model or quick(metrics=["accuracy"])
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(keras_greedy.stages, "observe")
        with pytest.raises(ValueError, match=match):
            quickly(model, data, finetune=tune or FineTune(), **options)


@pytest.mark.parametrize(
    "labels, match",
    [
        (CLASSES + 9, "labels of `data`.*3 classes.*from 9 to 11"),
        (CLASSES - 1, "3 classes"),
        (CLASSES + 0.5, "whole numbers"),
        (np.eye(3)[CLASSES], "fit the `loss`"),
        (CLASSES[:9], r"as many as examples.*\(9,\)"),
        (CLASSES.astype(str), "numbers.*dtype <U"),
        ([*"ab"] * 32, "numbers.*dtype <U"),
        (np.where(CLASSES, CLASSES, np.nan), "finite"),
    ],
    ids=["high", "low", "fractions", "one-hot", "few", "strings", "list", "NaN"],
)
def test_labels_that_do_not_fit_are_an_error_before_the_search(labels, match):
    rejected(match, (VECTORS, labels))
    rejected(
        match.replace("`data`", "`validation_data`"), validation_data=(VECTORS, labels)
    )


def test_the_last_label_of_a_dataset_is_looked_at():
    labels = np.append(CLASSES[:-1], 3)
    data = tf.data.Dataset.from_tensor_slices((VECTORS, labels)).batch(16)
    rejected("3 classes", data)


@pytest.mark.parametrize(
    "loss, labels, match",
    [
        ("mse", CLASSES, r"of the output's shape \(None, 3\)"),
        ("binary_crossentropy", 2.0 * np.eye(3)[CLASSES] - 1, "two classes 0 and 1"),
        ("categorical_crossentropy", CLASSES, "output's shape"),
        (lambda y, p: ops.log(ops.cast(y, "float32") - 9), CLASSES, "is finite"),
    ],
)
def test_labels_of_another_loss_are_an_error_before_the_search(loss, labels, match):
    rejected(match, (VECTORS, labels), quick(loss=loss))


def test_a_loss_that_gives_one_number_trains_and_does_not_select():
    model = quick(loss=lambda y, p: ops.mean(ops.square(p)))
    quickly(model, finetune=FineTune())
    with pytest.raises(ValueError, match="a loss of each example"):
        prune(model, (VECTORS, CLASSES), 0.5, objective="loss", step="uniform")


@pytest.mark.parametrize("name", ["crossentropy", "ce"])
def test_the_cross_entropy_that_keras_chooses_is_chosen_here_too(name):
    model = quick(loss=name)
    quickly(model, finetune=FineTune())
    prune(
        *(model, (VECTORS, CLASSES), 0.5),
        objective="loss",
        step="uniform",
        verbose=0,
    )


@pytest.mark.parametrize(
    "validation_data, match",
    [
        ((VECTORS[:, :2], CLASSES), r"`validation_data` to give.*\(None, 6\)"),
        (VECTORS, "`validation_data` to give.*labels are needed"),
        (3, "`validation_data` to be arrays.*validation_data=3"),
        ((VECTORS for _ in itertools.count()), "`validation_data` to be finite"),
    ],
)
def test_validation_data_that_do_not_fit_are_an_error_first(validation_data, match):
    rejected(match, validation_data=validation_data)


def test_validation_data_of_a_distillation_must_fit_as_well():
    tune = FineTune(distill=True)
    rejected("`validation_data`", validation_data=VECTORS[:, :2], tune=tune)


def test_validation_data_without_a_training_are_warned_of():
    with pytest.warns(UserWarning, match="`validation_data`.*`finetune`"):
        quickly(quick(), validation_data=(VECTORS, CLASSES))


VALIDATION = {
    "generator": lambda: ((VECTORS[i : i + 8], CLASSES[i : i + 8]) for i in (0, 8)),
    "two batches": lambda: [(VECTORS[:8], CLASSES[:8]), (VECTORS[8:16], CLASSES[8:16])],
    "lists": lambda: (VECTORS[:16].tolist(), CLASSES[:16].tolist()),
    "tf.data": lambda: tf.data.Dataset.from_tensors((VECTORS[:16], CLASSES[:16])),
}


@pytest.mark.parametrize("form", VALIDATION)
def test_validation_data_may_have_any_form_of_data(form):
    model = quick(metrics=["accuracy"])
    history = keras.callbacks.History()
    tune = FineTune(2, callbacks=history)
    compact = quickly(model, finetune=tune, validation_data=VALIDATION[form]())
    expected = compact.evaluate(VECTORS[:16], CLASSES[:16], verbose=0)[0]
    assert history.history["val_loss"][-1] == pytest.approx(expected, rel=1e-4)


# --- Several inputs and outputs, and a fixed batch size ------------------------------


def two_inputs():
    one, two = keras.Input((6,), name="one"), keras.Input((6,), name="two")
    h = layers.Dense(16, activation="relu")(layers.Concatenate()([one, two]))
    h = layers.Dense(16, activation="relu")(h)
    model = keras.Model([one, two], layers.Dense(3)(h))
    model.compile("sgd", "mse")
    return model


def list_outputs():
    x = keras.Input((6,))
    h = layers.Dense(16, activation="relu")(layers.Dense(16, activation="relu")(x))
    model = keras.Model(x, [layers.Dense(3)(h), layers.Dense(2)(h)])
    model.compile("sgd", ["mse", "mae"])
    return model


def named_inputs():
    inputs = {name: keras.Input((6,), name=name) for name in ("one", "two")}
    h = layers.Dense(16, activation="relu")(layers.Concatenate()([*inputs.values()]))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(16, activation="relu")(h)))
    model.compile("sgd", "mse")
    return model


PAIR = [VECTORS, VECTORS + 1]
NAMED = {"two": PAIR[1], "one": PAIR[0], "id": np.arange(64)}
THREE, SHORT = VECTORS[:, :3], VECTORS[:, :2]
HALVES = (slice(0, 32), slice(32, 64))


class PairSequence(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        half = HALVES[index]
        return [x[half] for x in PAIR], THREE[half]


@pytest.mark.parametrize(
    "build, data, distill",
    [
        (two_inputs, PAIR, True),
        (two_inputs, {"two": PAIR[1], "one": PAIR[0]}, True),
        (two_inputs, (PAIR, THREE), False),
        (two_inputs, [([x[h] for x in PAIR], THREE[h]) for h in HALVES], False),
        (two_inputs, PairSequence(), False),
        (named_inputs, NAMED, True),
        (named_inputs, (NAMED, THREE), False),
        (two_inputs, [(NAMED, THREE)], False),
        (
            named_inputs,
            tf.data.Dataset.from_tensor_slices((NAMED, THREE)).batch(32),
            False,
        ),
        (list_outputs, VECTORS, True),
        (list_outputs, (VECTORS, [THREE, SHORT]), False),
        (list_outputs, [(VECTORS[h], [THREE[h], SHORT[h]]) for h in HALVES], False),
    ],
)
def test_lists_of_inputs_and_outputs_are_trained_on(build, data, distill):
    model = build()
    untrained = quickly(model, data)
    tune = FineTune(2, optimizer="adam", distill=distill)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The fine-tuning failed")
        assert changed(untrained, quickly(model, data, finetune=tune))


@pytest.mark.parametrize("form", ["arrays", "batches", "distilled"])
def test_a_model_of_a_fixed_batch_size_is_trained(form):
    x = keras.Input(batch_shape=(8, 6))
    h = layers.Dense(16, activation="relu")(layers.Dense(16, activation="relu")(x))
    model = keras.Model(x, layers.Dense(3, activation="softmax")(h))
    model.compile("adam", "sparse_categorical_crossentropy")
    batches = [(VECTORS[i : i + 30], CLASSES[i : i + 30]) for i in (0, 30)]
    data = batches if form == "batches" else (VECTORS[:60], CLASSES[:60])
    held = (VECTORS[:20], CLASSES[:20])
    tune = FineTune(distill=form == "distilled")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        tuned = quickly(model, data, finetune=tune, validation_data=held)
    assert changed(tuned, quickly(model, data))
    with pytest.raises(ValueError, match="fixed batch size"):
        prune(model, data, 0.5, objective="divergence", step="uniform", verbose=2)


# --- A training that does not get to its end -----------------------------------------


class Ends(keras.callbacks.Callback):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_epoch_end(self, epoch, logs=None):
        raise self.error


@pytest.mark.parametrize("distill", [False, True])
def test_an_error_in_the_training_leaves_the_pruned_model(distill):
    model = quick(metrics=["accuracy"])
    tune = FineTune(distill=distill, callbacks=Ends(RuntimeError("full disk")))
    with pytest.warns(UserWarning, match="failed.*not trained.*full disk") as warned:
        compact = quickly(model, finetune=tune, validation_data=(VECTORS, CLASSES))
    (warning,) = said(warned)
    assert warning.filename == __file__
    assert not changed(compact, quickly(model))
    assert len(compact.evaluate(VECTORS, CLASSES, verbose=0)) == 2


@pytest.mark.parametrize("distill", [False, True])
def test_an_interrupted_training_leaves_the_model_as_it_was_best(distill):
    model = quick(metrics=["accuracy"])
    tune = FineTune(3, "adam", distill=distill, callbacks=Ends(KeyboardInterrupt()))
    with pytest.warns(UserWarning, match="interrupted.*as it was best so far"):
        compact = quickly(model, finetune=tune, validation_data=(VECTORS, CLASSES))
    assert changed(compact, quickly(model))
    assert len(compact.evaluate(VECTORS, CLASSES, verbose=0)) == 2


def test_an_error_in_the_training_of_a_layer_does_not_lose_the_others():
    tune = FineTune(distill=True, callbacks=Ends(RuntimeError("full disk")))
    method = keras_greedy.DivergenceSearch("uniform", finetune_per_layer=tune)
    with pytest.warns(UserWarning, match="full disk"):
        compact = prune(quick(), VECTORS, 0.5, method=method, verbose=0)
    assert keras_greedy.macs(compact) <= 0.5 * keras_greedy.macs(quick())


def test_an_interrupted_training_of_a_layer_ends_the_search():
    tune = FineTune(distill=True, callbacks=Ends(KeyboardInterrupt()))
    method = keras_greedy.DivergenceSearch("uniform", finetune_per_layer=tune)
    with pytest.raises(KeyboardInterrupt):
        prune(quick(), VECTORS, 0.5, method=method, verbose=0)


def test_a_training_that_diverges_leaves_the_pruned_model():
    model = quick(optimizer=keras.optimizers.SGD(1e30))
    held = (VECTORS, CLASSES)
    with pytest.warns(UserWarning, match="No epoch.*lower learning rate"):
        compact = quickly(model, finetune=FineTune(3), validation_data=held)
    assert not changed(compact, quickly(model))


# --- Distillation --------------------------------------------------------------------


def several_inputs():
    inputs = {"z": image(size=8, name="z"), "a": keras.Input((4,), name="a")}
    x = layers.Multiply()([conv(inputs["z"], 16), layers.Dense(16)(inputs["a"])])
    return randomize(keras.Model(inputs, head(conv(x, 16))))


@pytest.fixture
def enough_data(monkeypatch):
    """As if there were examples for all layers to learn from."""
    freeze = "keras_greedy.training.mimicry.layers_to_freeze"
    monkeypatch.setattr(freeze, lambda *args: [])


PAIRS = {"a": np.ones((70, 4), "float32"), "z": IMAGES}


@pytest.mark.usefixtures("enough_data")
@pytest.mark.parametrize(
    "build, data, kinds",
    [
        (small, IMAGES, ["categorical"]),
        (small, list(np.split(IMAGES, 7)), ["categorical"]),
        (linear_output, IMAGES, ["real"]),
        (two_outputs, IMAGES, ["categorical", "binary"]),
        (several_inputs, PAIRS, ["categorical"]),
    ],
    ids=["arrays", "list", "linear output", "two outputs", "two inputs"],
)
def test_distillation_needs_no_labels_and_comes_closer_to_the_model(build, data, kinds):
    model, x = build(), data if isinstance(data, dict) else IMAGES
    student = damaged(model)
    before = divergences(model, student, x, kinds)
    tune = FineTune(10, optimizer=keras.optimizers.Adam(0.01), distill=True)
    tune.apply(student, model, data, verbose=0)
    after = divergences(model, student, x, kinds)
    assert all(b < 0.5 * a for a, b in zip(before, after, strict=True))


@pytest.mark.usefixtures("enough_data")
def test_distillation_of_logits():
    model = linear_output()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    student = damaged(model)
    (before,) = divergences(model, student, IMAGES, ["logits"])
    tune = FineTune(10, keras.optimizers.Adam(0.01), distill=True)
    tune.apply(student, model, IMAGES, verbose=0)
    (after,) = divergences(model, student, IMAGES, ["logits"])
    assert after < 0.5 * before
    assert student.loss.get_config()["from_logits"], "compiled as the model again"


def test_pruning_with_distillation_gives_the_trained_model():
    model = small()
    compact = pruned(model, finetune=FineTune(distill=True))
    assert changed(compact, untrained := pruned(model))
    assert [w.shape for w in compact.weights] == [w.shape for w in untrained.weights]


@pytest.mark.parametrize("validation", [IMAGES[:9], (IMAGES[:9], LABELS[:9])])
def test_validation_data_of_a_distillation_are_compared_with_the_model(validation):
    x = layers.GlobalAveragePooling2D()(conv(picture := image(size=8), 16))
    model = randomize(keras.Model(picture, layers.Dense(5, "softmax")(x)))
    compact = damaged(model)
    history = FineTune(epochs=2, distill=True).apply(
        compact, model, IMAGES, validation_data=validation, verbose=0
    )
    (expected,) = divergences(model, compact, IMAGES[:9], ["categorical"])
    assert min(history.history["val_divergence"]) == pytest.approx(expected, rel=1e-3)


def test_after_distillation_the_model_is_compiled_as_the_full_one():
    model = small()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    compact = tuned(FineTune(distill=True), model, IMAGES)
    assert compact.loss == "sparse_categorical_crossentropy"
    assert len(compact.evaluate(IMAGES, LABELS, verbose=0)) == 2


@pytest.mark.usefixtures("enough_data")
def test_half_precision_can_be_distilled(half_precision):
    model = small()
    student = damaged(model)
    keras.config.set_dtype_policy("float32")
    (before,) = divergences(model, student, IMAGES, ["categorical"])
    FineTune(10, "adam", distill=True).apply(student, model, IMAGES, verbose=0)
    (after,) = divergences(model, student, IMAGES, ["categorical"])
    assert after < before


def test_neither_teacher_nor_student_drops_anything():
    x = conv(picture := image(size=8), 16, activation="relu")
    x = layers.Dropout(0.9)(layers.GlobalAveragePooling2D()(conv(x, 16)))
    model = randomize(keras.Model(picture, layers.Dense(5, activation="softmax")(x)))
    tune = FineTune(1, keras.optimizers.SGD(0.0), distill=True)
    history = tune.apply(damaged(model, 1), model, IMAGES, verbose=0)
    assert history.history["loss"][0] < 1e-6


# --- BatchNorm -----------------------------------------------------------------------


def norms_of(model):
    return [layer for layer in model.layers if "batch_norm" in layer.name]


def assert_statistics_of(norm, values, rtol=1e-4):
    axes = tuple(i for i in range(values.ndim) if i != norm.axis % values.ndim)
    values = values.astype(float)
    np.testing.assert_allclose(norm.moving_mean, values.mean(axes), rtol, atol=1e-4)
    np.testing.assert_allclose(norm.moving_variance, values.var(axes), rtol, atol=1e-4)


def read_by(model, layer, data):
    return keras.ops.convert_to_numpy(keras.Model(model.input, layer.input)(data))


def test_the_first_batch_norm_has_the_statistics_of_the_data():
    compact = pruned(small())
    first = norms_of(compact)[0]
    assert_statistics_of(first, read_by(compact, first, IMAGES))


def test_every_batch_norm_has_the_statistics_of_one_batch_of_all_data():
    compact = pruned(small(), IMAGES[:60])
    for layer in norms_of(compact):
        values = read_by(compact, layer, IMAGES[:60])
        assert_statistics_of(layer, values, rtol=1e-3)


def test_statistics_of_several_batches_are_pooled():
    model = small()
    drifting = IMAGES * np.linspace(0.1, 5, 70)[:, None, None, None] + 1
    reestimate_batch_norm(model, drifting, batch_size=8)
    first = norms_of(model)[0]
    assert_statistics_of(first, read_by(model, first, drifting.astype("float32")))


def test_one_image_more_than_full_batches_changes_statistics_but_little():
    """Alone in a batch, it would be normalised by itself for all layers behind."""
    full = small()
    reestimate_batch_norm(full, IMAGES[:64])
    one_more = small()
    reestimate_batch_norm(one_more, np.concatenate([IMAGES[:64], 3 * IMAGES[:1]]))
    last, same = norms_of(full)[-1], norms_of(one_more)[-1]
    np.testing.assert_allclose(same.moving_mean, last.moving_mean, atol=0.05)
    np.testing.assert_allclose(same.moving_variance, last.moving_variance, rtol=0.1)


def test_data_given_to_compact_take_the_place_of_those_of_the_search():
    paths = keras_greedy.search(small(), IMAGES, verbose=0)
    compact = paths.compact(0.5, data=3 * IMAGES + 1)
    first = norms_of(compact)[0]
    assert_statistics_of(first, read_by(compact, first, 3 * IMAGES + 1))


@pytest.mark.parametrize("size", [0, -1, 2.5, None, "a"])
def test_a_batch_size_that_is_none_is_an_error(size):
    with pytest.raises(ValueError, match="`batch_size` to be an integer of at least 1"):
        reestimate_batch_norm(small(), IMAGES, batch_size=size)


def test_weights_that_are_trained_are_left_alone():
    model = small()
    before = [w.numpy() for w in model.trainable_weights]
    reestimate_batch_norm(model, IMAGES)
    for old, new in zip(before, model.trainable_weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_model_without_batch_norm_is_left_alone():
    model = randomize(keras.Model(picture := image(size=8), head(conv(picture, 4))))
    before = model.get_weights()
    assert reestimate_batch_norm(model, IMAGES) is None
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_frozen_batch_norm_is_measured_anew_and_stays_frozen():
    model = small()
    norms_of(model)[0].trainable = False
    first = norms_of(pruned(model))[0]
    assert not first.trainable
    compact = pruned(model)
    first = norms_of(compact)[0]
    assert_statistics_of(first, read_by(compact, first, IMAGES))


def test_a_batch_norm_of_another_axis():
    x = layers.BatchNormalization(axis=1)(conv(picture := image(size=8), 4))
    model = randomize(keras.Model(picture, head(x)))
    reestimate_batch_norm(model, IMAGES)
    (layer,) = norms_of(model)
    assert layer.moving_mean.shape == (8,)
    assert_statistics_of(layer, read_by(model, layer, IMAGES))


def test_a_batch_norm_that_is_called_twice_is_measured_over_both():
    shared, x = layers.BatchNormalization(), conv(picture := image(size=8), 4)
    y = layers.Add()([shared(x), shared(conv(x, 4))])
    model = randomize(keras.Model(picture, head(y)))
    reestimate_batch_norm(model, IMAGES)
    calls = [node.input_tensors[0] for node in shared._inbound_nodes]
    values = [ops.convert_to_numpy(keras.Model(picture, t)(IMAGES)) for t in calls]
    assert_statistics_of(shared, np.concatenate(values))


def test_large_values_in_half_precision_do_not_overflow(half_precision):
    x = layers.BatchNormalization()(picture := image(size=8))
    model = keras.Model(picture, head(x))
    keras.config.set_dtype_policy("float32")
    reestimate_batch_norm(model, IMAGES * 1000)
    (layer,) = norms_of(model)
    values = (IMAGES * 1000).astype("float16").astype(float)
    np.testing.assert_allclose(layer.moving_variance, values.var((0, 1, 2)), rtol=1e-2)


@pytest.mark.parametrize("distill", [False, True])
def test_batch_norm_follows_the_weights_even_with_a_slow_momentum(distill):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 8, 8, 3)).astype("float32")
    image = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(16, 3, use_bias=False)(image)
    hidden = keras.layers.BatchNormalization(momentum=0.999)(hidden)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(hidden))
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax")(pooled))
    tuned = damaged(model)
    tune = keras_greedy.FineTune(2, optimizer="adam", distill=distill)
    y = model.predict(x, verbose=0).argmax(axis=-1)
    tune.apply(tuned, model, (x, y), validation_data=(x, y), verbose=0)
    conv, norm = (
        next(la for la in tuned.layers if isinstance(la, kind))
        for kind in (keras.layers.Conv2D, keras.layers.BatchNormalization)
    )
    made = keras.ops.convert_to_numpy(conv(x))
    mean = keras.ops.convert_to_numpy(norm.moving_mean)
    np.testing.assert_allclose(mean, made.mean((0, 1, 2)), atol=1e-3)


def test_a_compact_model_that_was_evaluated_can_be_distilled():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype("float32")
    y = rng.integers(0, 3, 64)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, "relu"),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    compact = keras_greedy.search(model, x, verbose=0).compact(0.5)
    compact.evaluate(x, y, verbose=0)
    keras_greedy.FineTune(1, distill=True).apply(compact, model, x, verbose=0)
    assert compact.loss == "sparse_categorical_crossentropy"
