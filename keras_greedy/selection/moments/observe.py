"""Streaming second moments of the inputs of the consumers of a graph's groups."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, compiled
from keras_greedy.devices import parts_of, split
from keras_greedy.exact_products import exact_products
from keras_greedy.graph.calls import Call, one_by_one
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.masks import depends_on_masked, get_keras_mask
from keras_greedy.processes import own_draw
from keras_greedy.records import NO_RECORD, Record
from keras_greedy.selection.consumers import (
    Consumer,
    consumers_by_call,
    consumers_of,
)
from keras_greedy.selection.moments.scatter import Moments, Scatter
from keras_greedy.threads import in_parallel

POSITIONS_PER_IMAGE = 32
"""Neighbouring positions see nearly the same: more of one image adds little."""

OBSERVED = "observed"
"""The key of the number of batches that were observed, and of their moments."""

ALL = -1
"""In place of that number: there are no more."""


def observe(
    graph: ChannelGraph,
    batches: Iterable[list[np.ndarray]],
    seed: int = 0,
    first: int = 0,
    record: Record = NO_RECORD,
) -> tuple[Moments, Moments]:
    """Reads the data once and accumulates the moments of every consumer's input.

    Memory does not depend on the amount of data: moments are merged layer by layer, so
    that there is never a second sum of all. At most 32 positions per image are sampled,
    anew for each batch.

    Args:
        graph: The traced model.
        batches: Lists of arrays, one per model input.
        seed: Of the sampled positions.
        first: How many examples to keep apart.
        record: Keeps the moments of the batches so far.

    Returns:
        The `Moments` of (at least) the `first` examples, and of the others.

    Raises:
        ValueError: When the model makes NaN or infinite values of the data.
    """
    consumers = consumers_by_call(graph)
    rng = np.random.default_rng(seed)
    batch_scatters = compiled(_batch_scatters(graph, consumers))
    done, *found = record.get(OBSERVED) or (0, *_nothing(graph))
    if done == ALL:
        return tuple(found)
    apart, others = (dict(moments.scatters) for moments in found)
    del found  # So that a sum goes as soon as the next one is there.
    seen = 0
    seen_apart = 0
    for number, batch in enumerate(batches, start=1):
        positions = own_draw(lambda: _positions(consumers.values(), rng))
        # A batch stays whole: the boundary is that of the batch that crosses it.
        is_apart = seen < first
        if seen_apart and not is_apart:
            # There are no more of them.
            apart = _in_single_precision(apart)
        sums = apart if is_apart else others
        seen += len(batch[0])
        if is_apart:
            seen_apart = seen
        if number <= done:
            # Positions are drawn for it all the same: so the others get their own.
            continue
        # The results have no name here: they are gone before the next ones come.
        _add(sums, consumers, parts_of(batch_scatters(split(batch), positions)))
        record.put(OBSERVED, (number, *_both(apart, seen_apart, others, seen)))
    both = _both(apart, seen_apart, others, seen)
    record.put(OBSERVED, (ALL, *both))
    return both


def _positions(
    consumers: Iterable[Consumer],
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Returns the positions to sample for each consumer."""
    return [own.positions(rng, POSITIONS_PER_IMAGE) for own in consumers]


def _in_single_precision(sums: dict[str, Scatter]) -> dict[str, Scatter]:
    """Returns scatters that take half the memory; each batch's was no more exact."""
    scatters = {}
    for name in list(sums):
        # One after the other, so that there are never two sums of all.
        own = sums.pop(name)
        single = own.scatter.astype("float32", copy=False)
        scatters[name] = dataclasses.replace(own, scatter=single)
    return scatters


def _nothing(graph: ChannelGraph) -> tuple[Moments, Moments]:
    """Returns the moments of no examples, of both parts."""
    zero = Moments.zero(consumers_of(graph))
    return zero, zero


def _both(
    apart: dict[str, Scatter],
    seen_apart: int,
    others: dict[str, Scatter],
    seen: int,
) -> tuple[Moments, Moments]:
    """Returns the moments of both parts, which later sums do not change."""
    return Moments({**apart}, seen_apart), Moments({**others}, seen - seen_apart)


