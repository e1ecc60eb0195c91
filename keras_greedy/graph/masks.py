"""Masks of positions, such as those of padding, as Keras hands them on between layers.

Keras attaches a mask to a tensor, and a layer finds it there. That of a value which
something else than the layer has computed is lost: the search gives masks as arguments.
"""

import inspect
from typing import TYPE_CHECKING, Any

import keras
from keras import KerasTensor, layers, ops

# Keras has no public way to the mask of a tensor.
from keras.src.backend import get_keras_mask, set_keras_mask

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call

if TYPE_CHECKING:
    # Graphs look at masks; masks need graphs for their annotations alone.
    from keras_greedy.graph.channels import ChannelGraph

__all__ = [
    "Answer",
    "depends_on_masked",
    "get_keras_mask",
    "is_real",
    "masks_given",
    "set_keras_mask",
]

# They carry a mask on, and yet let all positions flow into the others.
MIXING = (layers.GroupNormalization, layers.Dot, layers.Lambda)
# They leave masked positions out, whatever they make at these.
SKIPPING = (layers.RNN, layers.Bidirectional)


class Answer(keras.Layer):
    """An output as answers are compared: in float32, and 0 where nobody reads it.

    That is at masked positions, and everywhere in integers, Booleans and strings, which
    have no derivative.
    """

    def __init__(self) -> None:
        super().__init__(dtype="float32", autocast=False)
        self.supports_masking = True

    def call(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        if not is_real(x.dtype):
            return ops.zeros(ops.shape(x), "float32")
        x = ops.cast(x, "float32")
        if kept is None:
            return x
        ones = [1] * (len(x.shape) - len(kept.shape))
        kept = ops.reshape(kept, (*ops.shape(kept), *ones))
        return ops.where(kept, x, ops.zeros_like(x))

    def compute_output_spec(
        self,
        x: KerasTensor,
        kept: KerasTensor | None = None,
    ) -> KerasTensor:
        return KerasTensor(x.shape, "float32")


def is_real(dtype: Any) -> bool:
    """Returns whether a tensor of this type holds real numbers."""
    return "float" in keras.backend.standardize_dtype(dtype)


def masks_given(
    operation: keras.Operation,
    args: tuple,
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    """Returns the masks that a layer finds at its arguments, by the names of its own.

    That is `mask` for a layer of one argument with tensors, for one of several that of
    each, as `query_mask`. None where the call has it already.

    Args:
        operation: The layer, or a raw operation, which has no masks.
        args: The positional arguments of its call.
        kwargs: The others.
    """
    if not isinstance(operation, keras.Layer):
        return {}
    signature = inspect.signature(operation.call)
    given = signature.bind(*args, **kwargs).arguments
    with_tensors = []
    for name, value in given.items():
        if any(isinstance(leaf, KerasTensor) for leaf in keras.tree.flatten(value)):
            with_tensors.append(name)
    masks = {}
    for name in with_tensors:
        of_name = "mask" if len(with_tensors) == 1 else f"{name}_mask"
        if of_name not in signature.parameters or given.get(of_name) is not None:
            continue
        mask = keras.tree.map_structure(get_keras_mask, given[name])
        if any(leaf is not None for leaf in keras.tree.flatten(mask)):
            masks[of_name] = mask
    return masks


def depends_on_masked(graph: "ChannelGraph", call: Call) -> bool:
    """Returns whether an output of the model may depend on a call's masked positions.

    It does not if the mask gets to all layers that let positions flow together.

    Args:
        graph: The traced model.
        call: A call whose input may have a mask.
    """
    waiting = [call]
    seen = {call}
    while waiting:
        reading = waiting.pop()
        if not _respects_mask(reading):
            return True
        if not _carries_mask(reading):
            continue
        for tensor in reading.outputs:
            for following in graph.calls_reading(tensor):
                if following not in seen:
                    seen.add(following)
                    waiting.append(following)
    return False


def _respects_mask(call: Call) -> bool:
    """Returns whether a call keeps masked positions away from the others."""
    operation = call.operation
    if isinstance(operation, Answer):
        return True
    if not call.is_layer or isinstance(operation, MIXING):
        return False
    if isinstance(operation, layers.LayerNormalization):
        last = len(call.inputs[0].shape) - 1
        axes = keras.tree.flatten(operation.axis)
        return all(axis in (-1, last) for axis in axes)
    if not operation.supports_masking:
        return False
    return _carries_mask(call) or _ends_at(call)


def _carries_mask(call: Call) -> bool:
    """Returns whether a call's output has the masked positions of its input."""
    if isinstance(call.operation, (Answer, *SKIPPING)):
        return False
    positions = call.inputs[0].shape[:-1]
    if len(positions) < 2:
        return False
    return all(tensor.shape[:-1] == positions for tensor in call.outputs)


def _ends_at(call: Call) -> bool:
    """Returns whether a call makes a vector of positions, or reads them in turn."""
    given = [value for name, value in call.kwargs.items() if name.endswith("mask")]
    if all(leaf is None for leaf in keras.tree.flatten(given)):
        return False
    is_vector = all(len(tensor.shape) == 2 for tensor in call.outputs)
    return is_vector or isinstance(call.operation, SKIPPING)
