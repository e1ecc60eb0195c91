"""The same function with fewer calls: BatchNorm folded into the layer before it.

The search evaluates a network at inference only, and there a BatchNorm behind a
linear layer is a scale of its kernel and a shift of its bias.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, layers

from keras_greedy.graph.calls import Call, known_sizes, named_weights
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup, Channels
from keras_greedy.graph.clone import remake, replay_flat
from keras_greedy.graph.masks import Answer, get_keras_mask, masks_given
from keras_greedy.graph.nodes import calls_behind
from keras_greedy.graph.rules.elementwise import DEPTHWISE
from keras_greedy.graph.rules.linear import CONVOLUTIONS, SEPARABLE, TRANSPOSED
from keras_greedy.graph.state import copy_weights, full_weights

# Exactly these classes: one derived from them may compute something else.
FOLDABLE = (
    layers.Dense,
    *CONVOLUTIONS,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    *DEPTHWISE,
    *SEPARABLE,
)

# The weights of a mixed precision are float32; these are the other ones there are.
OTHER_PRECISIONS = ("float64", "float16", "bfloat16")


def folded(graph: ChannelGraph) -> ChannelGraph:
    """Returns the graph of an inference-only copy with BatchNorms folded away.

    Channels, groups and names are those of `graph`, and so is `model`; the copy is
    the `functional`.
    """
    copies = _Copies(graph)
    functional = replay_flat(graph, copies.apply)
    copies.copy_weights()
    copies.carry_over(graph.inputs, functional.inputs)
    outputs = [copies.answer(tensor) for tensor in functional.outputs]
    return dataclasses.replace(
        graph,
        functional=functional,
        calls=copies.in_order,
        outputs=outputs,
        stand_ins={},
        inside={},
        channels=copies.channels,
        groups=[copies.group(group) for group in graph.groups],
    )


def foldable_norms(graph: ChannelGraph) -> dict[int, Call]:
    """Finds the BatchNorms that can be folded.

    Returns:
        Index of a linear layer's call -> the call of the only BatchNorm behind it.
    """
    outputs = set(graph.outputs)
    times_called = collections.Counter(call.operation for call in graph.calls)
    norms = {}
    for call in graph.calls:
        made = call.outputs[0]
        # An output of the model must not be changed.
        if not _is_linear(call) or made in outputs:
            continue
        readers = graph.calls_reading(made)
        if len(readers) != 1:
            continue
        (norm,) = readers
        # A layer that is called again would have the scale there too.
        is_called_once = times_called[call.operation] == 1
        norm_is_called_once = times_called[norm.operation] == 1
        if _is_batch_norm(norm) and is_called_once and norm_is_called_once:
            norms[call.index] = norm
    return norms


def _is_linear(call: Call) -> bool:
    """Returns whether a scale behind the call is one of its kernel and its bias."""
    if call.rule is None or type(call.operation) not in FOLDABLE:
        return False
    return call.operation.activation is keras.activations.linear


def _is_batch_norm(call: Call) -> bool:
    """Returns whether the call is of a BatchNorm that uses its moving statistics."""
    if call.rule is None or call.kwargs.get("training"):
        return False
    return type(call.operation) is layers.BatchNormalization


class _Copies:
    """The copies of a graph's calls, but for BatchNorms that are folded away.

    Args:
        graph: The traced model.

    Attributes:
        calls: Index of a call in `graph` -> its copy.
        in_order: The copies in topological order, and between them the calls that
            make masks: here each is an argument.
        channels: Tensor of the copy -> axis -> `(C,)` channel numbers.
    """

    def __init__(self, graph: ChannelGraph):
        self.calls: dict[int, Call] = {}
        self.in_order: list[Call] = []
        self.channels: Channels = {}
        self._graph = graph
        self._norms = foldable_norms(graph)
        self._gone = {norm.index for norm in self._norms.values()}
        self._operations: dict[keras.Operation, keras.Operation] = {}
        self._made: set[KerasTensor] = set()

    def apply(
        self,
        call: Call,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Makes the copy of a call; a folded BatchNorm gives its input back."""
        if call.index in self._gone:
            return args[0]
        operation = self._operation(call)
        kwargs |= masks_given(operation, args, kwargs)
        self._add_making(kwargs)
        outputs = operation(*args, **kwargs)
        made = tuple(keras.tree.flatten(outputs))
        copy = dataclasses.replace(
            call,
            operation=operation,
            args=args,
            kwargs=kwargs,
            outputs=made,
        )
        self.calls[call.index] = self._add(copy)
        self.carry_over(call.outputs, made)
        return outputs

    def answer(self, output: KerasTensor) -> KerasTensor:
        """Returns an output of the copy as answers are compared, see `Answer`."""
        args = [output]
        mask = get_keras_mask(output)
        if mask is not None and mask.shape == output.shape[: len(mask.shape)]:
            self._add_making(mask)
            args.append(mask)
        elif output.dtype == "float32":
            return output
        operation = Answer()
        answer = operation(*args)
        call = Call(
            index=0,
            name=operation.name,
            operation=operation,
            args=tuple(args),
            kwargs={},
            outputs=(answer,),
            rule=None,
        )
        self._add(call)
        self.channels[answer] = self.channels[output]
        return answer

    def _add(self, call: Call) -> Call:
        """Adds a call behind all others."""
        placed = dataclasses.replace(call, index=len(self.in_order))
        self.in_order.append(placed)
        self._made.update(placed.outputs)
        return placed

    def _add_making(self, masks: Any) -> None:
        """Adds the calls that make the masks among these values."""
        for mask in keras.tree.flatten(masks):
            if not isinstance(mask, KerasTensor):
                continue
            for call in calls_behind(mask, self._made):
                self._add(dataclasses.replace(call, rule=None))

    def carry_over(
        self,
        old: Iterable[KerasTensor],
        new: Iterable[KerasTensor],
    ) -> None:
        """Gives tensors of the copy the channel numbers of the original ones."""
        for original, tensor in zip(old, new, strict=True):
            self.channels[tensor] = self._graph.channels[original]

    def copy_weights(self) -> None:
        """Gives the copies their weights, with the BatchNorms in them."""
        for call in self._graph.calls:
            if call.index in self._gone or not call.is_layer:
                continue
            new = self._operations[call.operation]
            if call.index in self._norms:
                _fold(call.operation, self._norms[call.index].operation, new)
            else:
                copy_weights(call.operation, new)

    def group(self, group: ChannelGroup) -> ChannelGroup:
        """Returns the group with the copies of its calls."""
        return dataclasses.replace(
            group,
            producers=self._of(group.producers),
            consumers=self._of(group.consumers),
            normalizers=self._of(group.normalizers),
        )

    def _of(self, originals: Sequence[Call]) -> tuple[Call, ...]:
        return tuple(self.calls[call.index] for call in originals)

    def _operation(self, call: Call) -> keras.Operation:
        """Returns the copy of a call's operation, one for all of its calls."""
        if call.operation not in self._operations:
            needs_bias = call.index in self._norms
            self._operations[call.operation] = _remade(call, needs_bias)
        return self._operations[call.operation]


