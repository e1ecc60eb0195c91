"""The full model and the compact one, run side by side on the same examples."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.batches import Arrays
from keras_greedy.devices import spread
from keras_greedy.graph.calls import Apply, Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.masks import get_keras_mask
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.processes import total_of_processes
from keras_greedy.selection.moments import Scatter, scatter_of
from keras_greedy.training.batch_norm import normalized_by_batch
from keras_greedy.training.readers import Reader, rows_at

BYTES = 4
"""Of a float32."""


class SideBySide:
    """Both models, run up to the same layer.

    The BatchNorms of the compact one normalise by the statistics of each batch.

    Args:
        full: The full model.
        compact: The compact one, whose weights may change where it has not come yet.
        seen: The examples to fit to.
        held: The examples to judge by.
    """

    def __init__(
        self,
        full: ChannelGraph,
        compact: ChannelGraph,
        seen: list[Arrays],
        held: list[Arrays],
    ):
        self._outputs = outputs_of(full)
        self._full = _Run(full, seen, _as_it_is)
        self._compact = _Run(compact, seen, _by_the_batch)
        self._held = _Run(compact, held, _by_the_batch)
        self._wanted = _Run(full, held, _as_it_is).answers()

    def advance(self, reader: Reader) -> None:
        """Runs both models up to a layer."""
        self._full.advance(reader.full.call)
        self._compact.advance(reader.compact.call)
        self._held.advance(reader.compact.call)

    def divergence(self) -> float:
        """Returns the divergence of the outputs, summed over the held examples."""
        total = 0.0
        for wanted, found in zip(self._wanted, self._held.answers(), strict=True):
            for output, one, other in zip(self._outputs, wanted, found, strict=True):
                total += float(ops.sum(output.divergence(one, other)))
        return total_of_processes(total)

    def scatter(self, reader: Reader, positions: np.ndarray) -> Scatter | None:
        """Returns the moments of what a layer reads and of what it is to make.

        Args:
            reader: The layer that both models have come to.
            positions: `(P,)` numbers of output positions.

        Returns:
            Of its rows, `(F,)`, and their targets, `(outputs,)`, side by side; `None`
            where positions are masked.
        """
        (read_in_full,) = reader.full.call.inputs
        (read,) = reader.compact.call.inputs
        masks = [get_keras_mask(own[read]) for own in self._compact.values]
        is_masked = any(mask is not None for mask in masks)
        if total_of_processes(int(is_masked)):
            return None
        at = ops.convert_to_tensor(positions)
        # One of several processes may have nothing but examples to judge by.
        total = Scatter.zero(1, len(reader.compact.features) + len(reader.kept))
        for full, own in zip(self._full.values, self._compact.values, strict=True):
            target = reader.target(full[read_in_full], at)
            if reader.stream is not None:
                # What the stream lacks, the layer is to make up for.
                wanted = rows_at(full[reader.stream.full], at)
                found = rows_at(own[reader.stream.compact], at)
                target = target + ops.take(wanted, reader.stream.kept, axis=1) - found
            rows = ops.squeeze(reader.compact.rows(own[read], at), axis=1)
            rows = ops.cast(rows, "float32")
            both = scatter_of(ops.concatenate([rows, target], axis=1))
            total = total.merge(both)
        return total.over_processes()


class _Run:
    """A model run on some batches, up to a call.

    Args:
        graph: The model.
        batches: The batches.
        apply: Computes a call.

    Attributes:
        values: Of each batch, the tensors that are needed further on.
    """

    def __init__(self, graph: ChannelGraph, batches: list[Arrays], apply: Apply):
        self._graph = graph
        self._apply = apply
        self._next = 0
        self.values = []
        for batch in batches:
            self.values.append(graph.feed(spread(batch)))

    def advance(self, call: Call) -> None:
        """Runs the calls before this one."""
        calls = self._graph.calls[self._next : call.index]
        for values in self.values:
            self._graph.run(values, calls, self._apply)
        self._next = call.index

    def answers(self) -> list[list[Tensor]]:
        """Returns the outputs of each batch; the run stays where it is."""
        calls = self._graph.calls[self._next :]
        answers = []
        for values in self.values:
            at_the_end = self._graph.run(dict(values), calls, self._apply)
            answers.append([at_the_end[tensor] for tensor in self._graph.outputs])
        return answers


def bytes_of_one(graph: ChannelGraph, readers: Sequence[Reader]) -> int:
    """Returns the most bytes that an example takes in both models, at these layers."""
    most = 1
    for reader in readers:
        live = graph.live_before(reader.full.call.index)
        entries = [math.prod(size or 1 for size in x.shape[1:]) for x in live]
        most = max(most, sum(entries))
    return 2 * BYTES * most


def _as_it_is(call: Call, *args: Any, **kwargs: Any) -> Any:
    return call.compute(*args, **kwargs)


def _by_the_batch(call: Call, *args: Any, **kwargs: Any) -> Any:
    """Computes a call; a BatchNorm by the statistics of the batch."""
    if isinstance(call.operation, keras.layers.BatchNormalization):
        return normalized_by_batch(call.operation, *args, **kwargs).y
    return call.compute(*args, **kwargs)
