"""Trainings that are interrupted, restored, or made with optimizers inside others."""

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import keras_greedy
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import wrappers_of

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")
Y = RNG.integers(0, 3, 64)
MISSING = "Expected a `GreedySelectionStep`"
FIT = {"batch_size": 16, "verbose": 0}  # Four steps an epoch.


def wrapped_model(optimizer="sgd", **schedule):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, activation="relu"),
            layers.Dense(16, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    schedule = keras_greedy.ConstantWidth(0.5, **schedule)
    wrapped = keras_greedy.prune_greedy(model, schedule, objective="local")
    if optimizer is not None:
        wrapped.compile(optimizer, "sparse_categorical_crossentropy")
    return wrapped


def share_left(wrapped):
    return GatedModel(wrapped).share_of_macs()


def selection():
    return keras_greedy.GreedySelectionStep(X)


class Earliness(keras.callbacks.Callback):
    """A figure of each epoch that is best, at its greatest, in the first."""

    def on_epoch_end(self, epoch, logs=None):
        logs["earliness"] = -epoch


def train(wrapped, *callbacks, epochs=1):
    callbacks = [Earliness(), *callbacks]
    wrapped.fit(X, Y, epochs=epochs, callbacks=callbacks, **FIT)
    return wrapped


class Inside(keras.Optimizer):
    """An optimizer of a user's, around another one."""

    def __init__(self, inside):
        super().__init__(learning_rate=0.0)
        self.inside = inside

    def build(self, variables):
        self.inside.build(variables)
        super().build(variables)

    def apply(self, grads, trainable_variables=None):
        self.inside.apply(grads, trainable_variables)


def around(kind, optimizer):
    if kind == "loss scaling":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return Inside(optimizer)


KINDS = ["loss scaling", "one of a user's"]


@pytest.mark.parametrize("kind", KINDS)
def test_averaged_weights_are_refused_inside_another_optimizer_too(kind):
    optimizer = around(kind, keras.optimizers.SGD(use_ema=True))
    with pytest.raises(ValueError, match=r"use_ema=False.*SGD.*use_ema=True"):
        train(wrapped_model(optimizer), selection())


def test_averaged_weights_are_refused_where_mixed_precision_wraps_the_optimizer():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        wrapped = wrapped_model(keras.optimizers.SGD(use_ema=True))
        with pytest.raises(ValueError, match="use_ema=False"):
            train(wrapped, selection())
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_gradients_inside_another_optimizer_count_batches(kind):
    inner = keras.optimizers.SGD(1e-3, gradient_accumulation_steps=4)
    wrapped, left = wrapped_model(around(kind, inner), begin_step=6), []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: left.append(share_left(wrapped))
    )
    train(wrapped, selection(), note, epochs=3)
    assert left[0] == 1 and max(left[1:]) <= 0.5


def test_optimizers_are_found_in_attributes_and_lists():
    from keras_greedy.while_training.running import optimizers_in, steps_taken

    one, other = keras.optimizers.SGD(), keras.optimizers.Adam()
    outer = Inside(keras.optimizers.LossScaleOptimizer(one))
    outer.members = [other, one]
    outer.itself = outer
    found = optimizers_in(outer)
    assert len(found) == 4
    assert all(any(each is f for f in found) for each in (outer, one, other))
    other.iterations.assign(7)
    assert steps_taken(outer) == 7


class Fails(keras.callbacks.Callback):
    def __init__(self, hook, error):
        super().__init__()

        def fail(*args, **kwargs):
            raise error

        setattr(self, hook, fail)


@pytest.mark.parametrize("compiled_anew", [False, True])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_after_an_interruption_the_callback_is_needed_again(error, hook, compiled_anew):
    wrapped = wrapped_model(begin_step=6)
    with pytest.raises(type(error)):
        train(wrapped, selection(), Fails(hook, error))
    if compiled_anew:
        wrapped.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(RuntimeError, match=MISSING):
        train(wrapped)
    with pytest.raises(RuntimeError, match=MISSING):
        wrapped.train_on_batch(X, Y)
    train(wrapped, selection(), epochs=3)
    assert share_left(wrapped) <= 0.5
    with pytest.raises(RuntimeError, match=MISSING):
        train(wrapped)


def test_after_data_that_failed_the_callback_is_needed_again():
    def batches():
        yield X[:16], Y[:16]
        raise OSError("disk full")

    wrapped = wrapped_model(begin_step=9)
    with pytest.raises(Exception, match="disk full"):
        wrapped.fit(batches(), verbose=0, shuffle=False, callbacks=[selection()])
    with pytest.raises(RuntimeError, match=MISSING):
        train(wrapped)