def _batch_scatters(
    graph: ChannelGraph,
    consumers: dict[int, Consumer],
) -> Callable[[list[Tensor], list[Tensor]], list[tuple]]:
    """Returns a function of a batch and of the positions to sample for each consumer.

    It gives the count, mean and scatter of each consumer's rows, in their order.
    """
    # Nothing behind the last consumer is needed.
    calls = graph.calls[: 1 + max(consumers)]
    masked = set()
    for index, consumer in consumers.items():
        if not depends_on_masked(graph, consumer.call):
            masked.add(index)

    def batch_scatters(
        inputs: list[Tensor],
        positions: list[Tensor],
    ) -> list[tuple]:
        sampled = dict(zip(consumers, positions, strict=True))
        found = []

        def apply(call: Call, *args: Any, **kwargs: Any) -> Tensor:
            if call.index in consumers:
                consumer = consumers[call.index]
                at = sampled[call.index]
                read, *_ = one_by_one(args)
                rows = consumer.rows(read, at)
                mask = get_keras_mask(read) if call.index in masked else None
                counted = None if mask is None else consumer.counted(read, mask, at)
                found.append(_scatter_of(rows, counted))
            return call.compute(*args, **kwargs)

        values = graph.feed(inputs)
        graph.run(values, calls, apply)
        return found

    return batch_scatters


@exact_products()
def scatter_of(rows: Tensor) -> Scatter:
    """Returns the scatter of `(n, F)` rows."""
    count, mean, scatter = map(ops.convert_to_numpy, _scatter_of(rows[:, None], None))
    return Scatter(int(count), mean.astype(float), scatter.astype(float))


def _scatter_of(
    rows: Tensor,
    counted: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns count, mean and scatter of rows.

    Args:
        rows: `(n, folds, F)`.
        counted: `(n,)` Booleans, false for the rows that are to be left out; `None`
            for all rows.

    Returns:
        The count, the mean `(folds, F)` and the scatter `(F, F)`.
    """
    rows = ops.cast(rows, "float32")
    features = rows.shape[-1]
    if counted is not None:
        counted = ops.reshape(counted, (-1, 1, 1))
        count = ops.sum(ops.cast(counted, "int32"))
        # Whatever stands there, NaN as well, is not looked at.
        rows = ops.where(counted, rows, 0.0)
        mean = ops.sum(rows, axis=0) / ops.cast(ops.maximum(count, 1), "float32")
        centred = ops.where(counted, rows - mean, 0.0)
    else:
        count = ops.shape(rows)[0]
        # Centred before they are squared: of float32 squares of a large mean, no digits
        # of a small variance would be left.
        mean = ops.mean(rows, axis=0)
        centred = rows - mean
    centred = ops.reshape(centred, (-1, features))
    scatter = ops.matmul(ops.transpose(centred), centred)
    return count, mean, scatter


def _add(
    sums: dict[str, Scatter],
    consumers: dict[int, Consumer],
    parts: list[list[tuple]],
) -> None:
    """Merges the scatters of a batch into those of all before it, layer by layer.

    Args:
        sums: Name of a consumer -> `Scatter`; changed in place.
        consumers: Index of a call -> `Consumer`.
        parts: For each device, count, mean and scatter of each consumer's rows, as
            tensors.
    """
    # A layer that is called several times has the rows of all its calls.
    calls: dict[str, list[tuple[Consumer, tuple]]] = {}
    for results in parts:
        for consumer, result in zip(consumers.values(), results, strict=True):
            calls.setdefault(consumer.call.name, []).append((consumer, result))

    def merged(name: str) -> Scatter:
        scatter = sums[name]
        for consumer, result in calls[name]:
            scatter = scatter.merge(_on_host(consumer, result))
        return scatter

    for name, scatter in zip(calls, in_parallel(merged, calls), strict=True):
        sums[name] = scatter


def _on_host(consumer: Consumer, result: tuple) -> Scatter:
    """Returns a batch's scatter on the host, float32 as it was made.

    Args:
        consumer: The consumer.
        result: Count, mean and scatter of its rows, as tensors.

    Raises:
        ValueError: When a value is NaN or infinite.
    """
    count, mean, scatter = (ops.convert_to_numpy(part) for part in result)
    if not np.isfinite(scatter).all():
        raise ValueError(
            "Expected the model to make finite values of `data`. Received: NaN or "
            f"infinite values at the input of layer '{consumer.call.name}'."
        )
    count = int(count)
    mean, scatter = consumer.usable(count, mean.astype(float), scatter)
    return Scatter(count, mean, scatter)
