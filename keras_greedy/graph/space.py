"""Numbers for channels, and what is known about them."""

import numpy as np


class ChannelSpace:
    """Channel numbers with equality (union-find) and pins that forbid cutting."""

    def __init__(self):
        self._parent: list[int] = []
        self._pins: list[tuple[int, str | None, str]] = []

    def fresh(self, n: int) -> np.ndarray:
        start = len(self._parent)
        self._parent.extend(range(start, start + n))
        return np.arange(start, start + n)

    def unify(self, first: np.ndarray, second: np.ndarray) -> None:
        for a, b in zip(first, second, strict=True):
            a, b = self._find(a), self._find(b)
            self._parent[max(a, b)] = min(a, b)

    def unify_groups(self, ids: np.ndarray, groups: int) -> None:
        """Declares the n-th channels of all of some groups in a row equal."""
        first, *rest = ids.reshape(groups, -1)
        for others in rest:
            self.unify(first, others)

    def pin(self, ids: np.ndarray, layer: str | None, reason: str) -> None:
        """Forbids cutting `ids`; `layer=None` for what no user would expect cut."""
        self._pins.extend((i, layer, reason) for i in ids)

    def resolve(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self._find(i) for i in ids], dtype=int)

    def pins(self) -> dict[int, tuple[str | None, str]]:
        pins = {}
        for i, layer, reason in self._pins:
            root = self._find(i)
            if layer is None or root not in pins:
                pins[root] = (layer, reason)
        return pins

    def _find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return int(i)
