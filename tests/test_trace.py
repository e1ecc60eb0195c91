import functools
import os
import pathlib

import keras
import models
import numpy as np
import pytest
from keras import layers, ops
from models import TOPOLOGIES, UNPRUNABLE, conv, head, image

import keras_greedy
from keras_greedy.graph.trace import trace

# Topology -> name and size of every group that can be pruned.
GROUPS = {
    "sequential": {"a": 8, "b": 6, "c": 10},
    "strides_and_dilation": {"a": 6, "b": 8, "c": 7},
    "no_bias_anywhere": {"a": 6, "b": 4, "c": 7},
    "depthwise_multipliers": {"a": 4, "b": 6},
    "inverted_residuals": {
        **{"stem": 6, "entry": 4},
        **{"expand_1": 9, "expand_2": 9, "last": 12},
    },
    "squeeze_excite_keepdims": {
        **{"stem": 8, "first_squeeze": 4, "second_squeeze": 3, "project": 6}
    },
    "squeeze_excite_reshape": {"stem": 8, "squeeze": 4, "project": 6},
    "weighed_by_neighbours": {"stem": 8, "a": 7, "b": 6},
    "squeeze_excite_dense": {"stem": 8, "squeeze": 4, "project": 6},
    "residual_with_projection": {
        **{"stem": 6, "expand_1": 12},
        **{"reduce_1": 4, "middle_1": 5, "reduce_2": 4, "middle_2": 5},
    },
    "preactivated_residual": {"stem": 8, "a": 5, "c": 6},
    "padded_shortcut": {"stem": 4, "a": 5, "b": 4},
    "dense_connections": {
        **{"stem": 6, "bottleneck_1": 8, "grow_1": 4},
        **{"bottleneck_2": 8, "grow_2": 4, "transition": 7},
    },
    "concatenated_then_added": {"a": 3, "b": 5},
    "every_join": {"a": 6},
    "spatial_attention": {"a": 8, "b": 6},
    "raw_operations": {"a": 8, "b": 6, "c": 7},
    "constants_per_channel": {"a": 8, "b": 6},
    "reshapes": {"a": 6, "b": 5, "c": 7},
    "two_flattens": {"a": 4, "b": 4, "c": 6},
    "split_channels": {
        **{"a": 4, "a:2": 4, "b": 6, "c": 2, "c:2": 3, "c:3": 4, "d": 4, "e": 5}
    },
    "gated_units": {"stem": 8, "a": 6, "c": 5},
    "sliced_channels": {
        **{"a": 4, "a:2": 3, "a:3": 3, "b0": 3, "b1": 3, "b2": 3, "c": 4, "d": 4},
        **{"e": 5, "e:2": 2, "e:3": 1, "f": 6},
    },
    "shuffled_channels": {
        **{"stem": 6, "stem:2": 3, "stem:3": 3, "expand_1": 10, "expand_2": 10}
    },
    "shuffled_groups": {"stem": 4, "a": 1, "a:2": 2, "c": 3},
    "mlp_mixer": {"stem": 6, "a": 7, "b": 5, "c": 8},
    "moved_axes": {"a": 3, "e": 5},
    "generator": {"a": 6, "b": 5, "c": 4, "d": 5},
    "dense_on_sequences": {"stem": 8, "a": 10},
    "encoder_decoder": {"a": 4, "b": 8, "c": 6},
    "several_inputs_and_outputs": {"u": 4, "v": 5},
    "shared_activation": {"a": 8, "b": 6},
    "regularized": {"a": 8, "b": 6},
    "transfer_learning": {
        **{"backbone/stem": 8, "backbone/expand": 12},
        "expand": 7,
    },
    "nested_in_nested": {
        **{"middle/backbone/stem": 8, "middle/backbone/expand": 12},
        **{"middle/a": 6, "b": 5},
    },
    "nested_of_several_tensors": {"p": 4, "q": 6, "inner/x": 8, "inner/z": 5},
    "siamese": {"backbone/stem": 8, "backbone/expand": 12},
    "shared_convolution": {"a": 8, "b": 6},
    "shared_per_channel_scale": {"a": 8, "b": 5, "c": 6},
    "grouped_convolutions": {"a": 4, "grouped": 6, "b": 6, "c": 3},
    "separable_convolutions": {"stem": 6, "a": 8, "b": 6},
    "layer_normalized": {"stem": 8, "expand": 16},
    "other_normalizations": {
        **{"a": 4, "b": 6, "c": 6, "d": 6, "e": 7, "f": 5, "g": 6}
    },
    "attention_by_channel_statistics": {"a": 8, "b": 7, "c": 6},
    "resized_maps": {"a": 6, "b": 5, "c": 6},
    "audio": {"a": 8, "b": 6, "c": 7, "d": 6},
    "volumes": {"a": 6, "b": 5},
    "embedded_words": {"table": 8, "a": 6, "b": 4},
    "recurrent_layers": {"a": 8},
    "video": {"a": 6, "b": 5, "c": 4},
    "spectrally_normalized": {"a": 6, "b": 5},
    "transformer": {"stream": 8, "heads/key": 4, "shared_heads/query": 2, "einsum": 5},
    "embedded_positions": {
        "first/projection": 9,
        "dense": 7,
        "second/projection": 6,
    },
    "layers_made_of_layers": {
        **{"a": 6, "block/expand": 12, "wider/expand": 14, "wider/last": 7},
        **{"inner/conv": 5, "inner/blocks_0/expand": 10, "inner/blocks_1/expand": 10},
    },
    "transposed_convolutions": {**{"a": 4, "b": 8, "up": 5, "again": 6, "third": 5}},
}


