"""Selection during training."""

import os
import pathlib
import subprocess
import sys
import warnings

import keras
import models
import numpy as np
import pytest
from keras import layers
from models import assert_same, inputs_of, randomize

import keras_greedy
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.cut import cut
from keras_greedy.while_training.gated_model import GatedModel
from keras_greedy.while_training.layers import wrappers_of

SETTINGS = ("objective", "step")


def network(use_bias=True):
    """A stream that a block adds into, and a layer without a bias or BatchNorm."""
    x = picture = models.image()
    x = models.norm(models.conv(x, 16, name="stem", use_bias=use_bias), "relu")
    y = models.norm(models.conv(x, 24, name="expand", use_bias=False), "relu")
    x = layers.Add()([x, models.conv(y, 16, 1, "project", use_bias=use_bias)])
    return randomize(keras.Model(picture, models.head(models.conv(x, 24, name="last"))))


def compiled(model):
    model.compile(keras.optimizers.SGD(0.01, 0.9), "sparse_categorical_crossentropy")
    return model


def labelled(model, count=48):
    x = inputs_of(model, count)
    return x, np.random.default_rng(0).integers(0, 5, count)


def wrapped_for(model, schedule, **kwargs):
    return compiled(keras_greedy.prune_greedy(model, schedule, **kwargs))


def begin(wrapped, data):
    """A callback as a training loop of one's own has it."""
    callback = keras_greedy.GreedySelectionStep(data)
    callback.set_model(wrapped)
    callback.on_train_begin()
    return callback


def before_batch_norm(model, x, budget, **kwargs):
    """`search(...).compact(budget)` without the new BatchNorm statistics."""
    paths = keras_greedy.search(model, x, verbose=0, **kwargs)
    widths = paths.widths(budget)
    return cut(paths.graph, paths.moments, paths.paths, widths, paths.step), widths


def share_of_macs(wrapped):
    compact = keras_greedy.strip_pruning(wrapped)
    return keras_greedy.macs(compact) / keras_greedy.macs(
        GatedModel(wrapped).whole.model
    )


@pytest.mark.parametrize("use_bias", [True, False], ids=["biases", "no biases"])
@pytest.mark.parametrize(
    "method",
    [("global", "corrective"), ("local", "line_search"), ("local", "uniform")],
    ids="-".join,
)
def test_a_selection_gives_what_a_search_does(method, use_bias):
    model = network(use_bias)
    x, method = inputs_of(model, 48), dict(zip(SETTINGS, method, strict=True))
    schedule = keras_greedy.ConstantWidth(0.5)
    wrapped = wrapped_for(model, schedule, **method)
    begin(wrapped, x).on_train_batch_begin(0)
    compact, widths = before_batch_norm(model, x, 0.5, **method)
    assert {n: len(k) for n, k in GatedModel(wrapped).kept().items()} == widths
    assert_same(wrapped, compact, x, 1e-4)
    assert_same(keras_greedy.strip_pruning(wrapped), compact, x, 1e-4)


def test_the_wrapped_model_is_copied_once_however_many_selections(monkeypatch):
    copies = []

    class Counted(GatedModel):
        def __init__(self, wrapped):
            copies.append(wrapped)
            super().__init__(wrapped)

    model = network()
    x, _ = labelled(model)
    schedule = keras_greedy.PolynomialWidth(
        0.4, begin_step=0, end_step=4, power=1, frequency=1
    )
    wrapped = wrapped_for(model, schedule, objective="local")
    monkeypatch.setattr(keras_greedy.while_training.callbacks, "GatedModel", Counted)
    callback = begin(wrapped, x)
    for step in range(5):
        callback.on_train_batch_begin(step)
    callback.on_train_end()
    assert copies == [wrapped]
    assert share_of_macs(wrapped) <= 0.4


