"""Latencies as a cost: the blocks of a model, exported and timed at a few widths."""

import dataclasses
import json
import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.model_kinds import check_model
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.latency.blocks import Block, blocks_of
from keras_greedy.latency.interpolation import BlockTimes
from keras_greedy.latency.table import LatencyTable
from keras_greedy.latency.timer import LocalTimer, Timer, time_files
from keras_greedy.progress import Progress, Verbose
from tflite_export import convert

# Widths are multiples of this, as those of a `Budget` are unless it says otherwise.
ROUND_TO = 8
# The shares of a block's channels that are timed; 0 stands for the least width.
SHARES = (0.0, 0.5, 1.0)


def measure_latencies(
    model: keras.Model,
    timer: Timer | None = None,
    verbose: Verbose = "auto",
) -> LatencyTable:
    """Measures the latencies that a latency budget goes by; takes a minute or two.

    Each layer with a kernel, with those that follow it, becomes a `.tflite` file of
    float32 at three widths of its inputs times three of its outputs: the least (8),
    half and all. Equal files are measured once.

    Args:
        model: A built Functional or Sequential model, on the TensorFlow backend.
        timer: Gives the milliseconds of each of a list of `.tflite` files; by default
            `LocalTimer()`, of this machine and one thread. For a phone, one that
            calls `tflite_export.android.benchmark` for each file.
        verbose: As for `prune`.

    Returns:
        The `LatencyTable`.

    Raises:
        ImportError: When TensorFlow is missing.
        ValueError: When the model cannot be exported; see `tflite_export.convert`.
            When the timer does not give as many positive numbers as files.

    Example:

    ```python
    import keras
    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


    def on_the_phone(paths):
        # Stands in for `tflite_export.android.benchmark(path, binary).mean_ms`.
        return [path.stat().st_size / 1e5 for path in paths]


    table = keras_greedy.measure_latencies(model, on_the_phone)
    print(table.full_ms)
    ```
    """
    timer = LocalTimer() if timer is None else timer
    if not callable(timer):
        raise ValueError(
            "Expected `timer` to give the milliseconds of each of a list of files. "
            f"Received: timer={timer!r}"
        )
    graph = trace_quietly(model)
    progress = Progress(verbose)
    blocks = blocks_of(graph)
    with tempfile.TemporaryDirectory() as folder:
        files = _Files(Path(folder))
        full = files.add(model)
        nothing = files.add(_nothing())
        grids = []
        for block in progress.over(blocks, "Exporting each block", len(blocks)):
            grids.append(_grid(graph, block, files))
        ms = time_files(timer, files.paths)

    timed = {}
    for block, grid in zip(blocks, grids, strict=True):
        # Calling the runtime takes time, which is part of every file's but comes once
        # in the whole model: the time of a file that does nothing is taken off.
        alone = ms[grid.files] - ms[nothing]
        # Noise may make it negative.
        alone = np.maximum(alone, 0)
        timed[block.name] = BlockTimes(
            reads=block.reads,
            others=block.others,
            channels=grid.channels,
            ms=alone.tolist(),
        )
    return LatencyTable(
        full_ms=float(ms[full]),
        sizes=graph.widths,
        blocks=timed,
        timer=timer,
    )


def export(model: keras.Model, path: str | Path) -> Path:
    """Writes a model as it is timed: in float32, of its own batch size or 1."""
    batch_size = model.inputs[0].shape[0]
    return convert(model, path, batch_size=batch_size or 1)


class _Files:
    """The `.tflite` files of models; two models that differ in names share one.

    Args:
        folder: The folder to write them to.
    """

    def __init__(self, folder: Path):
        self.paths: list[Path] = []
        self._folder = folder
        self._index_of: dict[str, int] = {}

    def add(self, model: keras.Model) -> int:
        """Returns the index of the model's file, which is written if it is new."""
        likeness = _likeness(model)
        if likeness not in self._index_of:
            index = len(self.paths)
            self._index_of[likeness] = index
            path = self._folder / f"{index}.tflite"
            self.paths.append(export(model, path))
        return self._index_of[likeness]


def _likeness(model: keras.Model) -> str:
    """Returns the model's config with numbers in place of the names."""
    names = [model.name]
    for operation in check_model(model).operations:
        names.append(operation.name)
    config = json.dumps(model.get_config(), default=str)
    for i, name in enumerate(names):
        config = config.replace(f'"{name}"', f'"#{i}"')
    return config


def _nothing() -> keras.Model:
    """Returns a model that takes no time but that of calling the runtime."""
    vector = keras.Input((8,))
    relu = keras.layers.ReLU()
    return keras.Sequential([vector, relu])


@dataclasses.dataclass(frozen=True, eq=False)
class _Grid:
    """The files of one block, at each pair of widths of its inputs and outputs.

    Attributes:
        channels: The channels of each row, which the block reads, and the others of
            each column.
        files: `(rows, columns)` indices of the files.
    """

    channels: tuple[list[int], list[int]]
    files: np.ndarray


def _grid(graph: ChannelGraph, block: Block, files: _Files) -> _Grid:
    """Writes a block at its few widths."""
    reads = _cuts(graph, block.reads)
    others = _cuts(graph, block.others)
    indices = []
    for read in reads:
        row = []
        for other in others:
            model = block.model(graph, read | other)
            row.append(files.add(model))
        indices.append(row)
    return _Grid(
        channels=(_totals(reads), _totals(others)),
        files=np.array(indices),
    )


def _cuts(graph: ChannelGraph, names: list[str]) -> list[dict[str, int]]:
    """Returns the widths of groups that are cut alike: the least, half, all.

    No two are equal: small groups have fewer, and without groups there is one.

    Args:
        graph: The graph of the model.
        names: The names of the groups.
    """
    cuts = []
    for share in SHARES:
        cut = {}
        for name in names:
            size = graph.widths[name]
            if share == 1:
                # Measured as it is, whether or not it is a multiple.
                cut[name] = size
            else:
                cut[name] = _rounded(share * size, size)
        if cut not in cuts:
            cuts.append(cut)
    return cuts


def _totals(cuts: list[dict[str, int]]) -> list[int]:
    return [sum(cut.values()) for cut in cuts]


def _rounded(width: float, size: int) -> int:
    """Returns the nearest multiple of `ROUND_TO`, at least one, at most `size`."""
    nearest = ROUND_TO * round(width / ROUND_TO)
    return min(size, max(ROUND_TO, nearest))
