"""Slopes of the network's output at what its consumers make, example by example.

They are the gradients of -log p(y) at the linear outputs of the consumers, for
labels y drawn from the network's own output: no labels are needed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, float32, pulled_back
from keras_greedy.graph.calls import Call, one_by_one
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.selection.consumers import Consumer

LEAST_DRAW = 1e-6
"""Distance of the uniform draws from 0 and 1, where their logarithms are infinite."""


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


class Slopes:
    """The gradients at the linear outputs of the consumers.

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
        kinds = outputs_of(graph)
        # Integers have no slope.
        self._places = [i for i, kind in enumerate(kinds) if kind.kind != "none"]
        self._kinds = [kinds[i] for i in self._places]
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}
        for index, consumer in consumers.items():
            kernel = consumer.kernel(consumer.matrix())
            bias = consumer.bias()
            self._weights[index] = (float32(kernel), float32(bias))

    def of_batch(
        self,
        inputs: list[Tensor],
        uniforms: Sequence[list[Tensor]],
        variances: Sequence[Tensor] = (),
    ) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Returns what each call of a consumer reads, and the gradients behind it.

        Args:
            inputs: One tensor per input of the model.
            uniforms: For each label that is to be drawn of an example, numbers in
                (0, 1) of each output's shape, from `uniform_draws`.
            variances: Of each of the model's outputs, for those of real numbers; by
                default those of this batch.

        Returns:
            For each call of a consumer its input, and for each draw a list of the
            gradients at the linear output of each call.
        """
        # Of these the shapes alone are needed: a compiler leaves out all the rest.
        _, _, linear = self._run(inputs)
        # The gradient at a linear output is that at a shift added to it, at 0.
        zeros = [ops.zeros_like(own) for own in linear]

        def directions(outputs: list[Tensor]) -> list[list[Tensor]]:
            # d -log p(y) / d output for the drawn labels y, seen as a constant.
            return [self._sampled(outputs, u, variances) for u in uniforms]

        def shifted(shifts: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            outputs, reads, _ = self._run(inputs, shifts)
            return outputs, reads

        return pulled_back(shifted, zeros, directions)

    def stacked(
        self,
        inputs: list[Tensor],
        uniforms: Sequence[list[Tensor]],
        variances: Sequence[Tensor] = (),
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the same with one tensor for each call: `(n, draws, ...)`."""
        reads, of_draws = self.of_batch(inputs, uniforms, variances)
        of_calls = zip(*of_draws, strict=True)
        return reads, [ops.stack(draws, axis=1) for draws in of_calls]

    def _sampled(
        self,
        outputs: list[Tensor],
        uniform: list[Tensor],
        variances: Sequence[Tensor],
    ) -> list[Tensor]:
        found = []
        for place, kind, output in zip(self._places, self._kinds, outputs, strict=True):
            variance = variances[place] if variances else None
            found.append(kind.sampled_gradient(output, uniform[place], variance))
        return found

    def _run(
        self,
        inputs: list[Tensor],
        shifts: list[Tensor] | None = None,
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Runs the network, a shift added to each consumer's linear output.

        Args:
            inputs: One tensor per input of the model.
            shifts: For each call of a consumer the shift; no shifts by default.

        Returns:
            The model's outputs that have a slope, and the input and the linear output
            of each call of a consumer.
        """
        reads: dict[int, Tensor] = {}
        linear: dict[int, Tensor] = {}
        shift_of = dict(zip(self._consumers, shifts or [], strict=bool(shifts)))

        def apply(call: Call, *args: Any, **kwargs: Any) -> Tensor:
            consumer = self._consumers.get(call.index)
            if consumer is None:
                return call.compute(*args, **kwargs)
            kernel, bias = self._weights[call.index]
            read, *others = one_by_one(args)
            own = consumer.linear(read, kernel) + bias
            if shifts:
                own = own + shift_of[call.index]
            reads[call.index] = read
            linear[call.index] = own
            return consumer.activate(own, *others, **kwargs)

        outputs = self._graph.run_all(inputs, apply)
        own_outputs = [outputs[place] for place in self._places]
        return (
            own_outputs,
            [reads[index] for index in self._consumers],
            [linear[index] for index in self._consumers],
        )
