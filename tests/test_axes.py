"""Channels on any axis, and the parts of them that go their own ways."""

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import assert_same, conv, head, image, inputs_of, randomize
from test_rebuild import assert_compact_is_gated

from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace, trace_quietly
from keras_greedy.testing import gated


def operations_of(model, kind):
    return [op for op in model.operations if type(op).__name__ == kind]


def split_in_halves(channels=8):
    x = picture = image(size=8)
    y, z = ops.split(conv(x, channels, name="a"), 2, axis=-1)
    x = layers.Concatenate()([conv(y, 4, name="b"), z])
    return randomize(keras.Model(picture, head(x)))


def test_bounds_move_with_the_channels_that_are_cut():
    compact = rebuild(trace(split_in_halves()), {"a": [0], "a:2": [0, 1, 3]})
    (split,) = operations_of(compact, "Split")
    assert split.indices_or_sections == (1,)


def test_parts_that_stay_equal_are_counted_as_before():
    compact = rebuild(trace(split_in_halves()), {"a": [0, 2], "a:2": [1, 3]})
    (split,) = operations_of(compact, "Split")
    assert split.indices_or_sections == 2


def test_each_part_keeps_a_channel():
    graph = trace(split_in_halves())
    assert graph.widths == {"a": 4, "a:2": 4, "b": 4}
    with pytest.raises(ValueError, match="one or more"):
        rebuild(graph, {"a:2": []})


@pytest.mark.parametrize(
    ("key", "left"),
    [
        (slice(0, 8), slice(None)),
        (slice(2, 7), slice(1, 3)),
        (slice(-3, None), slice(2, 4)),
        (slice(None, None, -1), slice(3, None, -1)),
        (slice(6, 2, -1), slice(2, 0, -1)),
    ],
)
def test_a_slice_takes_what_is_left_of_its_channels(key, left):
    x = picture = image(size=8)
    x = conv(x, 8, name="a")
    y = conv(x[:, :, :, key], 5, name="b")
    model = randomize(keras.Model(picture, head(layers.Concatenate()([x, y]))))
    graph = trace(model)
    kept = graph.channels_of(graph.calls[0].outputs[0])[[1, 3, 6, 7]]
    selection = {}
    for group in graph.groups:
        if group.producers[0].name == "a":
            selection[group.name] = np.flatnonzero(np.isin(group.channels, kept))
    compact = rebuild(graph, selection)
    keys = [c.args[1][-1] for c in trace_quietly(compact).calls if len(c.args) > 1]
    assert keys == [left]
    assert_same(compact, gated(graph, selection), inputs_of(model))


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: x[..., ::-2], "backwards by a stride"),
        (lambda x: ops.squeeze(x), "a last remaining channel"),
        (lambda x: ops.roll(x, 1), "as one axis"),
        (lambda x: ops.unstack(x, axis=-1)[0], "unstacks axis -1"),
        (lambda x: ops.take(x, 3, axis=-1), "takes entries of axis -1"),
        (lambda x: ops.cumsum(x, axis=3), "takes the channels on axis -1"),
        (lambda x: ops.repeat(x, [1] * 7 + [2], axis=-1), "repeats by axis=-1"),
        (lambda x: ops.take(np.eye(16), ops.cast(x, "int32"), axis=0), "are computed"),
    ],
)
def test_what_cannot_be_cut_is_kept_with_its_reason(operation, reason):
    x = picture = image(size=8)
    x = layers.Flatten()(operation(conv(x, 8, name="a")))
    model = randomize(keras.Model(picture, layers.Dense(3)(layers.Dense(6)(x))))
    graph = trace_quietly(model)
    assert "a" not in graph.widths and len(graph.widths) == 1
    assert any(reason in why for _, why in graph.unprunable)
    assert_compact_is_gated(model, 0.5)


def test_a_layer_that_does_not_have_the_batch_first_is_kept_whole():
    x = words = keras.Input((6, 5))
    x = ops.transpose(layers.Dense(8, name="a")(x), (1, 0, 2))
    x = ops.transpose(layers.Dense(7, name="b")(x), (1, 0, 2))
    x = layers.Dense(6, name="c")(layers.Flatten()(x))
    model = randomize(keras.Model(words, layers.Dense(2)(x)))
    graph = trace_quietly(model)
    assert graph.widths == {"c": 6}
    assert graph.unprunable == [("b", "its first axis is not the batch")]
    assert_compact_is_gated(model, 0.5)