def names(calls):
    return [call.name for call in calls]


def group_of(graph, name):
    (group,) = (group for group in graph.groups if group.name == name)
    return group


def test_every_topology_has_its_groups_written_down():
    assert GROUPS.keys() == TOPOLOGIES.keys()


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_finds_every_group_and_no_other(name):
    assert trace(models.shared(name)).widths == GROUPS[name]


def test_a_residual_stream_is_one_group_with_all_that_add_into_it():
    graph = trace(models.inverted_residuals())
    stream = group_of(graph, "entry")
    assert names(stream.producers) == ["entry", "project_1", "project_2"]
    assert names(stream.consumers) == ["expand_1", "expand_2", "last"]


def test_squeeze_excite_convolutions_read_and_make_the_channels_they_weigh():
    graph = trace(models.squeeze_excite_keepdims())
    group = group_of(graph, "stem")
    assert names(group.producers) == ["stem", "first_excite", "second_excite"]
    assert names(group.consumers) == ["first_squeeze", "second_squeeze", "project"]


def test_channels_added_to_a_padded_shortcut_live_with_those_they_meet():
    graph = trace(models.padded_shortcut())
    stream, outer = group_of(graph, "stem"), group_of(graph, "b")
    assert names(stream.producers) == ["stem", "b"]
    assert names(stream.consumers) == ["a", "head"]
    assert names(outer.producers) == ["b"]
    b = graph.channels_of(outer.producers[0].outputs[0])
    np.testing.assert_array_equal(b[2:6], stream.channels)
    np.testing.assert_array_equal(b[[0, 1, 6, 7]], outer.channels)


def test_the_parts_of_a_concatenation_stay_groups_of_their_own():
    graph = trace(models.concatenated_then_added())
    assert names(group_of(graph, "a").producers) == ["a", "c"]
    assert names(group_of(graph, "b").producers) == ["b", "c"]
    assert names(group_of(graph, "b").consumers) == ["c", "head"]


def test_channels_that_are_read_unequally_often_are_not_one_group():
    x = picture = image()
    x = conv(x, 5, name="a")
    x = ops.pad(x, [[0, 0]] * 3 + [[2, 0]]) + ops.pad(x, [[0, 0]] * 3 + [[0, 2]])
    graph = trace(keras.Model(picture, head(x)))
    assert graph.widths == {"a": 1, "a:2": 1}


