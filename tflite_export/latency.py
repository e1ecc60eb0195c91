"""What `benchmark` and `compare` give back."""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Operation:
    """The time one operation of a file takes.

    Attributes:
        type: what it does, `CONV_2D` for example, or the name of the delegate that
            runs it together with others.
        name: the tensor it computes.
        mean_ms: its mean time per inference, in milliseconds.
    """

    type: str
    name: str
    mean_ms: float


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time one inference of a `.tflite` file takes.

    What was not measured is `None`.

    Attributes:
        path: the file.
        size_bytes: its size on disk.
        runs: how many inferences were timed.
        threads: how many threads its kernels could use.
        p50_ms: the median time of an inference, in milliseconds.
        p90_ms: the time that 90% of the inferences stay below.
        mean_ms: the mean time.
        std_ms: the standard deviation of the time.
        warmup: how many inferences ran before the first one timed.
        delegate: what ran the operations that it could: `"XNNPACK"`, `"GPU"`...; or
            `"none"`.
        init_ms: the time to open the file in a fresh process.
        peak_memory_mb: the peak memory of opening and running it once, in MB beyond
            what the process had before; on Linux and Android.
        operations: the time of each `Operation`, if it was asked for.
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
    operations: tuple[Operation, ...] = ()

    def to_json(self):
        """Returns the fields as a JSON string."""
        return json.dumps(dataclasses.asdict(self))

    def __str__(self):
        return (
            f"{self.path}: p50 {_number(self.p50_ms)} ms, p90 {_number(self.p90_ms)} "
            f"ms, mean {self.mean_ms:.3f} ± {self.std_ms:.3f} ms ({self.runs} runs, "
            f"{self.threads} threads, delegate {self.delegate}), init "
            f"{_number(self.init_ms)} ms, peak memory {_number(self.peak_memory_mb)} "
            f"MB, {self.size_bytes / 1e6:.3f} MB on disk"
        )


def _number(value):
    return "–" if value is None else f"{value:.3f}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The latencies of several files, measured in turns.

    `str()` gives an aligned table for a terminal.

    Attributes:
        latencies: one `Latency` per file, in the order given.
    """

    latencies: tuple[Latency, ...]

    @property
    def ratios(self):
        """The median time of each file over that of the first: below 1 is faster.

        `None` where a phone did not tell the median.
        """
        times = [each.p50_ms for each in self.latencies]
        return tuple(None if None in (t, times[0]) else t / times[0] for t in times)

    def to_json(self):
        """Returns the fields of each file, and its `ratio`, as a JSON string."""
        return json.dumps(
            [
                {**dataclasses.asdict(latency), "ratio": ratio}
                for latency, ratio in zip(self.latencies, self.ratios, strict=True)
            ]
        )

    def to_markdown(self):
        """Returns the table in markdown."""
        header, *rows = self._cells()
        rule = ["---", *["---:"] * (len(header) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows])

    def __str__(self):
        cells = self._cells()
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = []
        for name, *numbers in cells:
            padded = [name.ljust(widths[0])]
            padded += [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join(padded))
        return "\n".join(lines)

    def _cells(self):
        header = ["file", "MB", "p50 ms", "p90 ms", "mean ms", "std ms", "p50 ratio"]
        header += ["init ms", "peak MB", "delegate"]
        return [header] + [
            [
                each.path,
                f"{each.size_bytes / 1e6:.3f}",
                _number(each.p50_ms),
                _number(each.p90_ms),
                f"{each.mean_ms:.3f}",
                f"{each.std_ms:.3f}",
                _number(ratio),
                _number(each.init_ms),
                _number(each.peak_memory_mb),
                each.delegate or "–",
            ]
            for each, ratio in zip(self.latencies, self.ratios, strict=True)
        ]
