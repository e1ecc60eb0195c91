"""Budgets of the bytes of a file: widths and bits of kernels chosen together."""

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from models import conv, depthwise, image, norm, randomize

import keras_greedy
import tflite_export
from keras_greedy import Budget
from keras_greedy.batches import Batches
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.selection.cut import costs_of_cuts

layers = keras.layers
BOTH = ("int8", "int4")
INT4 = schema.TensorType.INT4


def chain():
    x = picture = image(size=12)
    x = norm(conv(x, 32, name="conv_1"), "relu")
    x = norm(conv(x, 48, name="conv_10"), "relu")
    x = norm(depthwise(x, name="depthwise"), "relu")
    x = norm(conv(x, 64, 1, name="conv_11"), "relu")
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(picture, layers.Dense(10, activation="softmax", name="head")(x))
    randomize(model)
    return model


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("float32")


@pytest.fixture(scope="module")
def model(pictures):
    full = chain()
    keras_greedy.reestimate_batch_norm(full, pictures)
    return full


@pytest.fixture(scope="module")
def paths(model, pictures):
    return keras_greedy.search(model, pictures, verbose=0)


def int8_bytes(paths):
    return costs_of_cuts(paths.graph).file_bytes(precision=BOTH)


def quantized(model, folder, pictures, recipe="rounded"):
    pytest.importorskip("litert_quantizer")
    path = tflite_export.convert(model, folder / "float.tflite")
    return tflite_export.quantize(path, folder / "q.tflite", recipe, pictures)


def kernels_in_four_bits(path):
    """Shapes of the kernels of int4, by the names of their tensors."""
    content = schema.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = content.Subgraphs(0)
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    return {
        each.Name().decode(): tuple(each.ShapeAsNumpy())
        for each in tensors
        if each.Type() == INT4
    }


@pytest.mark.parametrize(
    ("recipe", "bits", "precision"),
    [("int8", 8, BOTH), ({".*": "int8", "conv_1.*_1|head": "int4"}, 4, BOTH)],
)
def test_the_size_of_a_file_is_predicted(
    recipe, bits, precision, model, paths, pictures, tmp_path
):
    costs = costs_of_cuts(paths.graph)
    path = quantized(model, tmp_path, pictures, recipe)
    widths = dict.fromkeys(costs.bits, bits)
    size = path.stat().st_size
    four = len(kernels_in_four_bits(path))
    assert four == (0 if bits == 8 else len(costs.bits) + 1)  # The first layer, too.
    assert size == pytest.approx(costs.file_bytes(widths, precision), rel=0.05)


def test_the_size_of_a_float_file_is_predicted(model, paths, tmp_path):
    path = tflite_export.convert(model, tmp_path / "m.tflite")
    predicted = costs_of_cuts(paths.graph).file_bytes()
    assert path.stat().st_size <= predicted < 1.03 * path.stat().st_size


def of_activations():
    x = picture = keras.Input((8, 8, 3))
    for activation in ("swish", "gelu", "relu"):
        x = layers.Conv2D(16, 3, padding="same", activation=activation)(x)
    x = layers.SeparableConv2D(16, 3, activation="hard_swish")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(picture, layers.Dense(10, activation="softmax")(x))


def test_operations_that_activations_become_are_counted(tmp_path):
    pytest.importorskip("litert_quantizer")
    model = of_activations()
    costs = costs_of_cuts(trace_quietly(model))
    pictures = np.random.default_rng(0).normal(size=(32, 8, 8, 3)).astype("float32")
    path = tflite_export.convert(model, tmp_path / "float.tflite")
    size = path.stat().st_size
    assert size <= costs.file_bytes() < size + 3000
    path = tflite_export.quantize(path, tmp_path / "q.tflite", "int8", pictures)
    size = path.stat().st_size
    assert size <= costs.file_bytes(precision=("int8",)) < size + 3000


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6])
def test_the_file_of_a_budget_is_within_it(share, paths, pictures, tmp_path):
    budget = Budget(file_bytes=share * int8_bytes(paths), precision=BOTH)
    path = quantized(paths.compact(budget), tmp_path, pictures)
    assert 0.75 * budget.file_bytes < path.stat().st_size <= budget.file_bytes


def test_a_share_of_the_bytes_is_one_of_the_float_file(paths, tmp_path, model):
    full = tflite_export.convert(model, tmp_path / "full.tflite")
    compact = paths.compact(Budget(file_bytes=0.5))
    path = tflite_export.convert(compact, tmp_path / "half.tflite")
    assert path.stat().st_size / full.stat().st_size == pytest.approx(0.5, abs=0.05)


def test_bits_are_chosen_where_they_cost_less_than_channels(paths):
    budget = Budget(file_bytes=0.8 * int8_bytes(paths), precision=BOTH)
    bits = paths.bits(budget)
    assert set(bits) == {"conv_10", "conv_11", "head"}
    assert set(bits.values()) <= {4, 8}
    assert 4 in bits.values()
    alone = Budget(file_bytes=budget.file_bytes, precision=("int8",))
    assert paths.bits(alone) == {}
    assert sum(paths.widths(alone).values()) < sum(paths.widths(budget).values())


