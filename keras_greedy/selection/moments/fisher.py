"""Fisher weights: how much the network's output depends on each consumer's outputs.

To second order, a small change e of a consumer's linear output z changes the
network's output distribution by the divergence `1/2 e' M e`, where M is the Fisher
information `E[g g']` with `g = d log p(y) / d z` for a label y drawn from the
network's own output. Its diagonal weighs the columns of the consumer's kernel in the
global imitation error; no labels are needed.
"""

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, compiled
from keras_greedy.devices import parts_of, split
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.processes import own_draw, total_of_processes
from keras_greedy.records import NO_RECORD, Record
from keras_greedy.selection.consumers import consumers_by_call
from keras_greedy.selection.slopes import Slopes, uniform_draws

WEIGHED = "weighed"
"""The key of the number of batches that were weighed, and of the sums over them."""


def sensitivities(
    graph: ChannelGraph,
    batches: Iterable[list[np.ndarray]],
    seed: int = 0,
    record: Record = NO_RECORD,
    turn: int = 1,
) -> dict[str, np.ndarray]:
    """Returns the diagonal Fisher information of every consumer's linear output.

    Args:
        graph: The traced model.
        batches: Lists of arrays, one per model input.
        seed: Of the drawn labels.
        record: Keeps the sums over the batches so far.
        turn: How many batches each process reads before the next one does.

    Returns:
        Name of a consumer -> `(outputs,)` mean over the examples of the squared
        gradient at the consumer's output before its activation, summed over
        positions.

    Reference: Ye, Wu and Liu, Greedy Optimization Provably Wins the Lottery, NeurIPS
    2020: global imitation with Taylor approximation.
    """
    rng = np.random.default_rng(seed)
    consumers = consumers_by_call(graph)
    slopes = Slopes(graph, consumers)

    def of_batch(inputs: list[Tensor], uniform: list[Tensor]) -> list[Tensor]:
        _, (gradients,) = slopes.of_batch(inputs, [uniform])
        return _squares(gradients)

    squared_gradients = compiled(of_batch)
    nothing: dict[str, Any] = {}
    for consumer in consumers.values():
        nothing[consumer.call.name] = 0.0
    done, totals = record.get(WEIGHED) or (0, nothing)
    seen = 0
    waiting: list[list[np.ndarray]] = []
    for number, batch in enumerate(batches, start=1):
        examples = len(batch[0])
        if not waiting:
            given = (graph, turn, examples, rng)
            waiting = own_draw(functools.partial(_draws_of_turn, *given))
        draws = [uniform[:examples] for uniform in waiting.pop(0)]
        seen += examples
        if number <= done:
            # Labels are drawn for it all the same: so the others get their own.
            continue
        found = squared_gradients(split(batch), split(draws))
        totals = dict(totals)
        for squares in parts_of(found):
            # A layer that is called several times has the sum over its calls.
            for consumer, square in zip(consumers.values(), squares, strict=True):
                square = ops.convert_to_numpy(square)
                name = consumer.call.name
                totals[name] = totals[name] + square.astype(float)
        record.put(WEIGHED, (number, totals))
    examples = total_of_processes(seen)
    means = {}
    for name, total in totals.items():
        means[name] = total_of_processes(total) / examples
    return means


def _draws_of_turn(
    graph: ChannelGraph,
    turn: int,
    examples: int,
    rng: np.random.Generator,
) -> list[list[np.ndarray]]:
    return [uniform_draws(graph, examples, rng) for _ in range(turn)]


def _squares(gradients: list[Tensor]) -> list[Tensor]:
    """Returns the `(outputs,)` sums of the squares of each gradient."""
    squares = []
    for gradient in gradients:
        last = len(gradient.shape) - 1
        all_but_last = list(range(last))
        squares.append(ops.sum(ops.square(gradient), axis=all_but_last))
    return squares
