"""Latencies as a cost: blocks are timed at a few widths, all others interpolated."""

import dataclasses
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_greedy.files import replacing
from keras_greedy.graph.blocks import Block, blocks_of
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.trace import check_model, trace_quietly
from keras_greedy.progress import Progress
from tflite_export import convert
from tflite_export._checks import check_count
from tflite_export.benchmark import time_in_turns
from tflite_export.runtime import TfliteFile

ROUND_TO = 8
WARMUP = 5


class LocalTimer:
    """Times `.tflite` files on this machine, in turns.

    What else the machine does only ever adds to a time, and much to a median: the time
    of a file is the one that a tenth of its runs stay below.

    Args:
        threads: How many threads the kernels may use.
        runs: How many inferences of each file to time.

    Raises:
        ValueError: When one of them is no positive integer.

    Example:

    ```python
    timer = keras_greedy.LocalTimer(threads=4)
    full_ms, compact_ms = timer(["full.tflite", "compact.tflite"])
    ```
    """

    def __init__(self, threads: int = 1, runs: int = 100):
        self.threads = check_count("threads", threads, minimum=1)
        self.runs = check_count("runs", runs, minimum=1)

    def __call__(self, paths) -> list[float]:
        """Returns the time of each file in milliseconds."""
        files = [TfliteFile(path, self.threads) for path in paths]
        for file in files:
            file.feed_noise()
        interpreters = [file.interpreter for file in files]
        seconds = time_in_turns(interpreters, WARMUP + self.runs)[WARMUP:]
        return (1e3 * np.quantile(seconds, 0.1, axis=0)).tolist()


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


def measure_latencies(
    model: keras.Model, timer: Callable | None = None, verbose="auto"
) -> LatencyTable:
    """Measures what a latency budget needs to know; takes a minute or two.

    Each layer with a kernel, with what follows it, becomes a `.tflite` file of float32
    at three widths of what it reads times three of what it makes: the least (8), half
    and all. Equal ones are measured once.

    Args:
        model: A built Functional or Sequential model, on the TensorFlow backend.
        timer: Gives the milliseconds of each of a list of `.tflite` files; by default
            `LocalTimer()`, of this machine and one thread.
        verbose: As for `prune`.

    Returns:
        The `LatencyTable`.

    Raises:
        ImportError: When TensorFlow is missing.
        ValueError: When the model cannot be exported; see `tflite_export.convert`.

    Example:

    ```python
    def on_the_phone(paths):
        binary = "android_aarch64_benchmark_model"
        timed = [tflite_export.android.benchmark(path, binary) for path in paths]
        return [latency.mean_ms for latency in timed]

    table = keras_greedy.measure_latencies(model, on_the_phone)
    ```
    """
    timer = LocalTimer() if timer is None else timer
    if not callable(timer):
        raise ValueError(
            "Expected `timer` to give the milliseconds of each of a list of files. "
            f"Received: timer={timer!r}"
        )
    graph, progress = trace_quietly(model), Progress(verbose)
    blocks = blocks_of(graph)
    with tempfile.TemporaryDirectory() as folder:
        files = _Files(Path(folder))
        full, nothing = files.add(model), files.add(_nothing())
        grids = [
            _files_of(graph, block, files)
            for block in progress.over(blocks, "Exporting each block", len(blocks))
        ]
        ms = _checked(timer(files.paths), len(files.paths))
    # What it takes to call the runtime is part of every file's time.
    times = [np.maximum(ms[grid] - ms[nothing], 0).tolist() for _, grid in grids]
    timed = {
        block.name: BlockTimes(block.reads, block.others, channels, time)
        for block, (channels, _), time in zip(blocks, grids, times, strict=True)
    }
    return LatencyTable(float(ms[full]), graph.widths, timed, timer=timer)


class _Files:
    """The `.tflite` files of models; two models that differ in names have one."""

    def __init__(self, folder: Path):
        self.paths: list[Path] = []
        self._folder, self._known = folder, {}

    def add(self, model: keras.Model) -> int:
        """Returns the index of the model's file."""
        index = self._known.setdefault(_likeness(model), len(self.paths))
        if index == len(self.paths):
            path = self._folder / f"{index}.tflite"
            self.paths.append(export(model, path))
        return index


def export(model: keras.Model, path) -> Path:
    """Writes a model as it is timed: in float32, of its own batch size or 1."""
    return convert(model, path, batch_size=model.inputs[0].shape[0] or 1)


def _likeness(model: keras.Model) -> str:
    """The config without the names."""
    operations = check_model(model).operations
    config = json.dumps(model.get_config(), default=str)
    for i, name in enumerate([model.name, *(op.name for op in operations)]):
        config = config.replace(f'"{name}"', f'"#{i}"')
    return config


def _nothing() -> keras.Model:
    return keras.Sequential([keras.Input((8,)), keras.layers.ReLU()])


def _files_of(graph: ChannelGraph, block: Block, files: _Files):
    """The channels that a block is timed at, and the index of each one's file."""
    reads, others = (
        _cuts({name: graph.widths[name] for name in names})
        for names in (block.reads, block.others)
    )
    grid = [[files.add(block.model(graph, a | b)) for b in others] for a in reads]
    channels = [[sum(cut.values()) for cut in cuts] for cuts in (reads, others)]
    return channels, np.array(grid)


def _cuts(sizes: dict[str, int]) -> list[dict[str, int]]:
    """The widths of groups that are cut alike: the least, half, all; no two equal."""
    cuts = []
    for share in (0.0, 0.5, 1.0):
        cut = {
            name: min(size, max(ROUND_TO, ROUND_TO * round(share * size / ROUND_TO)))
            for name, size in sizes.items()
        }
        cut = sizes if share == 1 else cut
        if cut not in cuts:
            cuts.append(cut)
    return cuts


def _checked(times, count: int) -> np.ndarray:
    times = np.array(times, float)
    if times.shape != (count,) or not np.all(times > 0):
        raise ValueError(
            f"Expected `timer` to give {count} positive numbers, the milliseconds of "
            f"each file. Received: {times}"
        )
    return times
