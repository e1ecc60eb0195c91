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

from keras_greedy.backend import Tensor, compiled, float32, gradients
from keras_greedy.devices import parts_of, split
from keras_greedy.graph.calls import Call, one_by_one
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.processes import own_draw, total_of_processes
from keras_greedy.records import NO_RECORD, Record
from keras_greedy.selection.consumers import Consumer, consumers_by_call

LEAST_DRAW = 1e-6
"""Distance of the uniform draws from 0 and 1, where their logarithms are infinite."""

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
    squared_gradients = compiled(_SquaredGradients(graph, consumers).of_batch)
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


def uniform_draws(
    graph: ChannelGraph,
    examples: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Returns the uniform numbers that labels are drawn with, float32.

    Args:
        graph: The traced model.
        examples: Number of examples n.
        rng: Source of the numbers.

    Returns:
        One array per output of the model, `(n, ...)` of the output's shape.
    """
    draws = []
    for tensor, output in zip(graph.outputs, outputs_of(graph), strict=True):
        shape = (examples, *tensor.shape[1:])
        if output.kind == "none":
            # No label is drawn: the draws of the others stay what they were.
            uniform = np.full(shape, 0.5)
        else:
            uniform = rng.uniform(LEAST_DRAW, 1 - LEAST_DRAW, shape)
        draws.append(uniform.astype("float32"))
    return draws


class _SquaredGradients:
    """The squared gradients at the linear outputs of the consumers.

    Args:
        graph: The traced model.
        consumers: Index of a call -> `Consumer`.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        consumers: dict[int, Consumer],
    ):
        self._graph = graph
        self._consumers = consumers
        self._outputs = outputs_of(graph)
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}
        for index, consumer in consumers.items():
            kernel = consumer.kernel(consumer.matrix())
            bias = consumer.bias()
            self._weights[index] = (float32(kernel), float32(bias))

    def of_batch(
        self,
        inputs: list[Tensor],
        uniform: list[Tensor],
    ) -> list[Tensor]:
        """Returns `(outputs,)` for each call of a consumer, summed over examples.

        Args:
            inputs: One tensor per input of the model.
            uniform: Numbers in (0, 1) of each output's shape, from `uniform_draws`.
        """
        outputs, linear = self._run(inputs)
        # d -log p(y) / d output for the drawn labels y. Seen as a constant: the
        # gradient of its product with the output is that of -log p(y).
        directions = []
        for kind, output, u in zip(self._outputs, outputs, uniform, strict=True):
            directions.append(kind.sampled_gradient(output, u))

        def along_directions(shifts: list[Tensor]) -> Tensor:
            shift_of = dict(zip(self._consumers, shifts, strict=True))
            shifted, _ = self._run(inputs, shift_of)
            total = 0
            for output, direction in zip(shifted, directions, strict=True):
                total = total + ops.sum(output * direction)
            return total

        # The gradient at a linear output is that at a shift added to it, at 0.
        zeros = []
        for index in self._consumers:
            zeros.append(ops.zeros_like(linear[index]))
        squares = []
        for gradient in gradients(along_directions, zeros):
            last = len(gradient.shape) - 1
            all_but_last = list(range(last))
            square = ops.square(gradient)
            squares.append(ops.sum(square, axis=all_but_last))
        return squares

    def _run(
        self,
        inputs: list[Tensor],
        shifts: dict[int, Tensor] | None = None,
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """Runs the network, a shift added to each consumer's linear output.

        Args:
            inputs: One tensor per input of the model.
            shifts: Index of a consumer's call -> the shift; no shifts by default.

        Returns:
            The model's outputs, and the linear output of each consumer's call.
        """
        linear = {}

        def apply(call: Call, *args: Any, **kwargs: Any) -> Tensor:
            consumer = self._consumers.get(call.index)
            if consumer is None:
                return call.compute(*args, **kwargs)
            kernel, bias = self._weights[call.index]
            read, *others = one_by_one(args)
            own = consumer.linear(read, kernel) + bias
            if shifts is not None:
                own = own + shifts[call.index]
            linear[call.index] = own
            return consumer.activate(own, *others, **kwargs)

        return self._graph.run_all(inputs, apply), linear
