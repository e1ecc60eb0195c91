"""The linear maps of a target network, as the random network approximates them."""

import dataclasses

import keras
import numpy as np
from keras import layers

from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.lottery.layers import MaskedConv2D, MaskedDense
from keras_greedy.lottery.signs import never_negative


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
    padding: tuple = ()

    @property
    def weights_by_sign(self) -> np.ndarray:
        """`(signs, positions, inputs, outputs)`: for positive and negative inputs.

        That of the bias is never negative.
        """
        weights = np.repeat(self.weights[None], 1 + self.signed, axis=0)
        if self.layer.use_bias:
            weights[1:, :, -1] = 0
        return weights

    def masked(self) -> keras.Layer:
        """The layer of random weights that makes its outputs."""
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
        """The layers to call first."""
        if not self.padding:
            return []
        return [
            layers.ZeroPadding2D(
                self.padding,
                "channels_last",
                name=f"{self.name}_padding",
                dtype="float32",
            )
        ]

    def behind(self) -> list[keras.Layer]:
        """The layers to call last."""
        activation = self.layer.activation
        if activation is keras.activations.linear:
            return []
        return [
            layers.Activation(
                activation, name=f"{self.name}_activation", dtype="float32"
            )
        ]


def targets_of(graph: ChannelGraph) -> dict[int, Target]:
    """Id of each layer with weights -> its linear map.

    Raises:
        ValueError: When a layer is not a Dense or Conv2D one, or has weights that are
            not finite.
    """
    calls: dict[int, list[Call]] = {}
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
    return {key: _target(own, positive) for key, own in calls.items()}


def _target(calls: list[Call], positive: set[int]) -> Target:
    layer, name = calls[0].operation, calls[0].name.replace("/", "_")
    signed = not all(call.inputs[0] in positive for call in calls)
    kernel = keras.ops.convert_to_numpy(layer.kernel).astype(float)
    weights = kernel.reshape(-1, *kernel.shape[-2:])
    if layer.use_bias:
        bias = np.zeros((len(weights), 1, weights.shape[-1]))
        bias[0] = keras.ops.convert_to_numpy(layer.bias)
        weights = np.concatenate([weights, bias], axis=1)
    _check_finite(name, weights)
    shapes = {call.inputs[0].shape for call in calls}
    return Target(name, layer, weights, signed, _padding(name, layer, shapes))


def _padding(name: str, layer: keras.Layer, shapes: set) -> tuple:
    """The zeros that padding="same" adds.

    A layer of their own adds them: the input of the bias, which comes behind, is 1 at
    the border, too.
    """
    if isinstance(layer, layers.Dense) or layer.padding == "valid":
        return ()
    steps = layer.strides, layer.dilation_rate
    found = {
        tuple(map(_same, shape[1:3], layer.kernel_size, *steps)) for shape in shapes
    }
    if len(found) > 1 or any(None in axis for axis in next(iter(found))):
        raise ValueError(
            f"Expected the images that layer '{name}', padding='same' with "
            f"strides, reads to have one known size. Received: shapes {sorted(shapes)}"
        )
    return next(iter(found))


def _same(size, kernel, stride, dilation) -> tuple:
    reach = (kernel - 1) * dilation
    if stride == 1:
        total = reach
    elif size is None:
        return None, None
    else:
        total = max((-(-size // stride) - 1) * stride + reach + 1 - size, 0)
    return total // 2, total - total // 2


def _check_layers(calls: list[Call]) -> None:
    reasons = {call.name: _reason(call.operation) for call in calls}
    refused = [f"'{name}' ({why})" for name, why in reasons.items() if why]
    if refused:
        raise ValueError(
            "Expected the layers of `target_model` that have weights to be Dense and "
            "Conv2D ones, channels last and without groups, and BatchNormalizations "
            "right behind one of them, before its activation. Received: "
            f"{', '.join(refused)}"
        )


def _reason(layer: keras.Layer) -> str:
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
    return f"Conv2D with groups={layer.groups}" if layer.groups > 1 else ""


def _has_weights(activation) -> bool:
    """Whether it is a layer with weights, or may get some."""
    is_layer = isinstance(activation, keras.Layer)
    return is_layer and bool(activation.weights or not activation.built)


def _check_finite(name: str, weights: np.ndarray) -> None:
    bad = weights[~np.isfinite(weights)]
    if bad.size:
        raise ValueError(
            "Expected the weights of `target_model` to be finite. Received: layer "
            f"'{name}' with {bad.size} weights that are not, {bad[0]} among them"
        )
