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


def never_negative(graph) -> set[int]:
    """Ids of the graph's tensors that cannot be negative; not of all that cannot be."""
    found = set()
    for call in graph.calls:
        given = all(id(tensor) in found for tensor in call.inputs)
        if _rectifies(call.operation) or (given and type(call.operation) in KEEP):
            found |= {id(tensor) for tensor in call.outputs}
    return found


def _rectifies(layer: keras.Operation) -> bool:
    if isinstance(layer, layers.ReLU):
        return layer.negative_slope == 0 and layer.threshold >= 0
    activation = getattr(layer, "activation", None)
    return isinstance(layer, layers.Softmax) or activation in NOT_NEGATIVE
