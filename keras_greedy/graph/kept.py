"""The channels that a cut keeps, on the axes of tensors."""

from collections.abc import Mapping

import numpy as np
from keras import KerasTensor

from keras_greedy.graph.space import ByAxis


class Kept:
    """Masks of the entries that a cut keeps of the axes of tensors.

    Args:
        channels: Tensor -> the channel numbers on its axes.
        kept: Boolean array over all channel numbers.
    """

    def __init__(
        self,
        channels: Mapping[KerasTensor, ByAxis],
        kept: np.ndarray,
    ):
        self._channels = channels
        self._kept = kept

    def __call__(self, tensor: KerasTensor, axis: int = -1) -> np.ndarray:
        """Returns the `(C,)` mask of what is kept of an axis that has channels.

        Args:
            tensor: The tensor, as the traced model has it.
            axis: Counted from the end.
        """
        return self._kept[self._channels[tensor][axis]]

    def seen_by(self, stand_ins: Mapping[KerasTensor, KerasTensor]) -> "Kept":
        """Returns what is kept of other tensors, which stand for some of these.

        Args:
            stand_ins: Another tensor -> the one that it stands for.
        """
        channels = dict(self._channels)
        for tensor, own in stand_ins.items():
            channels[tensor] = self._channels[own]
        return Kept(channels, self._kept)

    def axes(self, tensor: KerasTensor) -> list[int]:
        """Returns the axes of a tensor that have channels, counted from the end."""
        return list(self._channels[tensor])

    def all_of(self, tensor: KerasTensor) -> bool:
        """Returns whether nothing of a tensor is cut."""
        return all(self(tensor, axis).all() for axis in self.axes(tensor))

    def shape(self, tensor: KerasTensor) -> tuple[int | None, ...]:
        """Returns the shape that is left of a tensor."""
        shape = list(tensor.shape)
        for axis in self.axes(tensor):
            # Of an axis of unknown size nothing is cut.
            if shape and shape[axis] is not None:
                shape[axis] = int(self(tensor, axis).sum())
        return tuple(shape)
