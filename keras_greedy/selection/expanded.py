"""Output divergence to second order: every cut of all groups, in a few passes.

To measure a cut, the network behind it has to be run; for cuts of all groups that is
the whole network many times over. But a cut changes what the readers of its group
make, by `d = x (W' - W) + b' - b` at each position, and to second order the output
diverges by

    1/2 E[(g . d)^2]

where g is the gradient of -log p(y) at what the readers make, for labels y drawn from
the network's own output, and the product is summed over the positions, the outputs and
the readers [NeurIPS, global imitation with Taylor approximation]. The gradients of all
readers come from one pass back, and a cut takes no more than its own readers.

The errors of an example add up over its positions before they are squared: the
diagonal of the Fisher information, which weighs the selection, leaves that out.
"""

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
from keras import KerasTensor, ops

from keras_greedy.backend import Tensor, compiled, float32
from keras_greedy.devices import device_count, gathered, split, summed
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.processes import own_draw
from keras_greedy.selection.consumers import Consumer, consumers_by_call
from keras_greedy.selection.divergence import FREE_TO_SECOND_ORDER
from keras_greedy.selection.measured import Lost, Measurement
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.reconstruction import KernelAndBias, Reconstruct
from keras_greedy.selection.segments import NO_CUT, Weights, kernels_of_cuts
from keras_greedy.selection.slopes import Slopes, uniform_draws
from keras_greedy.threads import in_parallel

DRAWS = 4
"""Labels drawn of each example: a backward pass for each."""

EXAMPLES_AT_ONCE = 16
"""Not more on each device; fewer where their gradients take `BYTES_OF_SLOPES`."""

BYTES_OF_SLOPES = 5 * 2**27
"""Of the gradients at all readers, of all draws."""

BYTES_OF_CUTS = 2**30
"""Of the new weights of so many cuts at once, or of one group's."""

FLOAT_BYTES = 4

LONG_SIDE = 64
"""Taken for the length of a side that is not known."""


