"""Rounds kernels of a model to 4 bits, to what their layers read of data."""

from collections.abc import Callable, Collection, Mapping, Sequence

import keras
from keras import ops

from keras_greedy.batches import Batches, Data
from keras_greedy.graph.answering import answering
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.file_size import FOUR_BITS
from keras_greedy.graph.fold import foldable_norms
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.processes import share_of, total_of_processes
from keras_greedy.scopes import scope_of
from keras_greedy.selection.consumers import Consumer
from keras_greedy.selection.cut import placed
from keras_greedy.selection.four_bits import four_bit_layers
from keras_greedy.selection.moments import Scatter, observe
from keras_greedy.selection.rounding import in_four_bits
from keras_greedy.training.batch_norm import reestimate_batch_norm
from tflite_export.checks import shown

EXAMPLES_COMPARED = 128
"""So many tell whether statistics measured anew are the better ones."""


def round_kernels(model: keras.Model, data: Data, layers: Collection[str]) -> None:
    """Rounds the kernels of some layers to 4 bits, and makes the others fit.

    Each weight becomes a whole multiple, from -7 to 7, of a step of its output channel,
    so that `tflite_export.quantize(..., "rounded")` stores it in 4 bits as it is. The
    weights of a layer are rounded one after the other, each error made up for by those
    behind it, as far as the layer's inputs of the data are correlated; BatchNorm
    statistics are measured anew where that brings the outputs closer. Any training
    moves kernels away from their steps: call this after it.

    Args:
        model: A Functional or Sequential model; changed in place.
        data: Inputs, or `(inputs, labels)`, in any form `prune` accepts.
        layers: Names of Conv2D and Dense layers, as `SelectionPaths.bits` has them.

    Raises:
        ValueError: When a name is not that of such a layer that reads the channels of
            another one, or the data do not fit the model.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    data = np.random.default_rng(0).normal(size=(64, 10))
    keras_greedy.round_kernels(model, data, ["head"])
    kernel = model.get_layer("head").kernel.numpy()
    steps = np.abs(kernel).max(axis=0) / 7
    assert np.allclose(kernel / steps, np.rint(kernel / steps), atol=1e-4)
    ```
    """
    graph = trace_quietly(model)
    consumers = four_bit_layers(graph)
    for name in layers:
        if name not in consumers:
            raise ValueError(
                "Expected `layers` to be names of Conv2D and Dense layers that read "
                f"channels of other layers: {shown([*consumers])}. Received: {name!r}"
            )
    _round_all(graph, [consumers[name] for name in layers], model, data)


def round_to_bits(model: keras.Model, data: Data, bits: Mapping[str, int]) -> None:
    """Rounds the kernels that are to have 4 bits, of the layers that are there.

    Args:
        model: As for `round_kernels`.
        data: As for `round_kernels`.
        bits: Layer name -> the bits of its kernel; its branch may have gone.
    """
    if FOUR_BITS not in bits.values():
        return
    graph = trace_quietly(model)
    consumers = []
    for name, consumer in four_bit_layers(graph).items():
        if bits.get(name) == FOUR_BITS:
            consumers.append(consumer)
    if consumers:
        _round_all(graph, consumers, model, data)


def _round_all(
    graph: ChannelGraph,
    consumers: Sequence[Consumer],
    model: keras.Model,
    data: Data,
) -> None:
    with scope_of(model):
        batches = Batches.of(data, graph.functional)
        distance = _distance_from_now(graph, model, batches)
        _, moments = observe(graph, batches)
        moments = moments.over_processes()
        for consumer in consumers:
            _round(graph, consumer, moments.scatters[consumer.call.name])
        # Statistics of few examples are no better than those of the training, unless
        # what they are of has changed: the outputs tell.
        before = model.get_weights()
        rounded = distance()
        reestimate_batch_norm(model, data)
        if distance() >= rounded:
            model.set_weights(before)


def _distance_from_now(
    graph: ChannelGraph,
    model: keras.Model,
    batches: Batches,
) -> Callable[[], float]:
    """Returns a function that tells how far the outputs have come from those of now."""
    answers = answering(model)
    few = list(batches.take(share_of(EXAMPLES_COMPARED)))
    expected = [answers(batch) for batch in few]
    outputs = outputs_of(graph)

    def distance() -> float:
        total = 0.0
        for batch, wanted in zip(few, expected, strict=True):
            for output, one, other in zip(outputs, wanted, answers(batch), strict=True):
                total += float(ops.sum(output.divergence(one, other)))
        return float(total_of_processes(total))

    return distance


def _round(graph: ChannelGraph, consumer: Consumer, scatter: Scatter) -> None:
    """Rounds the kernel of one layer in place, and gives the mean of the rest back."""
    kernel, bias = in_four_bits(consumer, scatter)
    norm = foldable_norms(graph).get(consumer.call.index)
    operations = {consumer.call.name: consumer.call}
    if norm is not None:
        operations[norm.name] = norm
    for name, arrays in placed(consumer, norm, kernel, bias).items():
        weights = operations[name].weights
        for weight, array in arrays.items():
            # A layer without bias and BatchNorm has no place for the mean.
            if weight in weights:
                weights[weight].assign(array)
