"""Finds tensors of a model that are never negative, whatever it is given."""

import keras
from keras import activations, layers

from keras_greedy.graph.channels import ChannelGraph

# Activations that give no negative numbers.
NOT_NEGATIVE = {
    activations.hard_sigmoid,
    activations.relu,
    activations.relu6,
    activations.sigmoid,
    activations.softmax,
    activations.softplus,
}

# Layers that make no negative number of others.
KEEP = (
    layers.Add,
    layers.Average,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Concatenate,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.Dropout,
    layers.Flatten,
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.Maximum,
    layers.Multiply,
    layers.Permute,
    layers.RepeatVector,
    layers.Reshape,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)

# Interpolations between the pixels' values: cubic and Lanczos ones overshoot.
BETWEEN_PIXELS = ("nearest", "bilinear")


def never_negative(graph: ChannelGraph) -> set[keras.KerasTensor]:
    """Returns tensors of the graph that cannot be negative.

    There may be more of them: a layer that is not known here may do anything.
    """
    found: set[keras.KerasTensor] = set()
    for call in graph.calls:
        reads_no_negative = all(tensor in found for tensor in call.inputs)
        keeps = reads_no_negative and _keeps(call.operation)
        if keeps or _rectifies(call.operation):
            found.update(call.outputs)
    return found


def _keeps(layer: keras.Operation) -> bool:
    """Returns whether the outputs are not negative if the inputs are not."""
    interpolation = getattr(layer, "interpolation", "nearest")
    return type(layer) in KEEP and interpolation in BETWEEN_PIXELS


def _rectifies(layer: keras.Operation) -> bool:
    """Returns whether the outputs are not negative, whatever the inputs are."""
    kind = type(layer)
    if kind is layers.ReLU:
        return layer.negative_slope == 0 and layer.threshold >= 0
    if kind is layers.Softmax:
        return True
    # Layers of other classes may use an attribute of this name in any way.
    ends_with_activation = kind in (layers.Activation, layers.Conv2D, layers.Dense)
    return ends_with_activation and layer.activation in NOT_NEGATIVE