def _remade(call: Call, needs_bias: bool) -> keras.Operation:
    """Makes a copy that computes in float32, whatever the precision of the model."""
    operation = call.operation
    changes: dict[str, Any] = {}
    if needs_bias:
        changes["use_bias"] = True
    if call.is_layer and operation.compute_dtype != operation.variable_dtype:
        changes["dtype"] = operation.variable_dtype
    elif call.is_layer and operation.variable_dtype in OTHER_PRECISIONS:
        # The types of layers inside are theirs: it hands its input on in its own.
        has_layers_inside = bool(operation._layers)
        if not has_layers_inside:
            changes["dtype"] = "float32"
    new = remake(operation, known_sizes(call) | changes)
    # Models inside the model may have layers of the same name: the index tells them
    # apart now that all are in one model.
    new.name = f"call_{call.index}_{operation.name}"
    return new


def _fold(
    layer: keras.Layer,
    norm: keras.Layer,
    new: keras.Layer,
) -> None:
    """Gives `new` the weights that make one layer of `layer` and `norm`.

    With the layer's output `W x + b`, the BatchNorm behind it makes
    `scale * (W x + b - mean) + beta`, `scale = gamma / sqrt(variance + epsilon)`. That
    is a kernel `scale * W` and a bias `scale * (b - mean) + beta`.
    """
    weights = full_weights(layer)
    statistics = full_weights(norm)
    # (out,): a factor for each output channel.
    scale = 1 / np.sqrt(statistics["moving_variance"] + norm.epsilon)
    scale = scale * statistics.get("gamma", 1.0)
    # (out,): the bias, 0 where the layer or the BatchNorm has none.
    centred = weights.get("bias", 0.0) - statistics["moving_mean"]
    weights["bias"] = centred * scale + statistics.get("beta", 0.0)
    # Of a separable convolution the last kernel makes the output.
    name = "pointwise_kernel" if isinstance(layer, SEPARABLE) else "kernel"
    weights[name] = _scaled(layer, weights[name], scale)
    for own, weight in named_weights(new).items():
        weight.assign(weights[own])


def _scaled(
    layer: keras.Layer,
    kernel: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """Returns the kernel with each output channel multiplied by its `(out,)` factor."""
    if isinstance(layer, TRANSPOSED):
        # (*size, out, in) x (out, 1)
        return kernel * scale[:, None]
    if isinstance(layer, DEPTHWISE):
        # (*size, in, multiplier): output channels are its last two axes in a row.
        flat = kernel.reshape(*kernel.shape[:-2], -1)
        return (flat * scale).reshape(kernel.shape)
    # (*size, in, out) x (out,), or (in, out) x (out,) of a Dense layer.
    return kernel * scale