def test_a_later_selection_is_one_of_the_channels_that_are_left():
    model = network()
    x, _ = labelled(model)
    schedule = keras_greedy.PolynomialWidth(
        0.4, begin_step=0, end_step=2, power=1, frequency=1
    )
    wrapped = wrapped_for(model, schedule, objective="local")
    callback, full = begin(wrapped, x), keras_greedy.macs(model)
    compact = model
    for step, share in enumerate((1.0, 0.7, 0.4)):
        callback.on_train_batch_begin(step)
        if share < 1:
            budget = keras_greedy.Budget(share * full)
            compact, _ = before_batch_norm(compact, x, budget, objective="local")
        assert_same(wrapped, compact, x, 1e-4)


def test_training_goes_on_between_selections_and_reaches_the_target():
    model = network()
    x, y = labelled(model)
    schedule = keras_greedy.PolynomialWidth(0.4, begin_step=0, end_step=9, frequency=3)
    wrapped, shares = wrapped_for(model, schedule), []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: shares.append(share_of_macs(wrapped))
    )
    callbacks = [keras_greedy.GreedySelectionStep(x), note]
    before = wrapped.get_layer("stem").get_weights()[0]
    wrapped.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=callbacks)
    assert np.abs(wrapped.get_layer("stem").get_weights()[0] - before).max() > 0
    assert shares == sorted(shares, reverse=True)
    assert shares[2] == 1 > shares[3] > shares[9] and shares[9] <= 0.4
    compact = keras_greedy.strip_pruning(wrapped)
    assert keras_greedy.macs(compact) == shares[-1] * keras_greedy.macs(model)
    assert_same(compact, wrapped, x)


def test_stopping_and_restarting_continues_the_selection(tmp_path):
    model = network()
    x, y = labelled(model)
    schedule = keras_greedy.PolynomialWidth(0.4, begin_step=0, end_step=8, frequency=2)

    def train(wrapped, epochs):
        callbacks = [keras_greedy.GreedySelectionStep(x)]
        options = {"batch_size": 16, "verbose": 0, "shuffle": False}
        wrapped.fit(x, y, epochs=epochs, callbacks=callbacks, **options)
        return wrapped

    whole = train(wrapped_for(model, schedule), 4)
    with pytest.warns(UserWarning, match=r"ended with .* of the MACs left"):
        first = train(wrapped_for(model, schedule), 1)
    first.save(tmp_path / "first.keras")
    kept = GatedModel(first).kept()
    second = train(keras.models.load_model(tmp_path / "first.keras"), 3)
    found, expected = GatedModel(second).kept(), GatedModel(whole).kept()
    assert {n: len(k) for n, k in kept.items()} != {n: len(k) for n, k in found.items()}
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])
    assert_same(second, whole, x, 1e-3)