def test_a_fit_that_was_refused_does_not_stand_for_one_with_the_callback():
    wrapped = wrapped_model(keras.optimizers.SGD(use_ema=True))
    with pytest.raises(ValueError, match="use_ema"):
        train(wrapped, selection())
    with pytest.raises(RuntimeError, match=MISSING):
        train(wrapped)


def test_a_loop_of_ones_own_that_announces_no_batch_is_refused():
    wrapped = wrapped_model()
    callback = selection()
    callback.set_model(wrapped)
    callback.on_train_begin()
    with pytest.raises(RuntimeError, match="on_train_batch_begin"):
        wrapped.train_on_batch(X, Y)
    callback.on_train_batch_begin(0)
    wrapped.train_on_batch(X, Y)
    assert share_left(wrapped) <= 0.5
    assert not any(wrapper.has_callback is False for wrapper in wrappers_of(wrapped))
    callback.on_train_end()
    assert not any(wrapper.has_callback for wrapper in wrappers_of(wrapped))


def test_another_callback_may_make_the_train_function_anew():
    wrapped = wrapped_model()
    anew = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: wrapped.make_train_function(force=True)
    )
    train(wrapped, selection(), anew, epochs=2)
    assert share_left(wrapped) <= 0.5


@pytest.mark.parametrize("call", ["set_model", "on_train_begin", "optimizer"])
def test_a_loop_of_ones_own_is_told_the_call_it_lacks(call):
    callback = selection()
    if call != "set_model":
        callback.set_model(wrapped_model(None if call == "optimizer" else "sgd"))
    expected = {
        "set_model": (RuntimeError, callback.on_train_begin, r"`set_model\(model\)`"),
        "optimizer": (ValueError, callback.on_train_begin, "to have an optimizer"),
        "on_train_begin": (
            RuntimeError,
            lambda: callback.on_train_batch_begin(0),
            r"`on_train_begin\(\)` before",
        ),
    }
    error, begin, message = expected[call]
    with pytest.raises(error, match=f"Expected .*{message}.*Received: "):
        begin()
    callback.on_train_end()


def restoring(order):
    """The selection of step 5, and a callback that restores the first epoch."""
    stop = keras.callbacks.EarlyStopping(
        "earliness", mode="max", patience=1, restore_best_weights=True
    )
    callbacks = [selection(), stop]
    return callbacks if order == "selection first" else callbacks[::-1]


