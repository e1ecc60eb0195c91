"""The divergence of one output of a network from another, and its derivative."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.devices import moments_over_devices
from keras_greedy.graph.answering import answering
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.masks import Answer, is_real

# The least probability, and the least variance. In float32 the number next to 1 is
# 1 - 6e-8: with much less here, 1 - SMALLEST would round to 1, and 1 - p to 0.
SMALLEST = 1e-7

# Through the whole model at once, where all that its layers make is kept to the end.
EXAMPLES_AT_ONCE = 8

# Above this probability the answer of a binary output is yes.
BINARY_THRESHOLD = 0.5


@dataclasses.dataclass(frozen=True)
class Output:
    """A network's output as a distribution.

    Attributes:
        kind: `"categorical"` and `"binary"` for probabilities, `"logits"` for a
            linear output trained with a `from_logits` loss, `"real"` for other real
            numbers, `"none"` for what has no derivative, as the result of an argmax.
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
        if self.kind == "none":
            return ops.zeros(ops.shape(cut)[:1])
        full = ops.cast(full, "float32")
        cut = ops.cast(cut, "float32")
        if self.kind == "real":
            # KL of two normal distributions of the variance that the output has.
            return _sum_rest(ops.square(full - cut)) / (2 * _variance(full))
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

    def sampled_gradient(
        self,
        output: Tensor,
        uniform: Tensor,
        variance: Tensor | None = None,
    ) -> Tensor:
        """Returns the gradient of -log p(y | output), y drawn from the output itself.

        Its second moment is the Fisher information, which is the second derivative
        of the divergence; no labels are needed.

        Args:
            output: `(n, ...)` the network's output.
            uniform: Numbers in (0, 1) of the same shape, the source of the draw.
            variance: That of an output of real numbers; by default that of these.
        """
        if self.kind == "none":
            return ops.zeros_like(uniform)
        if self.kind == "real":
            # +-1 / deviation has the second moment 1 / variance of a normal one.
            variance = _variance(output) if variance is None else variance + SMALLEST
            return ops.sign(uniform - 0.5) / ops.sqrt(variance)
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
        maker = makers.get(tensor)
        if maker is not None and isinstance(maker.operation, Answer):
            tensor = maker.inputs[0]
            maker = makers.get(tensor)
        kind = _kind(graph.model, maker) if is_real(tensor.dtype) else "none"
        outputs.append(Output(kind))
    return outputs


def check_has_real_output(graph: ChannelGraph) -> None:
    """Raises a ValueError when no output shows a small change of the network."""
    if all(output.kind == "none" for output in outputs_of(graph)):
        types = [tensor.dtype for tensor in graph.outputs]
        raise ValueError(
            "Expected `model` to give real numbers, such as probabilities, which show "
            f"small changes. Received: a model with outputs of {', '.join(types)}. "
            "Prune the model that ends before them, and add the last step to the result"
        )


def check_answers(graph: ChannelGraph, inputs: list[np.ndarray]) -> None:
    """Raises a ValueError when a model answers data with NaN or infinity.

    A search looks at what layers read: it would not see it behind the last of them.

    Args:
        graph: The traced model.
        inputs: A batch, one array per input of the model.
    """
    model = graph.functional
    examples = len(inputs[0])
    is_fixed = any(tensor.shape[0] for tensor in model.inputs)
    at_once = examples if is_fixed else EXAMPLES_AT_ONCE
    # Called as it is, a model is compiled by JAX operation by operation, for seconds.
    is_on_jax = keras.backend.backend() == "jax"
    answers_to = answering(model) if is_on_jax else functools.partial(_answers, model)
    for start in range(0, examples, at_once):
        some = [array[start : start + at_once] for array in inputs]
        for name, answer in zip(model.output_names, answers_to(some), strict=True):
            if not _is_finite(answer):
                _raise_not_finite(model, name)


def _answers(model: keras.Model, inputs: list[np.ndarray]) -> list[Tensor]:
    """Returns the outputs of a Functional, operation by operation."""
    tensors = [ops.convert_to_tensor(array) for array in inputs]
    x = keras.tree.pack_sequence_as(model.input, tensors)
    # A layer that is stateful leaves what it has seen in the scope.
    with keras.StatelessScope():
        return keras.tree.flatten(model(x, training=False))


def _raise_not_finite(model: keras.Model, output: str) -> None:
    broken = _layers_not_finite(model)
    where = "but in none of its weights"
    if broken:
        where = f"and in the weights of {broken}"
    raise ValueError(
        "Expected `model` to give finite answers on `data`. Received: NaN or infinity "
        f"in the output {output!r}, {where}."
    )


def _is_finite(answer: Tensor) -> bool:
    array = ops.convert_to_numpy(answer)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _layers_not_finite(model: keras.Model) -> list[str]:
    names = []
    for layer in model.layers:
        arrays = [ops.convert_to_numpy(weight) for weight in layer.weights]
        if not all(np.isfinite(a).all() for a in arrays if a.dtype.kind == "f"):
            names.append(layer.name)
    return names


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


def _variance(x: Tensor) -> Tensor:
    """Returns the variance of all numbers of a batch, more than 0."""
    _, variance = moments_over_devices(x, range(len(x.shape)))
    return variance + SMALLEST


def _as_probability(p: Tensor) -> Tensor:
    """Returns `p` away from 0 and 1, where its logarithms end."""
    return ops.clip(p, SMALLEST, 1 - SMALLEST)


def _sum_rest(x: Tensor) -> Tensor:
    """Returns the `(n,)` sums over all axes but the first."""
    rows = ops.reshape(x, (ops.shape(x)[0], -1))
    return ops.sum(rows, axis=1)