def test_positions_in_front_of_channels_may_be_of_any_number():
    x = picture = keras.Input((None, None, 3))
    y, z = ops.split(conv(x, 8, name="a"), 2, axis=-1)
    x = layers.Concatenate()([y, conv(z, 4, name="b")])
    x = ops.max(ops.transpose(layers.Reshape((-1, 8))(x), (0, 2, 1)), axis=-1)
    model = randomize(keras.Model(picture, layers.Dense(2)(x)))
    assert trace(model).widths == {"a": 4, "a:2": 4, "b": 4}
    assert_compact_is_gated(model, 0.5)


def test_heads_stay_of_equal_size():
    x = words = keras.Input((6, 5))
    x = layers.Reshape((6, 3, 4))(layers.Dense(12, name="a")(x))
    x = ops.softmax(layers.Permute((2, 1, 3))(x), axis=2)
    x = layers.Reshape((6, 12))(layers.Permute((2, 1, 3))(x))
    x = layers.Dense(6, name="b")(x)
    model = randomize(keras.Model(words, layers.Dense(2)(layers.Flatten()(x))))
    assert trace(model).widths == {"a": 4, "b": 6}
    assert_compact_is_gated(model, 0.5)


def test_constants_are_cut_along_the_axis_of_the_channels():
    x = words = keras.Input((6, 5))
    x = layers.Permute((2, 1))(layers.Dense(8, name="a")(x))
    x = layers.Rescaling(np.arange(1.0, 9.0).reshape(8, 1).tolist())(x)
    x = layers.Permute((2, 1))(x + np.linspace(0, 1, 8, dtype="float32")[:, None])
    model = randomize(keras.Model(words, layers.Dense(2)(layers.Flatten()(x))))
    assert trace(model).widths == {"a": 8}
    assert_compact_is_gated(model, 0.5)


@pytest.mark.skipif(not hasattr(ops, "depth_to_space"), reason="Keras has none")
def test_channels_go_to_positions_and_back():
    x = picture = image(size=8)
    x = ops.depth_to_space(conv(x, 12, name="a"), 2)
    x = conv(ops.space_to_depth(conv(x, 5, name="b"), 2), 6, name="c")
    model = randomize(keras.Model(picture, head(x)))
    assert trace(model).widths == {"a": 3, "b": 5, "c": 6}
    assert_compact_is_gated(model, 0.5)


def residual(part):
    x = picture = image(size=8)
    x = conv(x, 8, name="stem")
    y, z = part(conv(x, 6, name="a"))
    x = layers.Add()([x, conv(y, 8, name="b")])
    return keras.Model(picture, head(layers.Concatenate()([x, z])))


def test_a_branch_of_one_part_of_a_split_stays():
    graph = trace(residual(lambda x: ops.split(x, 2, axis=-1)))
    assert graph.widths == {"stem": 8, "a": 3, "a:2": 3}
    assert not graph.branches.ends


def test_a_branch_of_gated_halves_goes_as_a_whole():
    graph = trace(models.shared("gated_units"))
    assert graph.branches.ends.keys() == {"a", "c"}
    model = models.shared("gated_units")
    compact = rebuild(graph, {"a": [], "c": [1, 2]})
    assert_same(compact, gated(graph, {"a": [], "c": [1, 2]}), inputs_of(model))
    assert not operations_of(compact, "Split")


@pytest.mark.filterwarnings("ignore:Some channels of model")
def test_a_maximum_over_parts_of_the_channels_leaves_the_others_their_axis():
    x = picture = image(size=8)
    x = layers.Reshape((8, 8, 6, 2))(conv(x, 12, name="a"))
    x = ops.max(x, axis=-1)
    x = ops.reshape(conv(x, 8, name="b"), (-1, 8, 8, 4, 2))
    x = x[..., 0] * ops.sigmoid(x[..., 1])
    x = ops.softmax(layers.Reshape((8, 8, 5, 2))(conv(x, 10, name="c")), axis=4)
    x = ops.glu(layers.Concatenate()(ops.unstack(x, axis=4)))
    model = randomize(keras.Model(picture, head(x)))
    assert trace(model).widths == {"a": 6, "b": 4, "c": 5}
    assert_compact_is_gated(model, 0.5)


def test_a_softmax_is_no_activation_of_each_channel_alone():
    x = picture = image(size=8)
    x = conv(conv(x, 8, name="a", activation=layers.Softmax()), 6, name="b")
    assert trace_quietly(keras.Model(picture, head(x))).widths == {"b": 6}
