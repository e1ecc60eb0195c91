"""The latency of a model at any widths, from that of its blocks at a few."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tflite_export.files import replacing


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


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyTable:
    """The latency of a model at any widths, from that of its blocks at a few.

    What the blocks take is interpolated, bilinearly, and added up. The sum is scaled
    such that the full model takes as long as it was measured to.

    Attributes:
        full_ms: The latency of the full model in milliseconds.
        sizes: Group name -> its number of channels.
        blocks: Name of a block -> its `BlockTimes`.
        saving: What a cut saves, as a multiple of what the blocks say.
        timer: Gives the milliseconds of each of a list of `.tflite` files. With one,
            what a compact model was predicted to take is checked.

    Example:

    ```python
    table = keras_greedy.measure_latencies(model)
    table.save("latencies.json")
    keras_greedy.prune(model, images, keras_greedy.Budget(latency=0.5, table=table))
    ```
    """

    full_ms: float
    sizes: dict[str, int]
    blocks: dict[str, BlockTimes] = dataclasses.field(repr=False)
    saving: float = 1.0
    timer: Callable | None = None

    def ms(self, widths: dict | None = None):
        """Milliseconds when the named groups have these widths, the others all.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            A float, or an array when a width is one.
        """
        widths = widths or {}
        full = (widths.get(name, size) for name, size in self.sizes.items())
        *chosen, _ = np.broadcast_arrays(*full, 0.0)
        chosen = np.reshape(chosen, (len(self.sizes), -1))
        share = self._sum(chosen) / self._sum(self._all)
        ms = self.full_ms * (1 - self.saving * (1 - share))
        shape = np.broadcast_shapes(*map(np.shape, widths.values()))
        return ms.reshape(shape) if shape else float(ms[0])

    def save(self, path) -> None:
        """Writes a JSON file, all but the timer.

        Args:
            path: Where to; the folder must exist.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        fields["blocks"] = {n: dataclasses.asdict(b) for n, b in self.blocks.items()}
        del fields["timer"]
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(fields, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path, timer: Callable | None = None) -> "LatencyTable":
        """Reads what `save` wrote.

        Args:
            path: The file.
            timer: See above. It must be of the device that the table is of.

        Raises:
            ValueError: When the file is no table of latencies.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            blocks = {n: BlockTimes(**b) for n, b in fields.pop("blocks").items()}
            return cls(**fields, blocks=blocks, timer=timer)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                "Expected `path` to be a file that LatencyTable.save wrote. "
                f"Received: path={str(path)!r}: {error!r}"
            ) from None

    def check(self, sizes: dict[str, int]) -> None:
        """Raises a ValueError unless the table is of a model with such groups.

        A policy may allow only some of them.
        """
        if not sizes.items() <= self.sizes.items():
            raise ValueError(
                "Expected the budget's `table` to be of the model that is pruned, "
                f"with groups of the sizes {sizes}. Received: a table of a model with "
                f"{self.sizes}. Measure it: keras_greedy.measure_latencies(model)"
            )

    def __post_init__(self):
        names, blocks = [*self.sizes], [*self.blocks.values()]
        members = [
            [[name in groups for name in names] for groups in (b.reads, b.others)]
            for b in blocks
        ]
        points = [max(len(b.channels[axis]) for b in blocks) for axis in (0, 1)]
        grids = [
            np.array([_padded(b.channels[axis], n) for b in blocks], float)
            for axis, n in enumerate(points)
        ]
        ms = [
            [_padded(row, points[1]) for row in _padded(b.ms, points[0])]
            for b in blocks
        ]
        packed = {
            "_all": np.array([*self.sizes.values()], float)[:, None],
            "_members": np.array(members, float).transpose(1, 0, 2),
            "_grids": grids,
            "_ms": np.array(ms),
        }
        for name, value in packed.items():
            object.__setattr__(self, name, value)

    def _sum(self, widths: np.ndarray) -> np.ndarray:
        """`(groups, K)` widths -> `(K,)` milliseconds of the blocks."""
        (i, s), (j, t) = (
            _position(grid, members @ widths)
            for grid, members in zip(self._grids, self._members, strict=True)
        )
        block = np.arange(len(self._ms))[:, None]
        i1, j1 = (
            np.minimum(k + 1, grid.shape[1] - 1)
            for k, grid in zip((i, j), self._grids, strict=True)
        )
        low = (1 - t) * self._ms[block, i, j] + t * self._ms[block, i, j1]
        high = (1 - t) * self._ms[block, i1, j] + t * self._ms[block, i1, j1]
        return np.maximum((1 - s) * low + s * high, 0).sum(axis=0)


def _padded(values: list, count: int) -> list:
    return [*values, *[values[-1]] * (count - len(values))]


def _position(grid: np.ndarray, channels: np.ndarray):
    """`(B, K)` cell of the `(B, P)` grid that `(B, K)` channels lie in, and where."""
    cell = (channels[:, :, None] >= grid[:, None, 1:-1]).sum(axis=-1)
    low = np.take_along_axis(grid, cell, axis=1)
    high = np.take_along_axis(grid, np.minimum(cell + 1, grid.shape[1] - 1), axis=1)
    beyond = np.divide(channels - low, high - low, where=high > low, out=0 * channels)
    return cell, beyond
