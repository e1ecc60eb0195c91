"""The linear maps of a target network, as the random network approximates them."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import keras
import numpy as np
from keras import layers

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.lottery.layers import MaskedConv2D, MaskedDense
from keras_greedy.lottery.padding import Padding, padding_of
from keras_greedy.lottery.signs import never_negative

# The linear map of each layer that has one.
Targets: TypeAlias = "dict[keras.Layer, Target]"


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """The linear map of a Dense or Conv2D layer.

    Attributes:
        name: Of the layer.
        layer: The layer.
        weights: `(positions, inputs, outputs)`, one position for each pixel of a
            convolution's kernel. The bias is one more input, that is always 1.
        signed: Whether its inputs may be negative.
        padding: `((top, bottom), (left, right))` zeros around the image; none for a
            Dense layer.
    """

    name: str
    layer: keras.Layer
    weights: np.ndarray
    signed: bool
    padding: Padding = ()

    @property
    def weights_by_sign(self) -> np.ndarray:
        """Returns `(signs, positions, inputs, outputs)` weights.

        The first sign is that of positive inputs; the second, of negative ones, is
        there only if inputs may be.
        """
        signs = 2 if self.signed else 1
        weights = np.repeat(self.weights[None], signs, axis=0)
        if self.layer.use_bias:
            # The input of the bias, which is the last, is 1 and never negative.
            weights[1:, :, -1] = 0
        return weights

    def masked(self) -> keras.Layer:
        """Returns a layer of random weights to make its outputs."""
        if isinstance(self.layer, layers.Dense):
            return MaskedDense(self.layer.units, name=self.name, dtype="float32")
        return MaskedConv2D(
            self.layer.filters,
            self.layer.kernel_size,
            self.layer.strides,
            self.layer.dilation_rate,
            name=self.name,
            dtype="float32",
        )

    def before(self) -> list[keras.Layer]:
        """Returns the layers to call first."""
        if not self.padding:
            return []
        padding = layers.ZeroPadding2D(
            self.padding,
            "channels_last",
            name=f"{self.name}_padding",
            dtype="float32",
        )
        return [padding]

    def behind(self) -> list[keras.Layer]:
        """Returns the layers to call last."""
        if self.layer.activation is keras.activations.linear:
            return []
        activation = layers.Activation(
            self.layer.activation,
            name=f"{self.name}_activation",
            dtype="float32",
        )
        return [activation]


def targets_of(graph: ChannelGraph) -> Targets:
    """Returns the linear map of each layer with weights.

    Raises:
        ValueError: When a layer is not a Dense or Conv2D one, or has weights that are
            not finite.
    """
    calls: dict[keras.Layer, list[Call]] = {}
    for call in graph.calls:
        if call.weights:
            calls.setdefault(call.operation, []).append(call)
    _check_layers([own[0] for own in calls.values()])
    if not calls:
        raise ValueError(
            "Expected `target_model` to have Dense or Conv2D layers. Received: model "
            f"'{graph.model.name}' without a weight"
        )
    positive = never_negative(graph)
    return {layer: _target(own, positive) for layer, own in calls.items()}


def _target(calls: Sequence[Call], positive: set[keras.KerasTensor]) -> Target:
    """Returns the linear map of one layer.

    Args:
        calls: All calls of the layer.
        positive: The tensors that are never negative.
    """
    layer = calls[0].operation
    # Keras allows no slash, behind which a layer of a model inside has its name.
    name = calls[0].name.replace("/", "_")
    weights = _weights(layer)
    _check_weights(name, weights)
    read = [call.inputs[0] for call in calls]
    shapes = {tensor.shape for tensor in read}
    return Target(
        name,
        layer,
        weights,
        signed=not positive.issuperset(read),
        padding=padding_of(name, layer, shapes),
    )


def _weights(layer: keras.Layer) -> np.ndarray:
    """Returns the `(positions, inputs, outputs)` weights, the bias among them."""
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype(float)
    # (height, width, inputs, outputs), or (inputs, outputs), which is one position.
    weights = kernel.reshape(-1, *kernel.shape[-2:])
    if not layer.use_bias:
        return weights
    positions, _, outputs = weights.shape
    # One position alone adds the bias; at the others it would add up.
    bias = np.zeros((positions, 1, outputs))
    bias[0] = keras.ops.convert_to_numpy(layer.bias)
    return np.concatenate([weights, bias], axis=1)


def _check_layers(calls: Sequence[Call]) -> None:
    refused = []
    for call in calls:
        reason = _reason(call.operation)
        if reason:
            refused.append(f"'{call.name}' ({reason})")
    if refused:
        raise ValueError(
            "Expected the layers of `target_model` that have weights to be Dense and "
            "Conv2D ones, channels last and without groups, and BatchNormalizations "
            "right behind one of them, before its activation. Received: "
            f"{', '.join(refused)}"
        )


def _reason(layer: keras.Layer) -> str:
    """Returns why a layer is none that a ticket can have, or nothing if it is one."""
    kind = type(layer).__name__
    if type(layer) not in (layers.Dense, layers.Conv2D):
        return kind
    if layer.quantization_mode:
        return f"{kind} quantized to {layer.quantization_mode}"
    if _has_weights(layer.activation):
        return f"{kind} with a {type(layer.activation).__name__} as its activation"
    if type(layer) is layers.Dense:
        return ""
    if layer.data_format != "channels_last":
        return "Conv2D with channels first"
    if layer.groups > 1:
        return f"Conv2D with groups={layer.groups}"
    return ""


def _has_weights(activation: object) -> bool:
    """Returns whether it is a layer with weights, or may get some."""
    if not isinstance(activation, keras.Layer):
        return False
    return bool(activation.weights) or not activation.built


def _check_weights(name: str, weights: np.ndarray) -> None:
    bad = weights[~np.isfinite(weights)]
    if bad.size:
        raise ValueError(
            "Expected the weights of `target_model` to be finite. Received: layer "
            f"'{name}' with {bad.size} weights that are not, {bad[0]} among them"
        )