@pytest.mark.parametrize(
    "method",
    [
        ("local", "corrective"),
        pytest.param(("loss", "uniform"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_layer_by_layer_selects_one_group_at_a_time(method):
    model = network()
    x, y = labelled(model)
    schedule = keras_greedy.LayerByLayer(0.4, frequency=2)
    method = dict(zip(SETTINGS, method, strict=True))
    wrapped = wrapped_for(model, schedule, **method)
    callback, sizes = begin(wrapped, (x, y)), trace_quietly(model).widths
    for i in range(2 * len(sizes)):
        before = {n: len(k) for n, k in GatedModel(wrapped).kept().items()}
        callback.on_train_batch_begin(i)
        after = {n: len(k) for n, k in GatedModel(wrapped).kept().items()}
        changed = {name for name in sizes if after[name] != before[name]}
        assert changed <= ({[*sizes][i // 2]} if i % 2 == 0 else set())
    assert share_of_macs(wrapped) <= 0.4
    assert_same(keras_greedy.strip_pruning(wrapped), wrapped, x)


def test_the_loss_may_choose_all_groups_at_once():
    model = network()
    x, y = labelled(model, 32)
    settings = {"objective": "loss", "step": "uniform"}
    wrapped = wrapped_for(model, keras_greedy.ConstantWidth(0.6), **settings)
    begin(wrapped, (x, y)).on_train_batch_begin(0)
    assert share_of_macs(wrapped) <= 0.6


def test_wrapped_layers_are_selected_without_a_wrapped_model():
    own = [
        *(models.image(), layers.Conv2D(16, 3), layers.BatchNormalization()),
        *(layers.ReLU(), layers.Conv2D(24, 3), layers.Flatten(), layers.Dense(5)),
    ]
    schedule = keras_greedy.ConstantWidth(0.4)
    wrapped = keras.Sequential(
        [own[0], *keras_greedy.prune_greedy(own[1:], schedule, objective="local")]
    )
    plain = keras_greedy.strip_pruning(randomize_but_gates(wrapped))
    x, _ = labelled(plain)
    begin(compiled(wrapped), x).on_train_batch_begin(0)
    compact, _ = before_batch_norm(plain, x, 0.4, objective="local")
    assert_same(wrapped, compact, x)
    assert_same(keras_greedy.strip_pruning(wrapped), compact, x)


def randomize_but_gates(wrapped):
    randomize(wrapped)
    for wrapper in wrappers_of(wrapped):
        for gate in wrapper.gates:
            gate.kept.assign(np.ones(gate.size))
    return wrapped


def test_a_missing_callback_raises_and_says_what_to_do():
    model = network()
    x, y = labelled(model)
    wrapped = wrapped_for(model, None)
    message = "Pass it to fit.*on_train_batch_begin.*layer 'greedy_expand'"
    with pytest.raises(RuntimeError, match=message):
        wrapped.fit(x, y, verbose=0)
    with pytest.raises(RuntimeError, match=message):
        wrapped(x, training=True)
    wrapped.fit(x, y, verbose=0, callbacks=[keras_greedy.GreedySelectionStep(x)])
    with pytest.raises(RuntimeError, match=message):
        wrapped.fit(x, y, verbose=0)


def test_training_that_ends_before_the_schedule_begins_is_warned_of():
    model = network()
    x, y = labelled(model)
    wrapped = wrapped_for(model, keras_greedy.ConstantWidth(0.5, begin_step=100))
    with pytest.warns(UserWarning, match=r"100.0% of the MACs left.*after 2 steps"):
        callback = keras_greedy.GreedySelectionStep(x)
        wrapped.fit(x, y, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("first", ["selection", "backup"])
def test_training_that_a_backup_restores_goes_on_in_the_schedule(first, tmp_path):
    model = network()
    x, y = labelled(model)
    schedule = keras_greedy.PolynomialWidth(0.4, begin_step=0, end_step=6, frequency=3)

    class Interruption(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def train(wrapped, *others):
        callbacks = [
            keras_greedy.GreedySelectionStep(x),
            keras.callbacks.BackupAndRestore(tmp_path),
        ]
        callbacks = callbacks if first == "selection" else callbacks[::-1]
        options = {"batch_size": 24, "epochs": 4, "verbose": 0}
        wrapped.fit(x, y, callbacks=[*callbacks, *others], **options)

    with pytest.raises(KeyboardInterrupt):
        train(wrapped_for(model, schedule), Interruption())
    again = wrapped_for(model, schedule)
    train(again)
    assert share_of_macs(again) <= 0.4


@pytest.mark.parametrize(
    ("options", "steps_per_execution"),
    [({"gradient_accumulation_steps": 2}, 1), ({}, 2)],
    ids=["accumulated gradients", "several steps per execution"],
)
def test_the_schedule_counts_batches(options, steps_per_execution):
    model = network()
    x, y = labelled(model)
    wrapped = keras_greedy.prune_greedy(
        model, keras_greedy.ConstantWidth(0.5, begin_step=10)
    )
    wrapped.compile(
        keras.optimizers.SGD(0.01, **options),
        "sparse_categorical_crossentropy",
        steps_per_execution=steps_per_execution,
    )
    callback = keras_greedy.GreedySelectionStep(batch for batch in [x])
    # Of three batches each; an execution of several ends with its epoch.
    for epochs, left in [(3, 1.0), (1, 0.5)]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The training ended with")
            fit = {"batch_size": 16, "epochs": epochs, "verbose": 0}
            wrapped.fit(x, y, callbacks=[callback], **fit)
        assert share_of_macs(wrapped) <= left
        assert share_of_macs(wrapped) > left - 0.2


def test_an_optimizer_that_averages_weights_is_refused():
    model = network()
    wrapped = keras_greedy.prune_greedy(model)
    wrapped.compile(keras.optimizers.SGD(use_ema=True), "mse")
    with pytest.raises(ValueError, match="use_ema=False"):
        begin(wrapped, inputs_of(model, 48))


def test_a_training_step_of_ones_own_is_said_to_stay_behind():
    class Own(keras.Model):
        def train_step(self, *args):
            raise NotImplementedError

    plain = network()
    with pytest.warns(UserWarning, match="`train_step` of Own stays behind"):
        keras_greedy.prune_greedy(Own(plain.input, plain.output))


def test_other_methods_of_training_are_said_to_stay_behind():
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            raise NotImplementedError

    plain = network()
    with pytest.warns(UserWarning, match="`compute_loss` of Own stays behind"):
        keras_greedy.prune_greedy(Own(plain.input, plain.output))


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_no_callback_is_needed_but_for_training(tmp_path):
    model = network()
    x, y = labelled(model)
    wrapped = wrapped_for(model, None)
    wrapped.evaluate(x, y, verbose=0)
    wrapped.predict(x, verbose=0)
    wrapped.save(tmp_path / "wrapped.keras")
    wrapped.export(tmp_path / "exported", verbose=False)
    keras.models.load_model(tmp_path / "wrapped.keras").evaluate(x, y, verbose=0)
    keras_greedy.strip_pruning(wrapped)(x, training=True)


def tape_step(wrapped, optimizer, x, y):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        losses = keras.losses.sparse_categorical_crossentropy(
            y, wrapped(x, training=True)
        )
        loss = tf.reduce_mean(losses)
    gradients = tape.gradient(loss, wrapped.trainable_variables)
    optimizer.apply(gradients, wrapped.trainable_variables)


def test_a_training_loop_of_ones_own():
    tf = pytest.importorskip("tensorflow")
    model = network()
    x, y = labelled(model)
    schedule = keras_greedy.PolynomialWidth(0.5, begin_step=0, end_step=4, frequency=2)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    optimizer = wrapped.optimizer = keras.optimizers.SGD(0.01)
    step, callback = tf.function(tape_step), begin(wrapped, x)
    for i in range(6):
        callback.on_train_batch_begin(i)
        step(wrapped, optimizer, x, y)
    assert share_of_macs(wrapped) <= 0.5
    assert_same(keras_greedy.strip_pruning(wrapped), wrapped, x)


ON_TWO_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
import test_callbacks
test_callbacks.train_on_two_devices(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
"""


def train_on_two_devices(strategy):
    schedule = keras_greedy.PolynomialWidth(0.5, begin_step=0, end_step=4, frequency=2)
    with strategy.scope():
        wrapped = wrapped_for(network(), schedule)
    x, y = labelled(wrapped)
    callbacks = [keras_greedy.GreedySelectionStep(x)]
    wrapped.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    assert share_of_macs(wrapped) <= 0.5
    assert_same(keras_greedy.strip_pruning(wrapped), wrapped, x)


@pytest.mark.slow
def test_it_works_under_a_strategy():
    here = pathlib.Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}
    command = [sys.executable, "-c", ON_TWO_DEVICES]
    subprocess.run(command, check=True, env=environment, timeout=300)


def test_the_models_and_the_schedules_misfits_are_refused_before_any_training():
    model = network()
    x, y = labelled(model)

    def message_of(wrapped, data=x):
        with pytest.raises(ValueError) as caught:
            compiled(wrapped).fit(
                x, y, verbose=0, callbacks=[keras_greedy.GreedySelectionStep(data)]
            )
        return str(caught.value)

    prune = keras_greedy.prune_greedy
    assert "prune_greedy` first" in message_of(network())
    beyond = prune(model, keras_greedy.ConstantWidth(0.01))
    assert "that or more can be met" in message_of(beyond)
    assert "`data` to give batches of shape" in message_of(prune(model), x[..., :1])
    by_loss = prune(model, objective="loss", step="uniform")
    assert "labels" in message_of(by_loss)
    parts = [layers.Conv2D(8, 3), layers.Conv2D(8, 3), layers.Flatten()]
    some = keras.Sequential([models.image(), prune(parts[0]), *parts[1:]])
    assert "gated wherever they are read" in message_of(some)


def test_layers_wrapped_alone_must_be_able_to_take_a_mean():
    own = [layers.Conv2D(16, 3), layers.Conv2D(16, 3, use_bias=False, name="b")]
    own = [*own, layers.ReLU(), layers.Flatten(), layers.Dense(5)]
    wrapped = keras.Sequential([models.image(), *keras_greedy.prune_greedy(own)])
    with pytest.raises(ValueError, match=r"use_bias=True.* Received: layer 'b'"):
        begin(compiled(wrapped), inputs_of(wrapped))


def test_wrappers_that_disagree_are_refused():
    one, other = keras_greedy.ConstantWidth(0.5), keras_greedy.ConstantWidth(0.6)
    own = [
        keras_greedy.prune_greedy(layers.Conv2D(8, 3), one),
        keras_greedy.prune_greedy(layers.Conv2D(8, 3, name="b"), other),
    ]
    wrapped = keras.Sequential([models.image(), *own])
    with pytest.raises(ValueError, match=r"to have one schedule.* layer 'greedy_b'"):
        begin(compiled(wrapped), inputs_of(wrapped))


def test_summaries_hold_widths_errors_macs_and_gates(tmp_path):
    pytest.importorskip("tensorboard")
    import tensorflow as tf

    model = network()
    x, y = labelled(model)
    wrapped = wrapped_for(model, keras_greedy.ConstantWidth(0.5))
    callbacks = [
        keras_greedy.GreedySelectionStep(x),
        keras_greedy.SelectionSummaries(tmp_path),
    ]
    wrapped.fit(x, y, epochs=2, verbose=0, callbacks=callbacks)
    (file,) = tmp_path.iterdir()
    values = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            values[value.tag, event.step] = tf.make_ndarray(value.tensor)
    view = GatedModel(wrapped)
    kept, errors = view.kept(), view.errors()
    # Two steps of the optimizer in each epoch.
    assert {step for _, step in values} == {2, 4}
    assert values["macs", 4] == pytest.approx(share_of_macs(wrapped))
    for name, indices in kept.items():
        assert values[f"width/{name}", 4] == len(indices)
        assert values[f"error/{name}", 4] == pytest.approx(errors[name])
        assert values[f"gate/{name}", 4][:, 2].sum() == view.graph.widths[name]
    assert max(errors.values()) > 0


@pytest.mark.parametrize("package", ["tensorboard", "tensorflow"])
def test_summaries_say_what_is_not_installed(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="pip install tensorflow tensorboard"):
        keras_greedy.SelectionSummaries(tmp_path)


@pytest.mark.slow
def test_digits_pruned_while_training_lose_nothing_and_export():
    pytest.importorskip("tensorflow")
    import while_training

    found = while_training.run(0.5)
    assert found["share of MACs"] <= 0.5
    assert found["while training"] >= found["full"] - 0.01
    assert found["error of the .tflite"] < 1e-5
