"""Latencies as a cost: the blocks of a model, exported and timed at a few widths."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.trace import check_model, trace_quietly
from keras_greedy.latency.blocks import Block, blocks_of
from keras_greedy.latency.table import BlockTimes, LatencyTable
from keras_greedy.progress import Progress
from tflite_export import convert
from tflite_export.benchmark import time_in_turns
from tflite_export.checks import check_count
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
