"""Numbers for channels, and the facts known about them."""

import dataclasses
import enum
from typing import Any, TypeAlias

import numpy as np

from keras_greedy.graph.probing import Probes

# Axis of a tensor, counted from the end: -1 is the last one -> the `(C,)` channel
# numbers along it. Axes that are not named have no channels: positions, or the batch.
# Several axes, a tuple, may have an array of numbers together, see `graph.parted`.
ByAxis: TypeAlias = dict[Any, np.ndarray]


class Boundary(enum.Enum):
    """An end of the model, whose channels belong to the user and are never cut."""

    INPUT = "the model's input"
    OUTPUT = "the model's output"


@dataclasses.dataclass(frozen=True)
class Pin:
    """The reason why a channel must not be cut.

    Attributes:
        layer: Name of the layer that forbids it, to be named in a warning; `None`
            where no user would expect the channel to be cut.
        reason: The reason, for people.
        boundary: The end of the model that the channel lies on, if that is the
            reason.
    """

    layer: str | None
    reason: str
    boundary: Boundary | None = None


class ChannelSpace:
    """Channel numbers with equality (union-find) and pins that forbid cutting.

    Equal numbers form a tree: each number points to its parent, and the root, which
    is its own parent, stands for them all.

    Attributes:
        probes: Those of the operations and activations without a rule.
    """

    def __init__(self) -> None:
        self.probes = Probes()
        self._parent: list[int] = []
        self._pins: list[tuple[int, Pin]] = []
        self._pinned: set[int] = set()

    def fresh(self, n: int) -> np.ndarray:
        """Returns `(n,)` numbers that no channel has yet."""
        start = len(self._parent)
        numbers = range(start, start + n)
        self._parent.extend(numbers)
        return np.array(numbers, dtype=int)

    def fixed(self, n: int) -> np.ndarray:
        """Returns `(n,)` fresh numbers of entries that are no channels: all stay."""
        numbers = self.fresh(n)
        self.pin(numbers, None, "positions are not cut")
        return numbers

    def unify(
        self,
        first: np.ndarray,
        second: np.ndarray,
    ) -> None:
        """Declares two `(C,)` arrays of channel numbers equal, entry by entry."""
        for one, other in zip(first, second, strict=True):
            one_root = self._find(one)
            other_root = self._find(other)
            # The smaller number is the root: a class has the number that was drawn
            # first, in whatever order its members were declared equal.
            smaller = min(one_root, other_root)
            greater = max(one_root, other_root)
            self._parent[greater] = smaller

    def unify_groups(
        self,
        ids: np.ndarray,
        groups: int,
    ) -> None:
        """Declares the n-th channels of all groups in a row equal, for every n."""
        # (groups, channels per group): equal channels are above each other.
        first, *rest = ids.reshape(groups, -1)
        for others in rest:
            self.unify(first, others)

    def pin(
        self,
        ids: np.ndarray,
        layer: str | None,
        reason: str,
        boundary: Boundary | None = None,
    ) -> None:
        """Forbids cutting channels.

        Args:
            ids: `(C,)` channel numbers.
            layer: Name of the layer to name in a warning; `None` where no user would
                expect the channels to be cut.
            reason: The reason, for people.
            boundary: The end of the model that they lie on, if that is the reason.
        """
        pin = Pin(layer, reason, boundary)
        for number in ids:
            self._pins.append((number, pin))
            self._pinned.add(number)

    def is_whole(self, ids: np.ndarray) -> bool:
        """Returns whether it is known already that none of the channels is cut."""
        whole = {self._find(number) for number in self._pinned}
        return all(self._find(number) in whole for number in ids)

    def resolve(self, ids: np.ndarray) -> np.ndarray:
        """Returns for each channel number that of its class."""
        return np.array([self._find(number) for number in ids], dtype=int)

    def pins(self) -> dict[int, Pin]:
        """Returns the pin of each class that has one."""
        pins: dict[int, Pin] = {}
        for number, pin in self._pins:
            root = self._find(number)
            # A warning names no layer for channels that stay in any case.
            if pin.layer is None or root not in pins:
                pins[root] = pin
        return pins

    def _find(self, number: int) -> int:
        """Returns the root of a number's tree."""
        while self._parent[number] != number:
            # Path halving: with each number on the way pointing to its grandparent,
            # the trees stay so flat that a search takes almost constant time.
            grandparent = self._parent[self._parent[number]]
            self._parent[number] = grandparent
            number = grandparent
        return int(number)
