"""How far one output of a network is from another, and a direction to test it in."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.channels import ChannelGraph

SMALLEST = 1e-7


@dataclasses.dataclass(frozen=True)
class Output:
    """A network's output as a distribution.

    Attributes:
        kind: `"categorical"` and `"binary"` for probabilities, `"logits"` for a
            linear output trained with a `from_logits` loss, `"real"` for others.
    """

    kind: str

    def divergence(self, full, cut):
        """`(n,)` divergence per example: KL, or squared error over variance."""
        if self.kind == "logits":
            full, cut = ops.softmax(full), ops.softmax(cut)
        if self.kind == "real":
            variance = ops.var(full) + SMALLEST
            return _sum_rest(ops.square(full - cut)) / (2 * variance)
        full, cut = (ops.clip(p, SMALLEST, 1 - SMALLEST) for p in (full, cut))
        terms = full * ops.log(full / cut)
        if self.kind == "binary":
            terms += (1 - full) * ops.log((1 - full) / (1 - cut))
        return _sum_rest(terms)

    def right(self, output, labels) -> np.ndarray:
        """Whether the most probable answer is the label, flat, over all positions.

        Args:
            output: `(n, ..., classes)` the network's output.
            labels: Class numbers, `(n, ...)` or `(n, ..., 1)`, or of the output's
                shape, one-hot.
        """
        output, labels = map(ops.convert_to_numpy, (output, labels))
        if self.kind == "binary":
            return (output.ravel() > 0.5) == (labels.ravel() > 0.5)
        if labels.shape == output.shape:
            labels = labels.argmax(axis=-1)
        return output.argmax(axis=-1).ravel() == labels.ravel()

    def sampled_gradient(self, output, uniform):
        """The gradient of -log p(y | output) for a y drawn from the output itself.

        Its second moment is the Fisher information, which is the second derivative
        of the divergence; no labels are needed.

        Args:
            output: `(n, ...)` the network's output.
            uniform: Numbers in (0, 1) of the same shape, the source of the draw.
        """
        if self.kind == "real":
            return ops.sign(uniform - 0.5) / ops.sqrt(ops.var(output) + SMALLEST)
        p = ops.softmax(output) if self.kind == "logits" else output
        p = ops.clip(p, SMALLEST, 1 - SMALLEST)
        if self.kind == "binary":
            return ops.where(uniform < p, -1 / p, 1 / (1 - p))
        # The Gumbel trick: argmax(log p + gumbel noise) is a draw from p.
        drawn = ops.argmax(ops.log(p) - ops.log(-ops.log(uniform)), axis=-1)
        one_hot = ops.one_hot(drawn, p.shape[-1], dtype=p.dtype)
        return p - one_hot if self.kind == "logits" else -one_hot / p


def outputs_of(graph: ChannelGraph) -> list[Output]:
    """The kind of each of the model's outputs."""
    makers = {t: call for call in graph.calls for t in call.outputs}
    return [Output(_kind(graph.model, makers.get(t))) for t in graph.outputs]


def _kind(model, call) -> str:
    name = type(call.operation).__name__.lower() if call else ""
    activation = getattr(getattr(call, "operation", None), "activation", None)
    names = (name, getattr(activation, "__name__", ""))
    if "softmax" in names:
        return "categorical"
    if "sigmoid" in names:
        return "binary"
    return "logits" if _trained_from_logits(model) else "real"


def _trained_from_logits(model) -> bool:
    loss = keras.losses.get(model.loss) if isinstance(model.loss, str) else model.loss
    categorical = (
        keras.losses.CategoricalCrossentropy,
        keras.losses.SparseCategoricalCrossentropy,
    )
    return isinstance(loss, categorical) and loss.get_config().get("from_logits", False)


def _sum_rest(x):
    return ops.sum(ops.reshape(x, (ops.shape(x)[0], -1)), axis=1)
