"""Every model of keras.applications, and some of other kinds, pruned and checked.

    python benchmarks/applications.py [NAME ...]

They are traced, pruned, rebuilt, saved and converted. Models have random weights,
random BatchNorm statistics and small inputs: what is checked is that the compact model
computes what the full one computes with the same channels gated to 0, not what it has
learned. Two rows a minute, the largest models take several minutes and 10 GB each;
`--json` writes all figures.
"""

import argparse
import contextlib
import dataclasses
import gc
import json
import math
import tempfile
import time
from pathlib import Path
from unittest import mock

import keras
import numpy as np
from keras import ops
from keras.src import backend
from kinds import KINDS

import keras_greedy
import tflite_export
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.report import markdown
from keras_greedy.testing import gated

FAMILIES = [
    [f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")],
    [f"DenseNet{layers}" for layers in (121, 169, 201)],
    [f"EfficientNetB{size}" for size in range(8)],
    [f"EfficientNetV2{size}" for size in ("B0", "B1", "B2", "B3", "S", "M", "L")],
    ["InceptionV3", "InceptionResNetV2"],
    ["MobileNet"],
    ["MobileNetV2"],
    ["MobileNetV3Small", "MobileNetV3Large"],
    ["NASNetMobile", "NASNetLarge"],
    [f"ResNet{layers}" for layers in (50, 101, 152)],
    [f"ResNet{layers}V2" for layers in (50, 101, 152)],
    ["VGG16", "VGG19"],
    ["Xception"],
]
MODELS = [name for family in FAMILIES for name in family]
SMALLEST_INPUT = {"Inception": 75, "Xception": 71, "VGG": 64}


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found of one model.

    Attributes:
        name: Of its constructor.
        groups: Groups of channels.
        grouped: Share of the channels made inside the network that are in a group.
        least_macs: Share of the MACs left with one channel per group.
        gate_error: Largest difference of an output of the compact model, half of each
            group kept at random, from the gated full one, over the largest output.
        gate_effect: That difference from the full model: what the cut did at all.
        input_effect: That difference between two inputs: what the input did at all.
        costs_agree: Whether MACs and parameters of the compact model are what was
            predicted, and what an independent count finds.
        saves: Whether it computes the same, bit by bit, when saved and loaded.
        tflite_error: Largest difference of the converted file, over the largest
            output.
        seconds: For all that.
    """

    name: str
    groups: int
    grouped: float
    least_macs: float
    gate_error: float
    gate_effect: float
    input_effect: float
    costs_agree: bool
    saves: bool
    tflite_error: float
    seconds: float

    @property
    def passes(self) -> bool:
        return (
            self.gate_error < 1e-4
            and min(self.gate_effect, self.input_effect) > 100 * self.gate_error
            and self.costs_agree
            and self.saves
            and self.tflite_error < 1e-4
            and self.grouped >= 0.95
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", default=[*MODELS, *KINDS], metavar="NAME")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for name in options.names:
        rows.append(examine(name))
        print(", ".join(cells(rows[-1])), flush=True)
        if options.json:
            content = json.dumps([*map(dataclasses.asdict, rows)], indent=1)
            options.json.write_text(content)
        keras.backend.clear_session()
        gc.collect()
    header = ("model", "groups", "channels in a group", "least MACs", "gate error")
    header = (*header, "costs agree", "saves", ".tflite error", "passes")
    print("\n" + markdown([header, *map(cells, rows)]))
    print(f"\n{sum(row.passes for row in rows)} of {len(rows)} pass")


def cells(row: Row):
    return (
        row.name,
        str(row.groups),
        f"{row.grouped:.1%}",
        f"{row.least_macs:.2%}",
        f"{row.gate_error:.0e}",
        yes(row.costs_agree),
        yes(row.saves),
        f"{row.tflite_error:.0e}",
        yes(row.passes),
    )


def yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def examine(name: str) -> Row:
    """Prunes a random half of a model's channels and looks at all that comes of it."""
    start = time.perf_counter()
    model = build(name)
    graph = trace_quietly(model)
    rng = np.random.default_rng(2)
    selection = {
        group.name: rng.choice(group.size, max(1, group.size // 2), replace=False)
        for group in graph.groups
    }
    widths = {name: len(kept) for name, kept in selection.items()}
    compact, costs = rebuild(graph, selection), Costs(graph)
    x = pictures(rng, model, 2)
    y = output(compact, x)
    counted = counted_macs(compact, x[:1]), counted_params(compact)
    with tempfile.TemporaryDirectory() as folder:
        compact.save(Path(folder) / "compact.keras")
        loaded = keras.models.load_model(Path(folder) / "compact.keras")
        file = tflite_export.convert(compact, Path(folder) / "compact.tflite")
        parity = tflite_export.verify(compact, file, x)
    return Row(
        name=name,
        groups=len(graph.groups),
        grouped=grouped_share(graph),
        least_macs=costs.macs(dict.fromkeys(widths, 1)) / costs.macs(),
        gate_error=difference(y, output(gated(graph, selection), x)),
        gate_effect=difference(y, output(model, x)),
        input_effect=difference(y[:1], y[1:]),
        costs_agree=(
            counted == (costs.macs(widths), costs.params(widths))
            and counted == (keras_greedy.macs(compact), compact.count_params())
        ),
        saves=bool((output(loaded, x) == y).all()),
        tflite_error=parity.max_abs_error / parity.max_abs_output,
        seconds=time.perf_counter() - start,
    )


def build(name: str) -> keras.Model:
    """The model of a small input, ten classes, and random weights and statistics."""
    model = KINDS[name]() if name in KINDS else application(name)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        # What a Normalization layer has adapted to takes effect on loading only.
        if weight.name in ("mean", "variance", "count"):
            continue
        if len(weight.shape) > 1:
            deviation = math.sqrt(2 / math.prod(weight.shape[:-1]))
            weight.assign(deviation * rng.standard_normal(weight.shape, "float32"))
        elif weight.name in ("bias", "beta"):
            weight.assign(rng.normal(0, 0.3, weight.shape))
        else:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    # With statistics that have nothing to do with the network, the input would be
    # lost on the way, and every comparison of outputs with it.
    keras_greedy.reestimate_batch_norm(model, pictures(rng, model, 8))
    for weight in model.weights:
        if weight.name.startswith("moving"):
            weight.assign(weight * rng.uniform(0.8, 1.2, weight.shape))
    return model


def application(name: str) -> keras.Model:
    """The model of that name in keras.applications, as it comes."""
    sizes = [size for start, size in SMALLEST_INPUT.items() if name.startswith(start)]
    shape = (*(sizes or [32]) * 2, 3)
    constructor = getattr(keras.applications, name)
    return constructor(
        weights=None, input_shape=shape, classes=10, classifier_activation=None
    )


def pictures(rng, model, count):
    """Noise, each of a colour of its own."""
    _, *positions, channels = model.input_shape
    noise = rng.uniform(0, 1, (count, *positions, channels))
    colors = rng.uniform(0, 255, (count, *[1] * len(positions), channels))
    return (noise * colors).astype("float32")


def grouped_share(graph) -> float:
    """Share of the channels that layers make for other layers to read."""
    made, given = set(), set()
    for call in graph.calls:
        if call.is_layer and any(len(w.shape) > 1 for w in call.operation.weights):
            axis = call.rule.made_axis if call.rule else -1
            made.update(graph.channels[call.outputs[0]][axis].tolist())
    for tensor in (*graph.inputs, *graph.outputs):
        given.update(graph.channels_of(tensor).tolist())
    grouped = {channel for group in graph.groups for channel in group.channels}
    return len(grouped) / len(made - given)


def counted_macs(model: keras.Model, x) -> int:
    """Kernel sizes times positions of one example, of every layer each time it runs.

    And the products that are of no kernel, by the letters of an Einstein sum.
    """
    total, counted_above, plain_call = 0, 0, keras.Layer.__call__
    plain_einsum, plain_matmul = backend.numpy.einsum, backend.numpy.matmul
    plain_attention = backend.nn.dot_product_attention

    def einsum(subscripts, *tensors, **kwargs):
        nonlocal total
        names = subscripts.split("->")[0].split(",")
        if not counted_above and len(tensors) > 1:
            sizes = {}
            for letters, tensor in zip(names, tensors, strict=True):
                sizes |= dict(zip(letters, tensor.shape, strict=True))
            total += math.prod(sizes.values())
        return plain_einsum(subscripts, *tensors, **kwargs)

    def matmul(x, y):
        nonlocal total
        product = plain_matmul(x, y)
        if not counted_above:
            total += math.prod(product.shape) * x.shape[-1]
        return product

    def attention(query, key, *args, **kwargs):
        nonlocal total
        total += 2 * math.prod(query.shape) * key.shape[1]
        return plain_attention(query, key, *args, **kwargs)

    def call(layer, x, *args, **kwargs):
        nonlocal total, counted_above
        kernels, kind = kernels_of(layer)
        counted_above += bool(kernels)
        y = plain_call(layer, x, *args, **kwargs)
        counted_above -= bool(kernels)
        if kernels:
            where = x if "Transpose" in kind else keras.tree.flatten(y)[0]
            sizes = sum(math.prod(kernel.shape) for kernel in kernels)
            # Examples count too: a reshape may have made several of one.
            total += math.prod(where.shape[:-1]) * sizes
        return y

    with contextlib.ExitStack() as patches:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.RNN):
                # A loop calls its cell once more, to see what it makes.
                patches.enter_context(mock.patch.object(layer, "unroll", True))
        patches.enter_context(mock.patch.object(keras.Layer, "__call__", call))
        for module, own in (
            (backend.numpy, einsum),
            (backend.numpy, matmul),
            (backend.nn, attention),
        ):
            name = {attention: "dot_product_attention"}.get(own, own.__name__)
            patches.enter_context(mock.patch.object(module, name, own))
        model(x)
    return total


def kernels_of(layer: keras.Layer) -> tuple[list, str]:
    """The kernels that a layer itself multiplies by, and the class of what does."""
    if isinstance(layer, keras.layers.EinsumDense):
        return [], "EinsumDense"
    kernels = [w for w in layer.weights if w.name.endswith("kernel")]
    if isinstance(layer, keras.layers.TimeDistributed):
        # It runs what is inside without calling it.
        return kernels, type(layer.layer).__name__
    inside = layer._flatten_layers(include_self=False)
    others = {id(weight) for other in inside for weight in other.weights}
    return [w for w in kernels if id(w) not in others], type(layer).__name__


def counted_params(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.weights)


def output(model: keras.Model, x):
    return ops.convert_to_numpy(model(x, training=False))


def difference(y, expected) -> float:
    return float(np.abs(y - expected).max() / np.abs(expected).max())


if __name__ == "__main__":
    main()
