"""The ends of branches: from the last layer of one to the sum that it is added in.

That layer, of no channels, makes its bias at every position. So do those behind it: a
constant vector, which is all that the branch adds to the stream.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, activations, layers, ops

from keras_greedy.graph.calls import Call
from keras_greedy.graph.masks import get_keras_mask
from keras_greedy.graph.rules.elementwise import (
    ACTIVATIONS,
    ELEMENTWISE,
    IDENTITIES,
    NOISE,
    SPATIAL_DROPOUT,
    STOCHASTIC_DEPTH,
)
from keras_greedy.graph.rules.linear import CONVOLUTIONS, SEPARABLE, TRANSPOSED
from keras_greedy.graph.rules.register import public_key
from keras_greedy.graph.state import full_weights

# Exactly these classes: of zeros they make their bias at every position.
READERS = (layers.Dense, *CONVOLUTIONS, *TRANSPOSED, *SEPARABLE)
SUMS = (layers.Add, ops.add)

# Behind such a layer these make a constant of a constant, each channel alone.
FOLLOWERS = {
    *ACTIVATIONS,
    *IDENTITIES,
    *NOISE,
    *SPATIAL_DROPOUT,
    layers.Dropout,
    layers.AlphaDropout,
    layers.BatchNormalization,
    STOCHASTIC_DEPTH,
    "LayerScale",
}
FUNCTIONS = {
    getattr(module, name)
    for name in ELEMENTWISE.split()
    for module in (activations, ops)
    if hasattr(module, name)
}


@dataclasses.dataclass(frozen=True, eq=False)
class BranchEnd:
    """The end of a branch: from a layer that reads a group to the sum.

    Attributes:
        reader: The call that reads the group.
        followers: The calls between it and the sum.
        sum: The call that adds the branch to others.
    """

    reader: Call
    followers: tuple[Call, ...]
    sum: Call

    @property
    def summand(self) -> KerasTensor:
        """Returns the tensor that is added."""
        return (self.reader, *self.followers)[-1].outputs[0]

    def constant(self, weights: Mapping[str, Mapping[str, np.ndarray]]) -> np.ndarray:
        """Returns the `(C,)` summand at any position when nothing is read.

        Args:
            weights: Layer name -> weight name -> array of the full shape, in place of
                the layer's own.
        """
        layer = self.reader.operation
        own = full_weights(layer) | dict(weights.get(self.reader.name, {}))
        channels = self.summand.shape[-1]
        ones = [1] * (len(self.summand.shape) - 1)
        x = np.reshape(own.get("bias", np.zeros(channels)), (*ones, channels))
        x = layer.activation(ops.convert_to_tensor(x, layer.compute_dtype))
        for call in self.followers:
            replaced = []
            for name, array in weights.get(call.name, {}).items():
                replaced.append((call.weights[name], array))
            args, kwargs = call.arguments({call.inputs[0]: x})
            with keras.StatelessScope(state_mapping=replaced):
                x = call.compute(*args, **kwargs)
        return ops.convert_to_numpy(ops.cast(x, "float32")).reshape(channels)


class Ends:
    """Finds the ends of branches in a graph.

    Args:
        calls: All calls in topological order.
        outputs: The tensors that the model returns.

    Attributes:
        reading: Tensor -> the calls that read it, once each.
    """

    def __init__(self, calls: Sequence[Call], outputs: Iterable[KerasTensor]):
        self.reading: dict[KerasTensor, list[Call]] = collections.defaultdict(list)
        for call in calls:
            for tensor in dict.fromkeys(call.inputs):
                self.reading[tensor].append(call)
        self._outputs = {*outputs}
        self._times_called = collections.Counter(call.operation for call in calls)

    def behind(self, reader: Call) -> BranchEnd | None:
        """Follows what a layer makes to the sum; `None` where it goes elsewhere."""
        operation = reader.operation
        if type(operation) not in READERS or not _is_simple(operation.activation):
            return None
        followers: list[Call] = []
        call = reader
        while True:
            made = call.outputs[0]
            reading = self.reading[made]
            if len(reading) != 1 or made in self._outputs:
                return None
            (call,) = reading
            if self._is_sum(call):
                return BranchEnd(reader, tuple(followers), call)
            if not _is_follower(call):
                return None
            followers.append(call)

    def _is_sum(self, call: Call) -> bool:
        """Returns whether a call adds tensors of one shape, and has no mask to make."""
        if call.rule is None or public_key(call.operation) not in SUMS:
            return False
        if self._times_called[call.operation] > 1 or len(call.inputs) < 2:
            return False
        shape = call.outputs[0].shape
        return all(
            tensor.shape == shape and get_keras_mask(tensor) is None
            for tensor in call.inputs
        )


def _is_follower(call: Call) -> bool:
    """Returns whether a call makes a constant of a constant, each channel alone."""
    if call.rule is None or len(call.inputs) != 1 or call.kwargs.get("training"):
        return False
    key = public_key(call.operation)
    if key not in FOLLOWERS and key not in FUNCTIONS:
        return False
    return _is_simple(getattr(call.operation, "activation", None))


def _is_simple(activation: Any) -> bool:
    """Returns whether an activation, if there is one, is a function of Keras' own."""
    return activation is None or activation in FUNCTIONS
