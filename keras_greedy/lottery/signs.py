"""Which tensors of a model are never negative, whatever it is given."""

import keras
from keras import activations, layers

NOT_NEGATIVE = {
    activations.hard_sigmoid,
    activations.relu,
    activations.relu6,
    activations.sigmoid,
    activations.softmax,
    activations.softplus,
}
"""Activations that give no negative numbers."""

KEEP = (
    *(layers.Add, layers.Average, layers.Concatenate, layers.Maximum, layers.Multiply),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.Dropout, layers.Flatten, layers.Permute, layers.RepeatVector),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.Reshape),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
)
"""Layers that make no negative number of others."""

SMOOTH = ("nearest", "bilinear")
"""Interpolations between the pixels' values, not beyond them."""


def never_negative(graph) -> set[int]:
    """Ids of the graph's tensors that cannot be negative; not of all that cannot be."""
    found = set()
    for call in graph.calls:
        given = all(tensor in found for tensor in call.inputs)
        if _rectifies(call.operation) or (given and _keeps(call.operation)):
            found |= set(call.outputs)
    return found


def _keeps(layer: keras.Operation) -> bool:
    # Cubic and Lanczos interpolation overshoots.
    overshoots = getattr(layer, "interpolation", "nearest") not in SMOOTH
    return type(layer) in KEEP and not overshoots


def _rectifies(layer: keras.Operation) -> bool:
    if type(layer) is layers.ReLU:
        return layer.negative_slope == 0 and layer.threshold >= 0
    # What other layers do with an attribute of this name is theirs.
    ends_with_it = type(layer) in (layers.Activation, layers.Conv2D, layers.Dense)
    return type(layer) is layers.Softmax or (
        ends_with_it and layer.activation in NOT_NEGATIVE
    )
