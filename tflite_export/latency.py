"""What `benchmark` and `compare` give back."""

import dataclasses
import json


@dataclasses.dataclass(frozen=True)
class Latency:
    """The time one inference of a `.tflite` file takes.

    Attributes:
        path: the file.
        size_bytes: its size on disk.
        runs: how many inferences were timed.
        threads: how many threads its kernels could use.
        p50_ms: the median time of an inference, in milliseconds.
        p90_ms: the time that 90% of the inferences stay below.
        mean_ms: the mean time.
        std_ms: the standard deviation of the time.
    """

    path: str
    size_bytes: int
    runs: int
    threads: int
    p50_ms: float
    p90_ms: float
    mean_ms: float
    std_ms: float

    def to_json(self):
        """Returns the fields as a JSON string."""
        return json.dumps(dataclasses.asdict(self))

    def __str__(self):
        return (
            f"{self.path}: p50 {self.p50_ms:.3f} ms, p90 {self.p90_ms:.3f} ms, mean "
            f"{self.mean_ms:.3f} ± {self.std_ms:.3f} ms ({self.runs} runs, "
            f"{self.threads} threads), {self.size_bytes / 1e6:.3f} MB"
        )


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
        """The median time of each file over that of the first: below 1 is faster."""
        first = self.latencies[0].p50_ms
        return tuple(each.p50_ms / first for each in self.latencies)

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
        return [header] + [
            [
                each.path,
                f"{each.size_bytes / 1e6:.3f}",
                f"{each.p50_ms:.3f}",
                f"{each.p90_ms:.3f}",
                f"{each.mean_ms:.3f}",
                f"{each.std_ms:.3f}",
                f"{ratio:.3f}",
            ]
            for each, ratio in zip(self.latencies, self.ratios, strict=True)
        ]
