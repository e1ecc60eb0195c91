"""The divergence of one output of a network from another, and its derivative."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph

# The least probability, and the least variance. In float32 the number next to 1 is
# 1 - 6e-8: with much less here, 1 - SMALLEST would round to 1, and 1 - p to 0.
SMALLEST = 1e-7

# Above this probability the answer of a binary output is yes.
BINARY_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Output:
    """A network's output as a distribution.

    Attributes:
        kind: `"categorical"` and `"binary"` for probabilities, `"logits"` for a
            linear output trained with a `from_logits` loss, `"real"` for others.
    """

    kind: str

    def divergence(self, full: Tensor, cut: Tensor) -> Tensor:
        """Returns the divergence of each example: KL, or squared error over variance.

        Args:
            full: `(n, ...)` the full network's output.
            cut: `(n, ...)` the output to compare with it.

        Returns:
            `(n,)` divergences, in nats where the output is a distribution.
        """
        if self.kind == "real":
            # KL of two normal distributions of the variance that the output has.
            variance = ops.var(full) + SMALLEST
            return _sum_rest(ops.square(full - cut)) / (2 * variance)
        if self.kind == "logits":
            full = ops.softmax(full)
            cut = ops.softmax(cut)
        full = _as_probability(full)
        cut = _as_probability(cut)
        terms = full * ops.log(full / cut)
        if self.kind == "binary":
            terms += (1 - full) * ops.log((1 - full) / (1 - cut))
        return _sum_rest(terms)

    def right(
        self,
        output: Tensor,
        labels: Tensor,
    ) -> np.ndarray:
        """Returns whether the most probable answer is the label, over all positions.

        Args:
            output: `(n, ..., classes)` the network's output.
            labels: Class numbers, `(n, ...)` or `(n, ..., 1)`, or of the output's
                shape, one-hot.

        Returns:
            A flat Boolean array, one entry for each example and position.
        """
        output = ops.convert_to_numpy(output)
        labels = ops.convert_to_numpy(labels)
        if self.kind == "binary":
            answers = output.ravel() > BINARY_THRESHOLD
            return answers == (labels.ravel() > BINARY_THRESHOLD)
        if labels.shape == output.shape:
            labels = labels.argmax(axis=-1)
        return output.argmax(axis=-1).ravel() == labels.ravel()

    def sampled_gradient(self, output: Tensor, uniform: Tensor) -> Tensor:
        """Returns the gradient of -log p(y | output), y drawn from the output itself.

        Its second moment is the Fisher information, which is the second derivative
        of the divergence; no labels are needed.

        Args:
            output: `(n, ...)` the network's output.
            uniform: Numbers in (0, 1) of the same shape, the source of the draw.
        """
        if self.kind == "real":
            # +-1 / deviation has the second moment 1 / variance of a normal one.
            return ops.sign(uniform - 0.5) / ops.sqrt(ops.var(output) + SMALLEST)
        p = ops.softmax(output) if self.kind == "logits" else output
        p = _as_probability(p)
        if self.kind == "binary":
            # d/dp of -log p where y = 1 is drawn, of -log(1 - p) where y = 0.
            return ops.where(uniform < p, -1 / p, 1 / (1 - p))
        # The Gumbel trick: argmax(log p + gumbel noise) is a draw from p.
        gumbel = -ops.log(-ops.log(uniform))
        drawn = ops.argmax(ops.log(p) + gumbel, axis=-1)
        one_hot = ops.one_hot(drawn, p.shape[-1], dtype=p.dtype)
        # d/dlogits of -log softmax at the class drawn, or d/dp of -log p.
        return p - one_hot if self.kind == "logits" else -one_hot / p


def outputs_of(graph: ChannelGraph) -> list[Output]:
    """Returns the kind of each of the model's outputs."""
    makers = {}
    for call in graph.calls:
        for tensor in call.outputs:
            makers[tensor] = call
    outputs = []
    for tensor in graph.outputs:
        # An input that is an output has no maker.
        kind = _kind(graph.model, makers.get(tensor))
        outputs.append(Output(kind))
    return outputs


def _kind(
    model: keras.Model,
    call: Call | None,
) -> str:
    """Returns the kind of the output that a call makes."""
    if call is not None:
        operation = call.operation
        activation = getattr(operation, "activation", None)
        # By name: a layer, an operation, an activation, or a function of the user's.
        names = (type(operation).__name__.lower(), getattr(activation, "__name__", ""))
        if "softmax" in names:
            return "categorical"
        if "sigmoid" in names:
            return "binary"
    return "logits" if _is_trained_from_logits(model) else "real"


def _is_trained_from_logits(model: keras.Model) -> bool:
    """Returns whether the model is compiled with a loss that applies the softmax."""
    loss: Any = model.loss
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    categorical = (
        keras.losses.CategoricalCrossentropy,
        keras.losses.SparseCategoricalCrossentropy,
    )
    if not isinstance(loss, categorical):
        return False
    return bool(loss.get_config().get("from_logits", False))


def _as_probability(p: Tensor) -> Tensor:
    """Returns `p` away from 0 and 1, where its logarithms end."""
    return ops.clip(p, SMALLEST, 1 - SMALLEST)


def _sum_rest(x: Tensor) -> Tensor:
    """Returns the `(n,)` sums over all axes but the first."""
    rows = ops.reshape(x, (ops.shape(x)[0], -1))
    return ops.sum(rows, axis=1)
