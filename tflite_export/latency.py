"""Results of `benchmark` and `compare`: times of one file, or of several in a table."""

import dataclasses
import html
import json
from pathlib import Path

from tflite_export.html_tables import html_table

# Inferences timed by default: the 90th percentile then has five above it.
RUNS = 50

# Inferences by default before the first one timed: caches and clocks settle.
WARMUP = 5

BYTES_PER_MB = 1e6

UNKNOWN = "–"
"""Stands in texts and tables for a figure that was not measured."""

HEADER = (
    "file",
    "MB",
    "p50 ms",
    "p90 ms",
    "mean ms",
    "std ms",
    "p50 ratio",
    "init ms",
    "peak MB",
    "delegate",
)


@dataclasses.dataclass(frozen=True)
class Operation:
    """The time that one operation of a file takes.

    Attributes:
        type: Its kind, `CONV_2D` for example, or the name of the delegate that runs
            it together with others.
        name: The tensor it computes.
        mean_ms: Its mean time per inference, in milliseconds.
    """

    type: str
    name: str
    mean_ms: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time that one inference of a `.tflite` file takes.

    Figures that were not measured are `None`.

    Attributes:
        path: The file.
        size_bytes: Its size on disk.
        runs: Number of inferences timed.
        threads: Number of threads that its kernels could use.
        p50_ms: The median time of an inference, in milliseconds.
        p90_ms: The time that 90% of the inferences stay below, in milliseconds.
        mean_ms: The mean time, in milliseconds.
        std_ms: The standard deviation of the time, in milliseconds.
        warmup: Number of inferences before the first one timed.
        delegate: The name of the library that ran the operations it could:
            `"XNNPACK"`, `"GPU"`...; or `"none"`.
        init_ms: The time to open the file in a fresh process, in milliseconds.
        peak_memory_mb: The peak memory of opening and running it once, in MB beyond
            that of the process before; on Linux and Android.
        operations: The time of each `Operation`, if it was asked for.
    """

    path: str
    size_bytes: int
    runs: int
    threads: int
    p50_ms: float | None
    p90_ms: float | None
    mean_ms: float
    std_ms: float
    warmup: int | None = None
    delegate: str | None = None
    init_ms: float | None = None
    peak_memory_mb: float | None = None
    operations: tuple[Operation, ...] = dataclasses.field(default=(), repr=False)

    def to_json(self) -> str:
        """Returns the fields as a JSON string."""
        return json.dumps(dataclasses.asdict(self))

    def __repr__(self) -> str:
        return (
            f"<Latency of {Path(self.path).name!r}: p50 {_number(self.p50_ms)} ms, "
            f"mean {self.mean_ms:.3f} ms>"
        )

    def _repr_html_(self) -> str:
        return Comparison((self,))._repr_html_()

    def __str__(self) -> str:
        return (
            f"{self.path}: p50 {_number(self.p50_ms)} ms, p90 {_number(self.p90_ms)} "
            f"ms, mean {self.mean_ms:.3f} ± {self.std_ms:.3f} ms ({self.runs} runs, "
            f"{self.threads} threads, delegate {self.delegate}), init "
            f"{_number(self.init_ms)} ms, peak memory {_number(self.peak_memory_mb)} "
            f"MB, {_number(self.size_bytes / BYTES_PER_MB)} MB on disk"
        )


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The latencies of several files, measured in turns.

    `str()` gives an aligned table for a terminal.

    Attributes:
        latencies: One `Latency` per file, in the order given.
        notes: A sentence for each file of integers that is slower than the float file
            of the same model among them, which says why.
    """

    latencies: tuple[Latency, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.latencies)} files>"

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """Returns the median time of each file over that of the first.

        Below 1 is faster than the first; `None` where a phone did not tell the median.
        """
        first = self.latencies[0].p50_ms
        ratios: list[float | None] = []
        for latency in self.latencies:
            if first is None or latency.p50_ms is None:
                ratios.append(None)
            else:
                ratios.append(latency.p50_ms / first)
        return tuple(ratios)

    def to_json(self) -> str:
        """Returns the fields of each file, and its `ratio`, as a JSON string."""
        rows = []
        for latency, ratio in zip(self.latencies, self.ratios, strict=True):
            row = dataclasses.asdict(latency)
            row["ratio"] = ratio
            rows.append(row)
        return json.dumps(rows)

    def to_markdown(self) -> str:
        """Returns the table in Markdown, and the notes below it."""
        # The names of the files to the left, numbers to the right.
        alignment = ["---"] + ["---:"] * (len(HEADER) - 1)
        lines = [list(HEADER), alignment, *self._rows()]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
        return "\n\n".join([table, *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return html_table(HEADER, self._rows()) + notes

    def __str__(self) -> str:
        table = [list(HEADER), *self._rows()]
        columns = zip(*table, strict=True)
        widths = [max(len(cell) for cell in column) for column in columns]
        lines = []
        for cells in table:
            padded = [cells[0].ljust(widths[0])]
            for cell, width in zip(cells[1:], widths[1:], strict=True):
                padded.append(cell.rjust(width))
            lines.append("  ".join(padded))
        return "\n".join([*lines, *self.notes])

    def _rows(self) -> list[list[str]]:
        """Returns the cells of each file, in the order of `HEADER`."""
        rows = []
        for latency, ratio in zip(self.latencies, self.ratios, strict=True):
            row = [
                latency.path,
                _number(latency.size_bytes / BYTES_PER_MB),
                _number(latency.p50_ms),
                _number(latency.p90_ms),
                _number(latency.mean_ms),
                _number(latency.std_ms),
                _number(ratio),
                _number(latency.init_ms),
                _number(latency.peak_memory_mb),
                latency.delegate or UNKNOWN,
            ]
            rows.append(row)
        return rows