@pytest.mark.parametrize("order", ["selection first", "selection last"])
def test_gates_that_a_callback_opened_again_are_said_and_closed_anew(order):
    wrapped = wrapped_model(begin_step=5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(wrapped, *restoring(order), epochs=4)
        keras_greedy.strip_pruning(wrapped)
    assert share_left(wrapped) == 1
    said = [str(each.message) for each in caught if each.category is UserWarning]
    assert any("100.0% of the MACs" in text for text in said)
    assert {each.filename for each in caught if each.category is UserWarning} <= {
        __file__
    }
    train(wrapped, selection())
    assert share_left(wrapped) <= 0.5
    keras_greedy.strip_pruning(wrapped)  # In silence.


@pytest.mark.parametrize("way", ["set_weights", "load_weights"])
def test_weights_of_before_the_selection_are_said_when_stripped(way, tmp_path):
    wrapped = wrapped_model()
    weights = wrapped.get_weights()
    wrapped.save_weights(tmp_path / "early.weights.h5")
    train(wrapped, selection())
    keras_greedy.strip_pruning(wrapped)  # In silence.
    if way == "set_weights":
        wrapped.set_weights(weights)
    else:
        wrapped.load_weights(tmp_path / "early.weights.h5")
    with pytest.warns(UserWarning, match=r"100\.0% of the MACs.*gates are open again"):
        keras_greedy.strip_pruning(wrapped)


def test_a_layer_by_layer_selection_that_was_undone_is_made_anew():
    wrapped = wrapped_model()
    for wrapper in wrappers_of(wrapped):
        wrapper.selection_schedule = keras_greedy.LayerByLayer(0.5, frequency=2)
    weights = wrapped.get_weights()
    train(wrapped, selection())
    assert share_left(wrapped) <= 0.5
    wrapped.set_weights(weights)
    train(wrapped, selection())
    assert share_left(wrapped) <= 0.5


def test_a_callback_that_restores_weights_in_between_is_answered_in_the_next_epoch():
    wrapped = wrapped_model()
    weights = wrapped.get_weights()

    class Restores(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights(weights)

    train(wrapped, selection(), Restores(), epochs=3)
    assert share_left(wrapped) <= 0.5


@pytest.mark.parametrize("what", ["model", "weights"])
def test_a_loaded_model_of_before_the_selection_is_said_when_stripped(what, tmp_path):
    wrapped = wrapped_model(begin_step=4)
    path = tmp_path / ("best.keras" if what == "model" else "best.weights.h5")
    best = keras.callbacks.ModelCheckpoint(
        path,
        monitor="earliness",
        mode="max",
        save_best_only=True,
        save_weights_only=what == "weights",
    )
    train(wrapped, selection(), best, epochs=2)
    if what == "model":
        loaded = keras.models.load_model(path)
    else:
        loaded = wrapped_model(None)
        loaded.load_weights(path)
    assert share_left(loaded) == 1
    with pytest.warns(UserWarning, match=r"100\.0% of the MACs, not the 50\.0%"):
        keras_greedy.strip_pruning(loaded)


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
def test_a_training_that_was_interrupted_early_is_said_when_stripped(hook):
    wrapped = wrapped_model(begin_step=6)
    strip = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: keras_greedy.strip_pruning(wrapped)
    )
    with pytest.raises(KeyboardInterrupt):
        train(wrapped, selection(), strip, Fails(hook, KeyboardInterrupt()))
    with pytest.warns(UserWarning, match=r"100\.0% of the MACs, not the 50\.0%"):
        keras_greedy.strip_pruning(wrapped)
    with pytest.raises(RuntimeError, match=MISSING):
        wrapped(X, training=True)


def test_an_interruption_of_a_model_around_it_counts_for_the_one_inside():
    wrapped = wrapped_model(begin_step=6)
    x = keras.Input((6,))
    outer = keras.Model(x, wrapped(x))
    for model in (outer, wrapped):
        model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(KeyboardInterrupt):
        train(outer, selection(), Fails("on_epoch_end", KeyboardInterrupt()))
    for model in (wrapped, outer):
        with pytest.raises(RuntimeError, match=MISSING):
            train(model)
    train(outer, selection(), epochs=2)
    assert share_left(outer) <= 0.5


def test_a_wrapped_layer_that_narrows_nothing_is_said():
    x = keras.Input((6,))
    hidden = layers.Dense(16, name="hidden")(x)
    other = layers.Dense(16, name="other")(x)
    read = layers.Dense(3, name="read")
    plain = layers.Dense(3, name="plain")
    second = layers.Dense(3, name="second")
    prune = keras_greedy.prune_greedy
    schedule = keras_greedy.ConstantWidth(0.9)
    outputs = [
        prune(read, schedule)(hidden),
        plain(hidden),
        prune(second, schedule)(other),
    ]
    wrapped = keras.Model(x, layers.Concatenate()(outputs))
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    callback = selection()
    callback.set_model(wrapped)
    with pytest.warns(UserWarning, match="'hidden' are also read by plain"):
        callback.on_train_begin()


def test_a_layer_wrapped_for_its_own_channels_is_told_who_would_be_narrowed():
    first = keras_greedy.prune_greedy(layers.Dense(16, name="first"))
    wrapped = keras.Sequential([keras.Input((6,)), first, layers.Dense(3)])
    wrapped.compile("sgd", "sparse_categorical_crossentropy")
    message = "narrows the layers before it.*Wrapped are greedy_first"
    with pytest.raises(ValueError, match=message):
        train(wrapped, selection())


@pytest.mark.parametrize("log_dir", ["", None, 3, object(), b"logs", __file__])
def test_a_log_dir_that_is_no_folder_is_refused(log_dir):
    with pytest.raises(ValueError, match=r"Expected `log_dir` .* Received: log_dir="):
        keras_greedy.SelectionSummaries(log_dir)


def steps_in(folder):
    tf = pytest.importorskip("tensorflow")
    steps = []
    for file in sorted(folder.rglob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            steps += [event.step for v in event.summary.value if v.tag == "macs"]
    return steps


def test_summaries_of_a_second_fit_go_on_behind_the_first(tmp_path):
    pytest.importorskip("tensorboard")
    wrapped = wrapped_model()
    for _ in range(2):
        summaries = keras_greedy.SelectionSummaries(tmp_path)
        train(wrapped, selection(), summaries, epochs=2)
    assert steps_in(tmp_path) == [4, 8, 12, 16]


def test_summaries_need_no_more_than_a_model_in_a_loop_of_ones_own(tmp_path):
    pytest.importorskip("tensorboard")
    summaries = keras_greedy.SelectionSummaries(tmp_path)
    with pytest.raises(RuntimeError, match=r"`set_model\(model\)`"):
        summaries.on_epoch_end(0)
    summaries.set_model(wrapped_model(None))
    for epoch in range(2):
        summaries.on_epoch_begin(epoch)
        summaries.on_epoch_end(epoch)
    summaries.on_train_end()
    assert steps_in(tmp_path) == [0, 1]


def test_the_graph_is_still_shown_by_keras_own_callback(tmp_path):
    pytest.importorskip("tensorboard")
    callback = keras.callbacks.TensorBoard(tmp_path, write_graph=True)
    assert share_left(train(wrapped_model(), callback, selection())) <= 0.5
