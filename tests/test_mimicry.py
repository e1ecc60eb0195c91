"""Training towards what the full model computes, layer by layer."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from models import conv, depthwise, head, image, norm, outputs_of, randomize

import keras_greedy
from keras_greedy import FineTune
from keras_greedy.batches import Batches
from keras_greedy.graph.fold import folded
from keras_greedy.graph.outputs import Output
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace, trace_quietly
from keras_greedy.training.mimicry import WEIGHT_OF_OUTPUTS, Student, views_of
from keras_greedy.training.streams import streams_of, tensors_of
from keras_greedy.training.views import LEAST_AREA, Views, has_views

IMAGES = np.random.default_rng(0).normal(size=(96, 16, 16, 3)).astype("float32")


def residual(x, width, name):
    h = norm(conv(x, 3 * width, 1, f"{name}_expand"), "relu")
    h = norm(depthwise(h), "relu")
    return layers.Add()([x, norm(conv(h, width, 1, f"{name}_project"))])


def blocks():
    x = norm(conv(picture := image(size=16), 8, name="stem"), "relu")
    x = residual(residual(x, 8, "a"), 8, "b")
    return randomize(keras.Model(picture, head(x)))


class InsideBlocks(keras_greedy.PruningPolicy):
    def allow_pruning(self, layer):
        return layer.name.endswith("_expand")


def cut_inside(model):
    """The model with half of the hidden channels of each block."""
    graph = trace(model)
    selection = {
        group.name: np.arange(group.size // 2)
        for group in graph.groups
        if group.name.endswith("_expand")
    }
    return rebuild(graph, selection)


def graphs(model, compact):
    return folded(trace_quietly(model)), trace_quietly(compact)


def test_the_streams_are_what_keeps_its_width_and_has_positions():
    model = blocks()
    streams = streams_of(*graphs(model, cut_inside(model)))
    names = [stream.name for stream in streams]
    assert names == ["a_expand", "b_expand"], "the input is none, nor what is pooled"
    for stream in streams:
        assert stream.full.shape == stream.compact.shape == (None, 16, 16, 8)


def test_the_streams_are_the_tensors_that_the_layers_read():
    model = blocks()
    of_full, graph = graphs(model, cut_inside(model))
    streams = streams_of(of_full, graph)
    found = tensors_of(of_full, [stream.full for stream in streams])([IMAGES])
    for stream, value in zip(streams, found, strict=True):
        read = keras.Model(model.input, model.get_layer(stream.name).input)
        expected = read.predict(IMAGES, verbose=0)
        np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-4)


def test_a_model_cut_everywhere_has_no_streams():
    x = conv(picture := image(size=16), 16, activation="relu")
    model = keras.Model(picture, head(conv(x, 16, activation="relu")))
    compact = keras_greedy.prune(model, IMAGES, 0.5, verbose=0)
    assert streams_of(*graphs(model, compact)) == []


def loss_of(student, x):
    return float(student.compute_loss(x, None, student(x)))


def test_the_loss_is_the_mean_error_of_the_streams_over_their_variance():
    model = blocks()
    compact = cut_inside(model)
    student = Student(compact, model, Batches(IMAGES[:32], model))
    errors = []
    for name in ("a_expand", "b_expand"):
        full, own = (
            keras.Model(each.input, each.get_layer(name).input).predict(
                IMAGES, verbose=0
            )
            for each in (model, compact)
        )
        errors.append(np.mean((full - own) ** 2) / full[:32].var(axis=(0, 1, 2)).mean())
    assert loss_of(student, IMAGES) == pytest.approx(np.mean(errors), rel=0.02)


def answers(student, x):
    return student(x)[len(student._variances) :]


@pytest.mark.parametrize("times, taught", [(0.3, 0), (1, 1)])
def test_answers_of_a_classifier_are_taught_by_more_examples_than_its_weights(
    times, taught
):
    model = blocks()
    assert model.layers[-1].count_params() == 45
    few = IMAGES[: int(96 * times)]
    student = Student(cut_inside(model), model, Batches(few, model))
    assert len(answers(student, IMAGES)) == taught


def test_answers_at_each_position_are_taught_beside_the_streams():
    x = norm(conv(picture := image(size=16), 8, name="stem"), "relu")
    x = layers.Conv2D(4, 1, activation="softmax")(residual(x, 8, "a"))
    model = randomize(keras.Model(picture, x))
    compact = cut_inside(model)
    student = Student(compact, model, Batches(IMAGES, model))
    (own,) = answers(student, IMAGES)
    np.testing.assert_allclose(own, compact(IMAGES), rtol=1e-5)
    student._variances = [np.inf] * len(student._variances)
    divergence = Output("categorical").divergence(model(IMAGES), compact(IMAGES))
    expected = WEIGHT_OF_OUTPUTS * float(ops.mean(divergence)) / 16**2
    assert loss_of(student, IMAGES) == pytest.approx(expected, rel=1e-3)


def frozen(model, compact, data=IMAGES):
    student = Student(compact, model, Batches(data, model))
    return {layer.name for layer in student.frozen}


def fit(student, model, steps, rate):
    examples = views_of(Batches(IMAGES, model), student)
    with student.freezing():
        student.compile(keras.optimizers.Adam(rate))
        student.fit(examples, steps_per_epoch=steps, shuffle=False, verbose=0)


def test_what_nothing_teaches_is_frozen():
    model = blocks()
    compact = cut_inside(model)
    names = frozen(model, compact, IMAGES[:32])
    behind = model.get_layer("b_expand")
    late = {layer.name for layer in model.layers[model.layers.index(behind) :]}
    assert names == {layer.name for layer in compact.layers if layer.weights} & late


def test_where_a_layer_would_learn_by_heart_all_of_its_positions_are_frozen():
    x = norm(conv(picture := image(size=16), 64, name="stem"), "relu")
    x = norm(conv(x, 64, 3, "large", strides=8), "relu")
    x = layers.UpSampling2D(8)(residual(x, 64, "a"))
    x = layers.Conv2D(4, 1, name="answer")(x)
    model = randomize(keras.Model(picture, x))
    compact = cut_inside(model)
    # 3 x 3 x 64 x 64 weights, 96 x 2 x 2 positions; the others have 16 x 16 each.
    small = {layer.name for layer in compact.layers if layer.output.shape[1] == 2}
    names = {layer.name for layer in compact.layers if layer.weights}
    assert frozen(model, compact) == small & names
    many = np.concatenate([IMAGES] * 100)
    assert frozen(model, compact, many) == set()


def test_training_leaves_the_frozen_layers_as_they_were_and_trainable():
    model = blocks()
    compact = cut_inside(model)
    behind = compact.layers[-1].get_weights()
    before = compact.get_layer("stem").get_weights()
    count = len(compact.trainable_variables)
    fit(Student(compact, model, Batches(IMAGES[:32], model)), model, 2, 1e-3)
    for now, then in zip(compact.layers[-1].get_weights(), behind, strict=True):
        np.testing.assert_array_equal(now, then)
    assert (compact.get_layer("stem").get_weights()[0] != before[0]).any()
    assert len(compact.trainable_variables) == count


def test_a_network_of_large_layers_alone_learns_nevertheless():
    x = keras.Input((4, 64))
    h = layers.Dense(256, activation="relu", name="a_expand")(x)
    h = layers.Dense(64, name="out")(h)
    h = layers.Dense(256, activation="relu", name="b_expand")(h)
    model = randomize(keras.Model(x, layers.Dense(3)(layers.Flatten()(h))))
    vectors = np.random.default_rng(0).normal(size=(64, 4, 64)).astype("float32")
    compact = cut_inside(model)
    student = Student(compact, model, Batches(vectors, model))
    assert compact.get_layer("a_expand") not in student.frozen


def test_a_model_that_is_the_full_one_has_nothing_to_learn():
    model = blocks()
    student = Student(model, model, Batches(IMAGES, model))
    assert loss_of(student, IMAGES) < 1e-5


def test_batch_norm_is_as_for_inference_while_training():
    model = blocks()
    compact = cut_inside(model)
    student = Student(compact, model, Batches(IMAGES, model))
    statistics = [np.array(v) for v in compact.non_trainable_variables]
    fit(student, model, 2, rate=1e-3)
    for now, before in zip(compact.non_trainable_variables, statistics, strict=True):
        np.testing.assert_array_equal(now, before)


def test_mimicry_brings_a_pruned_network_closer_on_images_it_has_not_seen():
    model = blocks()
    compact = keras_greedy.prune(model, IMAGES, 0.6, policy=InsideBlocks(), verbose=0)
    unseen = np.random.default_rng(9).normal(size=(64, 16, 16, 3)).astype("float32")
    student = Student(compact, model, Batches(IMAGES, model))
    before = loss_of(student, unseen)
    fit(student, model, 60, rate=3e-3)
    assert loss_of(student, unseen) < 0.8 * before


def test_a_callback_saves_the_compact_model(tmp_path):
    model = blocks()
    compact = cut_inside(model)
    saves = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    FineTune(1, distill=True, callbacks=saves).apply(
        compact, model, IMAGES, validation_data=IMAGES, verbose=0
    )
    saved = keras.models.load_model(tmp_path / "1.keras")
    assert [w.shape for w in saved.weights] == [w.shape for w in compact.weights]


# --- Views ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((32, 32, 3), True),
        ((None, None, 3), True),
        ((32, 32, 1), True),
        ((8, 8, 3), False),
        ((32, 32, 16), False),
        ((64,), False),
        ((100, 6), False),
    ],
)
def test_pictures_have_views(shape, expected):
    assert has_views([keras.Input(shape)]) is expected


@pytest.mark.parametrize("size", [None, (20, 20)])
def test_a_view_is_a_crop_seen_in_its_size_or_its_mirror_image(size):
    height = width = 32
    rows, columns = np.meshgrid(np.arange(32.0), np.arange(32.0), indexing="ij")
    pictures = np.repeat(np.stack([rows, columns], -1)[None], 200, 0)
    pictures = np.concatenate([pictures, pictures[..., :1]], -1).astype("float32")
    views = Views(np.random.default_rng(0), size)
    views._shares = lambda count: np.ones((count, 1, 1, 1), "float32")
    (seen,) = views.of([pictures])
    seen = ops.convert_to_numpy(seen)
    assert seen.shape == (200, *(size or (32, 32)), 3)
    down = seen[:, -1, 0, 0] - seen[:, 0, 0, 0]
    right = seen[:, 0, -1, 1] - seen[:, 0, 0, 1]
    least = np.sqrt(LEAST_AREA) * (height - 1)
    assert (down > least - 1e-3).all()
    assert (down < height).all()
    np.testing.assert_allclose(np.abs(right), down, rtol=1e-4, err_msg="not stretched")
    assert 60 < (right < 0).sum() < 140, "half of them are mirrored"
    assert seen.min() >= 0
    assert seen.max() <= width - 1


def test_half_of_the_views_are_mixed_and_their_own_image_is_the_stronger():
    pictures = np.zeros((400, 16, 16, 1), "float32")
    pictures[:200] = 1.0
    (seen,) = Views(np.random.default_rng(0)).of([pictures])
    own = ops.convert_to_numpy(seen)[:200].mean(axis=(1, 2, 3))
    assert own.min() >= 0.5
    assert 70 < (own < 0.999).sum() < 130


def test_a_dataset_of_variable_sizes_is_seen_as_it_is():
    x = conv(picture := keras.Input((None, None, 3)), 8, 3, "c")
    model = keras.Model(picture, head(x))
    student = Student(model, model, Batches(IMAGES, model))
    (x,) = next(views_of(Batches(IMAGES, model), student))
    assert x.shape == (32, 16, 16, 3)


def large(last):
    """A model of images of 128 pixels, and the same one with less in its block."""
    x = norm(conv(picture := keras.Input((128, 128, 3)), 8, 3, "stem"), "relu")
    x = residual(layers.MaxPooling2D(8)(x), 8, "a")
    x = residual(layers.MaxPooling2D(4)(x), 8, "b")
    model = randomize(keras.Model(picture, last(x)))
    return model, cut_inside(model)


def test_views_of_large_images_are_smaller():
    model, compact = large(head)
    pictures = np.zeros((4, 128, 128, 3), "float32")
    data = Batches(pictures, model)
    (x,) = next(views_of(data, Student(compact, model, data)))
    assert x.shape == (4, 96, 96, 3)


@pytest.mark.parametrize(
    "last",
    [
        lambda x: layers.Dense(3)(layers.Conv2D(3, 4, name="c")(x)),
        lambda x: layers.Dense(3)(conv(layers.AveragePooling2D(4)(x), 4, 1, "c")),
        lambda x: layers.Conv1D(4, 3, name="c")(layers.Reshape((16, 8))(x)),
    ],
    ids=["kernel of all positions", "pooling of all positions", "reshaping"],
)
def test_views_are_as_large_as_the_images_where_a_layer_needs_each_position(last):
    model, compact = large(last)
    pictures = np.zeros((4, 128, 128, 3), "float32")
    data = Batches(pictures, model)
    (x,) = next(views_of(data, Student(compact, model, data)))
    assert x.shape == (4, 128, 128, 3)


def test_outputs_alone_are_learned_by_a_model_without_positions():
    x = keras.Input((6,))
    h = layers.Dense(16, activation="relu")(layers.Dense(16, activation="relu")(x))
    model = randomize(keras.Model(x, layers.Dense(3, activation="softmax")(h)))
    student = keras.models.clone_model(model)
    student.set_weights([w / 2 for w in model.get_weights()])
    vectors = np.random.default_rng(1).normal(size=(200, 6)).astype("float32")
    before = np.abs(outputs_of(model, vectors)[0] - outputs_of(student, vectors)[0])
    FineTune(20, keras.optimizers.Adam(1e-2), distill=True).apply(
        student, model, vectors, verbose=0
    )
    after = np.abs(outputs_of(model, vectors)[0] - outputs_of(student, vectors)[0])
    assert after.mean() < 0.5 * before.mean()