class ExpandedMeasurement(Measurement):
    """A `Measurement` to second order.

    Groups behind which something is normalised over the channels are measured: that
    changes with a cut, too.

    Args:
        graph: As for `Measurement`, like the others.
        moments: See there.
        reconstruct: See there.
        seed: Of the labels drawn.
    """

    looks_at_once = 8
    free = FREE_TO_SECOND_ORDER

    def __init__(
        self,
        graph: ChannelGraph,
        moments: Moments,
        reconstruct: Reconstruct,
        seed: int,
    ):
        super().__init__(graph, moments, reconstruct)
        self._seed = seed
        calls = consumers_by_call(graph)
        self._slopes = compiled(Slopes(graph, calls).stacked)
        made = [consumer.call.outputs[0] for consumer in calls.values()]
        self._examples_at_once = _examples_at_once(made) * device_count()
        # Group name -> the places of its readers among the calls of consumers.
        self._readers: dict[str, list[int]] = {}
        self._squares: dict[str, Callable[..., Tensor]] = {}
        for group in graph.groups:
            places, consumers = [], []
            for place, consumer in enumerate(calls.values()):
                if consumer.call.name in group.consumer_names:
                    places.append(place)
                    consumers.append(consumer)
            self._readers[group.name] = places
            squares = functools.partial(_sum_of_squares, consumers)
            self._squares[group.name] = compiled(squares)

    def _lost(
        self,
        widths: Mapping[str, np.ndarray],
        paths: Mapping[str, SelectionPath],
        batches: list[list[np.ndarray]],
        known: Collection[str],
    ) -> Iterator[Lost]:
        expanded: list[ChannelGroup] = []
        measured: dict[str, np.ndarray] = {}
        left = {name for name, own in widths.items() if len(own)} - set(known)
        for group in self._graph.groups:
            if group.name in left and group.normalizers:
                measured[group.name] = widths[group.name]
            elif group.name in left:
                expanded.append(group)
        for some in self._at_once(expanded, widths):
            yield from self._lost_by_all(some, widths, paths, batches)
        yield from super()._lost(measured, paths, batches, known)

    def _at_once(
        self,
        groups: Iterable[ChannelGroup],
        widths: Mapping[str, np.ndarray],
    ) -> Iterator[list[ChannelGroup]]:
        """Yields groups whose cuts are kept in memory together."""
        some: list[ChannelGroup] = []
        total = 0
        for group in groups:
            entries = 0
            for name in group.consumer_names:
                entries += int(np.prod(self._segments.own.weights[name][0].shape))
            size = FLOAT_BYTES * entries * len(widths[group.name])
            if some and total + size > BYTES_OF_CUTS:
                yield some
                some, total = [], 0
            some.append(group)
            total += size
        if some:
            yield some

    def _lost_by_all(
        self,
        groups: list[ChannelGroup],
        widths: Mapping[str, np.ndarray],
        paths: Mapping[str, SelectionPath],
        batches: list[list[np.ndarray]],
    ) -> Iterator[Lost]:
        """Yields the divergences of the cuts of some groups, summed over examples."""

        def changes_of(group: ChannelGroup) -> list[dict[str, KernelAndBias]]:
            return self._changes(group, paths[group.name], widths[group.name])

        changes: dict[str, list[dict[str, Weights]]] = {}
        totals: dict[str, np.ndarray] = {}
        for group, found in zip(groups, in_parallel(changes_of, groups), strict=True):
            changes[group.name] = [_as_tensors(change) for change in found]
            totals[group.name] = np.zeros(len(found))
        rng = np.random.default_rng(self._seed)
        for batch in batches:
            variances = self._variances(batch)
            uniforms = [self._draw(len(batch[0]), rng) for _ in range(DRAWS)]
            for rows in self._parts(len(batch[0])):
                inputs = split([array[rows] for array in batch])
                drawn = [split([u[rows] for u in uniform]) for uniform in uniforms]
                reads, slopes = self._slopes(inputs, drawn, variances)
                for group in groups:
                    readers = self._readers[group.name]
                    own_reads = [reads[place] for place in readers]
                    own_slopes = [slopes[place] for place in readers]
                    squares = []
                    for change in changes[group.name]:
                        given = (own_reads, own_slopes, change)
                        squares.append(summed(self._squares[group.name](*given)))
                    found = ops.convert_to_numpy(ops.stack(squares))
                    totals[group.name] += found.astype(float)
        for name, total in totals.items():
            yield name, total / (2 * DRAWS)

    def _variances(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        """Returns that of each output in a whole batch, if one is of real numbers.

        A part of a batch would have another, and the divergence is measured by it.
        """
        kinds = [output.kind for output in outputs_of(self._graph)]
        if "real" not in kinds:
            return []
        outputs = gathered(self._segments.outputs(0, split(batch), NO_CUT))
        found = [ops.convert_to_numpy(output) for output in outputs]
        return [np.var(own.astype(float)).astype("float32") for own in found]

    def _draw(self, examples: int, rng: np.random.Generator) -> list[np.ndarray]:
        return own_draw(lambda: uniform_draws(self._graph, examples, rng))

    def _parts(self, examples: int) -> list[slice]:
        """Returns the parts of a batch, whole where the model has a size of its own."""
        is_fixed = any(tensor.shape[0] for tensor in self._graph.functional.inputs)
        size = examples if is_fixed else self._examples_at_once
        starts = range(0, examples, size)
        return [slice(start, start + size) for start in starts]

    def _changes(
        self,
        group: ChannelGroup,
        path: SelectionPath,
        widths: np.ndarray,
    ) -> list[dict[str, KernelAndBias]]:
        """Returns how each cut changes the kernel and bias of each reader."""
        made = kernels_of_cuts(
            self._graph,
            self._consumers,
            self._moments,
            group,
            [path.scale(width) for width in widths],
            self._reconstruct,
        )
        own = {}
        for name in group.consumer_names:
            consumer = self._consumers[name]
            own[name] = (consumer.kernel(consumer.matrix()), consumer.bias())
        changes = []
        for cut in made:
            change = {}
            for name, (kernel, bias) in cut.items():
                own_kernel, own_bias = own[name]
                of_kernel = (kernel - own_kernel).astype("float32")
                of_bias = (bias - own_bias).astype("float32")
                change[name] = (of_kernel, of_bias)
            changes.append(change)
        return changes


def _examples_at_once(made: list[KerasTensor]) -> int:
    """Returns of how many examples a device keeps the gradients at some tensors."""
    numbers = 0
    for tensor in made:
        sides = [LONG_SIDE if side is None else side for side in tensor.shape[1:]]
        numbers += math.prod(sides)
    fitting = BYTES_OF_SLOPES // (FLOAT_BYTES * DRAWS * numbers)
    return max(1, min(fitting, EXAMPLES_AT_ONCE))


def _as_tensors(change: dict[str, KernelAndBias]) -> dict[str, Weights]:
    tensors = {}
    for name, (kernel, bias) in change.items():
        tensors[name] = (float32(kernel), float32(bias))
    return tensors


def _sum_of_squares(
    readers: list[Consumer],
    reads: list[Tensor],
    slopes: list[Tensor],
    change: dict[str, Weights],
) -> Tensor:
    """Returns the sum of `(g . d)^2` over examples and draws, for one cut.

    Args:
        readers: The calls that read what is cut.
        reads: What each of them reads.
        slopes: `(n, draws, ..., outputs)` the g of each of them.
        change: Name of a reader -> the change of its kernel and bias.
    """
    products: Tensor = 0.0
    for place, reader in enumerate(readers):
        kernel, bias = change[reader.call.name]
        # (n, ..., outputs)
        d = reader.linear(reads[place], kernel) + bias
        examples = ops.shape(d)[0]
        g = ops.reshape(slopes[place], (examples, DRAWS, -1))
        # (n, draws, 1): summed over the positions and outputs.
        products = products + ops.matmul(g, ops.reshape(d, (examples, -1, 1)))
    return ops.sum(ops.square(products))
