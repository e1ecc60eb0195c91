"""The interpolation of the latencies of a model's blocks between measured widths."""

import dataclasses

import numpy as np

from tflite_export.checks import shown


@dataclasses.dataclass(frozen=True)
class BlockTimes:
    """The latency of a block, by how many channels it reads and how many others it has.

    Attributes:
        reads: The groups whose channels its first layer reads.
        others: The other groups in it.
        channels: The channels of `reads`, and of `others`, that were measured:
            increasing numbers, the last all of them; `[0]` without groups.
        ms: `(len(channels[0]), len(channels[1]))` milliseconds.
    """

    reads: list[str]
    others: list[str]
    channels: tuple[list[int], list[int]]
    ms: list[list[float]]

    def check(self, sizes: dict[str, int]) -> None:
        """Raises a ValueError unless all is as described.

        Args:
            sizes: Group name -> its number of channels.
        """
        if len(self.channels) != 2:
            raise ValueError("`channels` are not two lists")
        pairs = zip((self.reads, self.others), self.channels, strict=True)
        for groups, measured in pairs:
            total = 0
            for name in groups:
                if name not in sizes:
                    raise ValueError(f"there is no group {shown(name)}")
                total += sizes[name]
            numbers = np.array(measured)
            is_row = numbers.ndim == 1 and numbers.dtype.kind in "iu"
            if not is_row or (np.diff(numbers) < 0).any() or numbers[-1] != total:
                raise ValueError(
                    f"`channels` are {shown(measured)}, no integers that increase to "
                    f"the {total} of {shown(groups)}"
                )
        ms = np.array(self.ms)
        shape = tuple(len(measured) for measured in self.channels)
        is_matrix = ms.shape == shape and ms.dtype.kind in "iuf"
        if not is_matrix or not ((ms >= 0) & (ms < np.inf)).all():
            raise ValueError(f"`ms` are no times of shape {shape}")


class PackedBlocks:
    """The times of all `B` blocks in one array, to be interpolated together.

    Lists of the blocks differ in length. All are padded to the longest, `P` numbers
    of channels that are read and `Q` of others, by repeating their last entry.

    Args:
        names: The `G` groups of the model.
        blocks: The times of each block.
    """

    def __init__(self, names: list[str], blocks: list[BlockTimes]):
        self._reads = _Axis(
            names,
            [block.reads for block in blocks],
            [block.channels[0] for block in blocks],
        )
        self._others = _Axis(
            names,
            [block.others for block in blocks],
            [block.channels[1] for block in blocks],
        )
        padded = []
        for block in blocks:
            rows = []
            for row in _padded(block.ms, self._reads.count):
                rows.append(_padded(row, self._others.count))
            padded.append(rows)
        # (B, P, Q) milliseconds.
        self._ms = np.array(padded, float)

    def total(self, widths: np.ndarray) -> np.ndarray:
        """Returns the time of all blocks together, interpolated bilinearly.

        A block takes no time without channels, be it those that it reads or all others:
        it has gone with its branch.

        Args:
            widths: `(G, K)` widths of the groups, `K` choices of them.

        Returns:
            `(K,)` milliseconds.
        """
        row = self._reads.locate(widths)
        column = self._others.locate(widths)
        # (B, K) each: the times at the corners of the cell around each choice.
        low_low = self._at(row.low, column.low)
        low_high = self._at(row.low, column.high)
        high_low = self._at(row.high, column.low)
        high_high = self._at(row.high, column.high)
        # Between the two columns first, on both edges of the cell.
        low = _between(low_low, low_high, column.share)
        high = _between(high_low, high_high, column.share)
        # Then between those two edges.
        ms = _between(low, high, row.share)
        # Widths below the least measured one are extrapolated: no time is below 0.
        ms = np.maximum(ms, 0)
        ms = np.where(row.is_empty | column.is_empty, 0, ms)
        return ms.sum(axis=0)

    def _at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Returns the measured times at `(B, K)` rows and columns, `(B, K)`."""
        # (B, 1), against the (B, K) of the others: each block looks up its own.
        blocks = np.arange(len(self._ms))
        return self._ms[blocks[:, None], rows, columns]


@dataclasses.dataclass(frozen=True, eq=False)
class _Position:
    """The place of `K` numbers of channels among the measured ones, for `B` blocks.

    Attributes:
        low: `(B, K)` index of the measured number where its cell begins.
        high: `(B, K)` index of the one where the cell ends.
        share: `(B, K)`, 0 at the cell's beginning, 1 at its end.
        is_empty: `(B, K)` whether the block has groups here, and no channel of them.
    """

    low: np.ndarray
    high: np.ndarray
    share: np.ndarray
    is_empty: np.ndarray


class _Axis:
    """One of the two numbers of channels that the times of `B` blocks depend on.

    Args:
        names: The `G` groups of the model.
        groups: Of each block, the groups whose channels are counted.
        channels: Of each block, the numbers of channels that were measured.
    """

    def __init__(
        self,
        names: list[str],
        groups: list[list[str]],
        channels: list[list[int]],
    ):
        self.count = max(len(measured) for measured in channels)
        # (B, P) measured numbers, not decreasing along each row.
        points = []
        for measured in channels:
            points.append(_padded(measured, self.count))
        self._points = np.array(points, float)
        # (B, G), 1 where the group's channels are counted for the block, else 0.
        members = []
        for counted in groups:
            members.append([name in counted for name in names])
        self._members = np.array(members, float)

    def locate(self, widths: np.ndarray) -> _Position:
        """Returns the position of `(G, K)` widths on this axis."""
        # (B, G) @ (G, K) -> (B, K): the channels of each block add up.
        channels = self._members @ widths
        # The index of the cell is the number of inner points that are reached. The
        # outermost points do not count: the cells there go on beyond them.
        inner = self._points[:, None, 1:-1]
        reached = channels[:, :, None] >= inner
        low = reached.sum(axis=-1)
        # An axis with a single point has one cell, which begins and ends there.
        last = self.count - 1
        high = np.minimum(low + 1, last)
        begin = np.take_along_axis(self._points, low, axis=1)
        end = np.take_along_axis(self._points, high, axis=1)
        # Cells between repeated points have no length: any share is right, 0 is safe.
        share = np.divide(
            channels - begin,
            end - begin,
            where=end > begin,
            out=np.zeros_like(channels),
        )
        # (B, 1), against the (B, K) channels.
        has_groups = self._members.sum(axis=1, keepdims=True) > 0
        is_empty = has_groups & (channels == 0)
        return _Position(low, high, share, is_empty)


def _between(
    low: np.ndarray,
    high: np.ndarray,
    share: np.ndarray,
) -> np.ndarray:
    """Returns `low` where the share of the way is 0, `high` where it is 1."""
    return (1 - share) * low + share * high


def _padded(values: list, count: int) -> list:
    """Returns a list of `count` entries, the last one repeated."""
    missing = count - len(values)
    return values + [values[-1]] * missing