def test_what_reaches_the_input_or_the_output_is_kept_without_a_word():
    x = picture = image()
    x = conv(layers.Add()([conv(x, 3), x]), 4, name="a")
    assert trace(keras.Model(picture, [x, conv(x, 2)])).groups == []


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("MobileNet", 32, 14),  # the stem and 13 pointwise convolutions
        ("MobileNetV2", 32, 25),  # stem, 16 expansions, 7 streams, the last
        ("VGG16", 32, 15),  # 13 convolutions and 2 dense layers
        ("ResNet50", 32, 37),  # stem, 2 in each of 16 blocks, 4 streams
        ("ResNet50V2", 32, 37),
        ("MobileNetV3Small", 32, 27),
        ("MobileNetV3Large", 32, 30),
    ],
)
def test_finds_every_group_of_keras_applications(name, size, count):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3))
    assert len(trace(model).groups) == count


@models.saved_by_keras_3_13
def test_finds_every_group_of_the_pretrained_cifar10_resnet56():
    here = pathlib.Path(__file__).parent
    data = os.environ.get("KERAS_GREEDY_DATA", here / "../../shared/data")
    path = pathlib.Path(data) / "cifar10_resnet56" / "resnet56_cifar10.keras"
    if not path.exists():
        pytest.skip(f"no {path}: set KERAS_GREEDY_DATA")
    graph = trace(keras.models.load_model(path, compile=False))
    # One inside each of 27 blocks. The streams of 16, 32 and 64 channels lie one in
    # the other, padded: those in all three, those in the last two, the outermost.
    streams = [group for group in graph.groups if len(group.producers) > 1]
    assert [group.size for group in streams] == [16, 16, 32]
    assert [len(group.producers) for group in streams] == [28, 18, 9]
    assert len(graph.groups) == 30


@pytest.mark.parametrize("name", UNPRUNABLE)
def test_one_warning_names_every_layer_that_cannot_be_pruned_and_why(name):
    build, groups, reasons = UNPRUNABLE[name]
    model = build()
    with pytest.warns(UserWarning) as caught:
        graph = trace(model)
    assert graph.widths == groups
    assert dict(graph.unprunable) == reasons
    # Another one behind it lists what is probed.
    warning = caught[0]
    assert len(caught) <= 2
    assert f"'{model.name}'" in str(warning.message)
    for layer, reason in reasons.items():
        assert f"\n  {layer}: {reason}" in str(warning.message)


def test_channels_first_layers_are_named():
    x = picture = image()
    x = conv(conv(x, 8, name="a", data_format="channels_first"), 6, name="b")
    with pytest.warns(UserWarning, match="a: data_format='channels_first': only"):
        assert trace(keras.Model(picture, head(x))).widths == {"b": 6}


def test_layers_in_front_of_all_channels_are_no_cause_for_warning():
    x = picture = image()
    x = layers.RandomFlip()(layers.Normalization()(layers.Rescaling(1 / 255)(x)))
    assert trace(keras.Model(picture, head(conv(x, 8, name="a")))).widths == {"a": 8}


def test_a_model_built_on_layers_of_another_is_traced_alone():
    picture = image()
    shared = conv(picture, 8, name="a")
    whole = keras.Model(picture, head(conv(shared, 6, name="b")))
    part = keras.Model(picture, conv(shared, 4, name="c"))
    behind = keras.Model(shared, whole.output)
    assert trace(whole).widths == {"a": 8, "b": 6}
    assert trace(part).widths == {"a": 8}
    assert trace(behind).widths == {"b": 6}


def test_inputs_may_be_passed_by_keyword():
    picture = image()
    x = layers.Conv2D(8, 3, name="a")(inputs=picture)
    x = layers.BatchNormalization()(x, training=False)
    x = layers.GlobalAveragePooling2D()(inputs=x)
    assert trace(keras.Model(picture, layers.Dense(2)(inputs=x))).widths == {"a": 8}


def test_calls_are_computed_as_the_model_computes_them_at_inference():
    model = keras.Sequential([image(), layers.RandomFlip(), layers.Conv2D(4, 3)])
    x, graph = models.inputs_of(model), trace(model)
    (made,) = graph.run_all([x], lambda call, *a, **k: call.compute(*a, **k))
    np.testing.assert_allclose(made, model(x, training=False), atol=1e-6)


