"""The layers whose kernels may be of 4 bits, and what that costs the network's output.

It is measured as the cut of a group is: one kernel alone is changed, and the outputs
are compared.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, compiled, float32
from keras_greedy.devices import split, summed
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.processes import total_of_processes
from keras_greedy.selection.consumers import Consumer, consumers_of
from keras_greedy.selection.measured import total_divergence
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.rounding import in_four_bits
from keras_greedy.selection.segments import NO_CUT, Cut, Segments

IN_FOUR_BITS = (keras.layers.Conv2D, keras.layers.Dense)
"""Exactly these: for what they become the runtime has kernels of int4."""


def four_bit_layers(graph: ChannelGraph) -> dict[str, Consumer]:
    """Returns the layers whose kernels may be of 4 bits, by name, in their order.

    They read channels that may be cut, so that the moments of their inputs are known.

    Args:
        graph: The traced model.
    """
    found = {}
    for name, consumer in consumers_of(graph).items():
        layer = consumer.call.operation
        is_grouped = getattr(layer, "groups", 1) > 1
        if type(layer) in IN_FOUR_BITS and not is_grouped:
            found[name] = consumer
    return found


def measure_four_bits(
    graph: ChannelGraph,
    moments: Moments,
    batches: Iterable[list[np.ndarray]],
    shown: Callable[[Iterable], Iterable] = iter,
) -> dict[str, float]:
    """Returns the divergence of the output with one kernel alone in 4 bits.

    Args:
        graph: The traced model.
        moments: From `observe`, best of other examples.
        batches: Lists of arrays, one per model input.
        shown: Passes on the layers, and shows the progress.

    Returns:
        Name of each of the `four_bit_layers` -> mean divergence per example.
    """
    batches = list(batches)
    examples = total_of_processes(sum(len(batch[0]) for batch in batches))
    divergences = {}
    for name, lost in shown(_lost(graph, moments, batches)):
        divergences[name] = float(total_of_processes(np.array(lost))) / examples
    return divergences


def _lost(
    graph: ChannelGraph,
    moments: Moments,
    batches: list[list[np.ndarray]],
) -> Iterator[tuple[str, float]]:
    """Yields the name and the summed divergence of each layer."""
    segments = Segments(graph, consumers_of(graph), graph.groups)
    by_segment: dict[int, dict[str, Consumer]] = {}
    for name, consumer in four_bit_layers(graph).items():
        number = segments.number_of(consumer.call)
        by_segment.setdefault(number, {})[name] = consumer
    outputs = outputs_of(graph)

    def total(full: list[Tensor], found: list[Tensor]) -> Tensor:
        return total_divergence(outputs, full, found)

    total = compiled(total)
    live = [split(batch) for batch in batches]
    full = [segments.outputs(0, one, NO_CUT) for one in live]
    for number, _ in segments:
        for name, consumer in by_segment.get(number, {}).items():
            kernel, bias = in_four_bits(consumer, moments.scatters[name])
            rounded = Cut({name: (float32(kernel), float32(bias))}, {})
            totals = []
            for one, expected in zip(live, full, strict=True):
                found = segments.outputs(number, one, rounded)
                totals.append(summed(total(expected, found)))
            yield name, float(np.sum(ops.convert_to_numpy(ops.stack(totals))))
        live = [segments.step(number, one) for one in live]


def curve_of(divergence: float) -> np.ndarray:
    """Returns the `(9,)` divergence at each number of bits, infinite at no choice.

    Args:
        divergence: That of 4 bits; 8 bits cost nothing.
    """
    curve = np.full(9, np.inf)
    curve[4] = max(divergence, 0.0)
    curve[8] = 0.0
    return curve


def curves_of(divergences: Mapping[str, float], names: Mapping[str, str]) -> dict:
    """Returns the curves by what stands for the bits of each layer.

    Args:
        divergences: From `measure_four_bits`.
        names: `Costs.bits`.
    """
    return {bits: curve_of(divergences[layer]) for bits, layer in names.items()}
