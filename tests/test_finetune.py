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
from keras_greedy.batches import Batches
from keras_greedy.graph.outputs import Output
from keras_greedy.training.fit_data import answered


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
    "loss, labels",
    [
        ("sparse_categorical_crossentropy", LABELS),
        ("categorical_crossentropy", ONE_HOT),
    ],
)
def test_labels_with_the_compile_settings_of_the_model(loss, labels):
    model = small()
    model.compile(keras.optimizers.SGD(0.125), loss, metrics=["accuracy"])
    compact = tuned(FineTune(epochs=2), model, (IMAGES, labels))
    assert isinstance(compact.optimizer, keras.optimizers.SGD)
    assert float(compact.optimizer.learning_rate) == 0.125
    assert int(compact.optimizer.iterations) == 6, "2 epochs of 70 images in 32s"
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
    tuned(tune, model, LABELLED[form]())
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
        assert compact.optimizer is not optimizer
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
    with pytest.warns(UserWarning, match="only optimizer and loss"):
        compact = pruned(model, (IMAGES, LABELS), finetune=FineTune())
    assert compact.loss is own_loss
    assert changed(compact, pruned(small()))


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "3", None])
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


# --- Distillation --------------------------------------------------------------------


def several_inputs():
    inputs = {"z": image(size=8, name="z"), "a": keras.Input((4,), name="a")}
    x = layers.Multiply()([conv(inputs["z"], 16), layers.Dense(16)(inputs["a"])])
    return randomize(keras.Model(inputs, head(conv(x, 16))))


PAIRS = {"a": np.ones((70, 4), "float32"), "z": IMAGES}


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


def test_distillation_of_logits():
    model = linear_output()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    student = damaged(model)
    (before,) = divergences(model, student, IMAGES, ["logits"])
    FineTune(10, distill=True).apply(student, model, IMAGES, verbose=0)
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
    np.testing.assert_allclose(history.history["val_loss"][-1], expected, rtol=1e-3)


def test_after_distillation_the_model_is_compiled_as_the_full_one():
    model = small()
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    compact = tuned(FineTune(distill=True), model, IMAGES)
    assert compact.loss == "sparse_categorical_crossentropy"
    assert len(compact.evaluate(IMAGES, LABELS, verbose=0)) == 2


def test_half_precision_can_be_distilled(half_precision):
    model = small()
    student = damaged(model)
    keras.config.set_dtype_policy("float32")
    (before,) = divergences(model, student, IMAGES, ["categorical"])
    FineTune(10, distill=True).apply(student, model, IMAGES, verbose=0)
    (after,) = divergences(model, student, IMAGES, ["categorical"])
    assert after < before


def test_the_teacher_is_without_dropout_and_the_student_with():
    x = conv(picture := image(size=8), 16, activation="relu")
    x = layers.Dropout(0.9)(layers.GlobalAveragePooling2D()(conv(x, 16)))
    model = randomize(keras.Model(picture, layers.Dense(5, activation="softmax")(x)))
    examples, steps = answered(model, model, Batches(IMAGES, model))
    assert steps == 3
    x, y = next(examples)
    np.testing.assert_allclose(y, outputs_of(model, x)[0], rtol=1e-5)
    history = FineTune(distill=True).apply(damaged(model, 1), model, IMAGES, verbose=0)
    assert history.history["loss"][0] > 1e-3, "its own outputs, but for the dropout"


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
    y = rng.integers(0, 4, 96)
    image = keras.Input((8, 8, 3))
    hidden = keras.layers.Conv2D(16, 3, use_bias=False)(image)
    hidden = keras.layers.BatchNormalization(momentum=0.999)(hidden)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(hidden))
    model = keras.Model(image, keras.layers.Dense(4, activation="softmax")(pooled))
    tuned = keras_greedy.prune(
        model,
        (x, y),
        1.0,
        finetune=keras_greedy.FineTune(2, optimizer="adam", distill=distill),
        verbose=0,
    )
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