def test_a_model_of_a_list_that_is_called_on_a_dict_is_kept_whole():
    a, b = (keras.Input((8,), name=name) for name in "ab")
    inner = keras.Model([a, b], layers.Dense(6)(layers.Add()([a, b])), name="inner")
    x = features = keras.Input((4,))
    x = inner({"a": layers.Dense(8)(x), "b": layers.Dense(8)(x)})
    x = layers.Dense(5, name="behind")(x)
    model = keras.Model(features, layers.Dense(2)(x))
    with pytest.warns(UserWarning, match="inner: the layers of a model inside"):
        assert trace(model).widths == {"behind": 5}


def test_running_the_calls_computes_the_model_and_frees_what_is_used():
    model = models.randomize(models.several_inputs_and_outputs())
    x, graph = models.inputs_of(model), trace(model)
    values = graph.feed(keras.tree.flatten(x))
    half = len(graph.calls) // 2
    first, rest = graph.calls[:half], graph.calls[half:]
    values = graph.run(values, first, lambda call, *a, **k: call.operation(*a, **k))
    assert values.keys() == set(graph.live_before(half))
    values = graph.run(values, rest, lambda call, *a, **k: call.operation(*a, **k))
    assert values.keys() == set(graph.live_before(len(graph.calls)))
    for tensor, output in zip(graph.outputs, models.outputs_of(model, x), strict=True):
        np.testing.assert_allclose(values[tensor], output, atol=1e-5)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_tracing_touches_nothing(name):
    model = models.randomize(TOPOLOGIES[name]())
    model.compile("sgd", "mse")
    before = models.state_of(model)
    trace(model)
    models.assert_state(model, before)


class WithItsOwnCall(keras.Model):
    """A functional model that computes something else."""

    def call(self, x):
        return 2 * super().call(x)


class SequentialWithItsOwnCall(keras.Sequential):
    def call(self, x):
        return 2 * super().call(x)


def sequential_with_its_own_call():
    return SequentialWithItsOwnCall([image(), layers.Conv2D(4, 3)])


def unbuilt_sequential():
    return keras.Sequential([layers.Conv2D(4, 3)])


def functional_with_its_own_call():
    picture = image()
    return WithItsOwnCall(picture, head(conv(picture, 8)))


@pytest.mark.parametrize(
    "build", [functional_with_its_own_call, sequential_with_its_own_call]
)
def test_a_graph_with_a_call_of_its_own_around_is_traced_by_that(build):
    graph = trace(build())
    assert type(graph.calls[-1].operation).__name__ == "Multiply"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (models.Channels, "to be built, with weights worth keeping"),
        (unbuilt_sequential, "to be built: call `model.build"),
        (keras.Sequential, "to be built: call `model.build"),
        (layers.ReLU, "Received: model=<ReLU.* of type ReLU"),
        (lambda: None, "Received: model=None of type NoneType"),
        (lambda: "model.keras", "Received: model='model.keras' of type str"),
    ],
)
def test_what_has_no_graph_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        trace(build())


class WithoutConfig(layers.Layer):
    def __init__(self, function):
        super().__init__(name="mine")
        self.function = function

    def call(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            WithoutConfig(ops.negative),
            "'mine' of type WithoutConfig, whose `get_config",
        ),
        (
            layers.Activation(functools.partial(ops.gelu)),
            "Cannot serialize object func",
        ),
        (lambda x: ops.clip(x, np.zeros(8), np.ones(8)), "of type Clip"),
    ],
)
def test_what_has_no_config_is_refused_before_any_work(layer, message):
    with pytest.raises(ValueError, match=f"to have a config.*{message}"):
        trace(models.around(layer))


def test_trace_is_public():
    assert keras_greedy.trace is trace


def test_keras_private_api_is_where_graph_trace_looks_for_it():
    moved = "Keras {} moved {}: adapt keras_greedy/graph/trace.py, which alone uses it"
    model = models.sequential()
    functional = getattr(model, "_functional", None)
    assert functional is not None, moved.format(keras.__version__, "_functional")
    by_depth = getattr(functional, "_nodes_by_depth", None)
    assert by_depth, moved.format(keras.__version__, "_nodes_by_depth")
    (node,) = by_depth[max(by_depth) - 1]
    for name in ("operation", "arguments", "outputs", "is_input"):
        assert hasattr(node, name), moved.format(keras.__version__, f"Node.{name}")
    assert node.operation is model.layers[0]
    assert node.arguments.args == (model.inputs[0],)
    assert node.arguments.kwargs == {}