def test_without_precision_no_layer_has_a_choice(paths):
    assert paths.bits(0.5) == {}


def test_kernels_of_four_bits_are_stored_as_they_are(paths, pictures, tmp_path):
    budget = Budget(file_bytes=0.7 * int8_bytes(paths), precision=BOTH)
    compact = paths.compact(budget)
    path = quantized(compact, tmp_path, pictures)
    chosen = [name for name, bits in paths.bits(budget).items() if bits == 4]
    found = kernels_in_four_bits(path)
    assert len(found) == len(chosen)
    full = tflite_export.run(tmp_path / "float.tflite", pictures)
    # Weights of int8 and their activations alone make these errors.
    eight = tmp_path / "int8.tflite"
    tflite_export.quantize(tmp_path / "float.tflite", eight, "int8", pictures)
    (expected,) = full.values()
    (by_eight,) = tflite_export.run(eight, pictures).values()
    (by_four,) = tflite_export.run(path, pictures).values()
    assert np.abs(by_four - expected).mean() < 2 * np.abs(by_eight - expected).mean()


def test_layers_of_like_names_are_told_apart(model, pictures, tmp_path):
    own = keras.models.clone_model(model)
    own.set_weights(model.get_weights())
    keras_greedy.round_kernels(own, pictures, ["conv_10"])
    path = quantized(own, tmp_path, pictures)
    assert [*kernels_in_four_bits(path).values()] == [(48, 3, 3, 32)]


def test_a_file_without_rounded_weights_is_of_int8_and_a_warning_says_so(
    model, pictures, tmp_path
):
    with pytest.warns(UserWarning, match="round_kernels"):
        path = quantized(model, tmp_path, pictures)
    assert kernels_in_four_bits(path) == {}


def test_prune_rounds_the_kernels_behind_a_training(model, pictures, tmp_path, paths):
    budget = Budget(file_bytes=0.7 * int8_bytes(paths), precision=BOTH)
    tuning = keras_greedy.FineTune(epochs=1, distill=True)
    compact = keras_greedy.prune(model, pictures, budget, finetune=tuning, verbose=0)
    path = quantized(compact, tmp_path, pictures)
    assert kernels_in_four_bits(path)
    assert path.stat().st_size <= budget.file_bytes


def test_searches_layer_by_layer_round_kernels_too(model, pictures, tmp_path, paths):
    budget = Budget(file_bytes=0.7 * int8_bytes(paths), precision=BOTH)
    method = keras_greedy.DivergenceSearch(step="uniform", channels_per_step=16)
    compact = keras_greedy.prune(
        model,
        pictures,
        budget,
        method=method,
        checkpoint=tmp_path / "kept",
        verbose=0,
    )
    path = quantized(compact, tmp_path, pictures)
    assert kernels_in_four_bits(path)
    assert path.stat().st_size <= budget.file_bytes


def test_a_loaded_search_needs_data_to_measure_bits_on(
    paths, model, pictures, tmp_path
):
    paths.save(tmp_path / "paths.npz")
    loaded = keras_greedy.load_paths(tmp_path / "paths.npz", model)
    budget = Budget(file_bytes=0.8 * int8_bytes(paths), precision=BOTH)
    with pytest.raises(ValueError, match="data to measure kernels of 4 bits on"):
        loaded.bits(budget)
    loaded.compact(budget, data=pictures)
    assert loaded.bits(budget) == paths.bits(budget)


def test_bits_are_measured_once(paths, monkeypatch):
    first = paths.bits(Budget(file_bytes=0.8 * int8_bytes(paths), precision=BOTH))

    def again(*_):
        raise AssertionError("the data are read again")

    monkeypatch.setattr(Batches, "__iter__", again)
    paths.bits(Budget(file_bytes=0.75 * int8_bytes(paths), precision=BOTH))
    assert first


def test_a_limit_on_macs_is_kept_with_one_on_bytes(paths):
    limit = 0.8 * int8_bytes(paths)
    budget = Budget(macs=0.6, file_bytes=limit, precision=BOTH)
    report = paths.report(budget)
    assert report.macs.kept <= 0.6


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file_bytes": 0}, "`file_bytes` to be positive"),
        ({"file_bytes": float("nan")}, "`file_bytes` to be positive"),
        ({"file_bytes": 0.5, "precision": "int8"}, "Received: 'int8'"),
        ({"file_bytes": 0.5, "precision": ("int4",)}, "None for float32"),
        ({"file_bytes": 0.5, "precision": ("int8", "int2")}, "None for float32"),
        ({"macs": 0.5, "precision": BOTH}, "`precision` with `file_bytes`"),
    ],
)
def test_budgets_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Budget(**settings)


def test_a_budget_that_nothing_can_meet_says_what_can(model, pictures):
    with pytest.raises(ValueError, match=r"bytes are left.*that or more can be met"):
        keras_greedy.prune(
            model, pictures, Budget(file_bytes=1000.0, precision=BOTH), verbose=0
        )
    with pytest.raises(ValueError, match=r'with `precision=\("int8", "int4"\)`'):
        keras_greedy.prune(model, pictures, Budget(file_bytes=2000.0), verbose=0)
