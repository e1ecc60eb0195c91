"""The matrix G of a `Problem`, as it stands or by a factor of it.

`G = A A'` with `A = R W`, `(F, columns)`. Adding a channel, R becomes `R - c' c` with
`c = L^-1 R_i:`, `(w, F)`, and so A becomes `A - c' b` with `b = c W = L^-1 A_i:`,
`(w, columns)`. A convolution of many taps has far fewer columns than features: to keep
A up to date is then less work than to keep G, though each row of G that is needed has
to be made of it.
"""

import abc

import numpy as np

TILE = 256
"""About so many rows of a matrix are updated at once: they stay in the cache."""

READING = 14
"""Reading a number of A takes as long as so many multiplications of matrices."""


class Gram(abc.ABC):
    """The symmetric `(F, F)` matrix G, with updates that wait.

    The rows c that wait are the same as those of R, so they are given.
    """

    @abc.abstractmethod
    def rows(self, own: slice, c: np.ndarray) -> np.ndarray:
        """Returns some rows of G, `(w, F)`, with the pending updates applied.

        Args:
            own: The features.
            c: `(pending, F)` the rows that wait.
        """

    @abc.abstractmethod
    def append(
        self,
        own: slice,
        c: np.ndarray,
        inverse: np.ndarray,
        v: np.ndarray,
    ) -> None:
        """Lets the update of a channel wait with the others.

        Args:
            own: Its features.
            c: `(pending, F)` the rows that wait before it.
            inverse: `(w, w)` L^-1.
            v: `(w, F)` such that the new G is `G - (c' v + v' c)`.
        """

    @abc.abstractmethod
    def flush(self, c: np.ndarray, width: int) -> None:
        """Applies the pending updates.

        Args:
            c: `(pending, F)` the rows that wait.
            width: Features of a channel.
        """

    @abc.abstractmethod
    def keep(self, features: np.ndarray) -> None:
        """Takes all but some features, increasing, out of it; nothing waits."""


class WholeGram(Gram):
    """G itself, of which the upper half is kept up to date.

    Args:
        factor: `(F, columns)` A.
        waiting: How many update rows there are at most.
    """

    def __init__(self, factor: np.ndarray, waiting: int):
        self._matrix = factor @ factor.T
        self._v = np.empty((waiting, len(factor)))

    def rows(self, own: slice, c: np.ndarray) -> np.ndarray:
        v = self._v[: len(c)]
        own_c = c[:, own].T
        own_v = v[:, own].T
        return upper_rows(self._matrix, own) - own_v @ c - own_c @ v

    def append(
        self,
        own: slice,
        c: np.ndarray,
        inverse: np.ndarray,
        v: np.ndarray,
    ) -> None:
        self._v[len(c) : len(c) + len(v)] = v

    def flush(self, c: np.ndarray, width: int) -> None:
        v = self._v[: len(c)]
        # c' v + v' c as one product, (F, 2 pending) x (2 pending, F).
        left = np.concatenate([c, v])
        right = np.concatenate([v, c])
        subtract_product(self._matrix, left, right, width)

    def keep(self, features: np.ndarray) -> None:
        self._matrix = shrunk(self._matrix, features)
        self._v = np.empty((len(self._v), len(features)))


class FactoredGram(Gram):
    """A, whose product with its transpose is G.

    Args:
        factor: `(F, columns)` A.
        waiting: How many update rows there are at most.
    """

    def __init__(self, factor: np.ndarray, waiting: int):
        self._factor = factor.copy()
        self._b = np.empty((waiting, factor.shape[1]))

    def rows(self, own: slice, c: np.ndarray) -> np.ndarray:
        b = self._b[: len(c)]
        of_channel = self._rows_of_factor(own, c)
        # A_i: (A - c' b)', without changing A.
        return of_channel @ self._factor.T - (of_channel @ b.T) @ c

    def append(
        self,
        own: slice,
        c: np.ndarray,
        inverse: np.ndarray,
        v: np.ndarray,
    ) -> None:
        b = inverse @ self._rows_of_factor(own, c)
        self._b[len(c) : len(c) + len(b)] = b

    def flush(self, c: np.ndarray, width: int) -> None:
        self._factor -= c.T @ self._b[: len(c)]

    def keep(self, features: np.ndarray) -> None:
        self._factor = self._factor[features]

    def _rows_of_factor(self, own: slice, c: np.ndarray) -> np.ndarray:
        """Returns `(w, columns)` rows of A with the pending updates applied."""
        return self._factor[own] - c[:, own].T @ self._b[: len(c)]


def gram_of(factor: np.ndarray, width: int, waiting: int) -> Gram:
    """Returns G in the form that takes less work.

    For each channel, G takes `2 w F^2` multiplications; A is read once, and takes
    `2 w F columns` for the row of G and as many for its update.

    Args:
        factor: `(F, columns)` A.
        width: Features w of a channel.
        waiting: How many update rows there are at most.
    """
    features, columns = factor.shape
    of_factor = columns * (READING + 2 * width)
    if of_factor <= width * features:
        return FactoredGram(factor, waiting)
    return WholeGram(factor, waiting)


def upper_rows(matrix: np.ndarray, own: slice) -> np.ndarray:
    """Returns rows of a symmetric matrix, of which the upper half is read."""
    before = matrix[: own.start, own].T
    behind = matrix[own, own.start :]
    return np.concatenate([before, behind], axis=1)


def subtract_product(
    matrix: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    width: int,
) -> None:
    """Subtracts `left' right` from the upper half of a symmetric matrix, in place.

    Args:
        matrix: `(F, F)`.
        left: `(k, F)`.
        right: `(k, F)`.
        width: Features of a channel, whose own block is updated as a whole.
    """
    for rows in tiles(len(matrix), width):
        behind = slice(rows.start, None)
        matrix[rows, behind] -= left[:, rows].T @ right[:, behind]


def shrunk(matrix: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Returns a matrix of some of its features, increasing, in the same memory."""
    left = len(features)
    # No row is written before it has been read.
    for rows in tiles(left):
        matrix[rows, :left] = matrix[np.ix_(features[rows], features)]
    return matrix[:left, :left]


def tiles(rows: int, width: int = 1) -> list[slice]:
    """Returns so many rows in parts, none of which ends within a channel."""
    size = -(-TILE // width) * width
    parts = []
    for start in range(0, rows, size):
        parts.append(slice(start, min(start + size, rows)))
    return parts
