"""The output of Google's `benchmark_model`, of versions from 2020 on, as figures.

There are two of that name: TensorFlow Lite's, and the newer one of LiteRT, which runs
the file as a `CompiledModel`. Both print a line of statistics in microseconds.
"""

import re
from typing import Any

from tflite_export.adb import AdbError, last_lines
from tflite_export.latency import Operation

US_PER_MS = 1e3

NUMBER = r"[\d.e+]+"
"""A number as C++ prints it, without a sign; large ones have an exponent."""

STATISTICS = re.compile(r"^(?:INFO: )?(count=.*)$", re.MULTILINE)
INIT = re.compile(rf"Inference timings in us: Init: ({NUMBER})")
INIT_MS = re.compile(rf"Model initialization: ({NUMBER}) ms")
# `overall` counts the runs too, `init` only the opening of the file.
MEMORY = re.compile(
    r"emory footprint.*: init=\S+ overall=([\d.e+-]+)"
    r"|Overall footprint: +([\d.e+-]+) MB"
)

# TensorFlow Lite's prints two profiles, of which that of the opening is the first.
PROFILE = "Profiling Info for Regular Benchmark Runs"
RUN_ORDER = "= Run Order ="
PROFILE_ROW = re.compile(r"^\t.*\t.*$", re.MULTILINE)
TYPE_COLUMN = "node type"
NAME_COLUMN = "Name"
TIME_COLUMN = "avg ms"
CALLS_COLUMN = "times called"

NOT_DELEGATED = "will not be executed by the delegate"
# Either line may be missing, by version and by flags.
APPLIED = re.compile(r"pplied (\w+) delegate, and the model graph will be")
REPLACED = re.compile(r"with delegate \((?:TfLite)?(\w+?)(?:Delegate\w*)?\)")


def parse_timings(output: str) -> dict[str, Any]:
    """Reads the figures of a `Latency` from the output of `benchmark_model`.

    Args:
        output: The text that it printed.

    Returns:
        Field of `Latency` -> its value.

    Raises:
        AdbError: When it did not come to an end.

    Example:

    ```python
    from tflite_export.android import parse_timings

    figures = parse_timings(
        "count=50 first=2100 curr=2000 min=1900 max=2200 avg=2050 std=60\\n"
        "Inference timings in us: Init: 900, First inference: 2100\\n"
    )
    assert figures["mean_ms"] == 2.05
    ```
    """
    lines = STATISTICS.findall(output)
    init_ms = _parse_init(output)
    if not lines or init_ms is None:
        raise AdbError(
            "Expected `benchmark_model` to print its timings. Received: "
            f"{last_lines(output) or None}"
        )
    # The warm-up has a line of its own, before.
    found: dict[str, str] = dict(re.findall(rf"(\w+)=({NUMBER})", lines[-1]))
    median = found.get("median")
    # A single run has no statistics, only its own time.
    mean = found["avg"] if "avg" in found else found["curr"]
    memory = MEMORY.search(output)
    return {
        "runs": int(found["count"]),
        "p50_ms": None if median is None else float(median) / US_PER_MS,
        "p90_ms": None,
        "mean_ms": float(mean) / US_PER_MS,
        "std_ms": float(found.get("std", 0)) / US_PER_MS,
        "init_ms": init_ms,
        "peak_memory_mb": float(memory[1] or memory[2]) if memory else None,
        "delegate": _parse_delegate(output),
    }


def _parse_init(output: str) -> float | None:
    """Returns the time to open the file, in milliseconds, as either version tells."""
    microseconds = INIT.search(output)
    if microseconds:
        return float(microseconds[1]) / US_PER_MS
    milliseconds = INIT_MS.search(output)
    return float(milliseconds[1]) if milliseconds else None


def _parse_delegate(output: str) -> str:
    """Returns the delegate that ran at least a part of the graph, or `"none"`."""
    if NOT_DELEGATED in output:
        return "none"
    match = APPLIED.search(output) or REPLACED.search(output)
    if match is None:
        return "none"
    return match[1].replace("XNNPack", "XNNPACK")


def parse_operations(output: str) -> tuple[Operation, ...]:
    """Reads the time of each operation from the output of `benchmark_model`.

    Args:
        output: The text that it printed with `--enable_op_profiling=true` or, LiteRT's
            own, with `--use_profiler=true`.

    Returns:
        A tuple of `Operation`, in the order they ran.

    Raises:
        AdbError: When there is no such table.
    """
    _, _, report = output.partition(PROFILE)
    # The first table is in the order they ran; the next ones sort it by time.
    _, _, tables = (report or output).partition(RUN_ORDER)
    table, _, _ = tables.partition("\n\n")
    lines = PROFILE_ROW.findall(table)
    header = lines[0] if lines else ""
    columns = [cell.strip(" []") for cell in header.split("\t")]
    if TIME_COLUMN not in columns:
        raise AdbError(
            "Expected `benchmark_model` to print a profile. Received: none; is the "
            "binary built with profiling?"
        )
    operations = []
    for line in lines[1:]:
        # By the names of the columns: versions differ in which ones they print.
        cells = [cell.strip() for cell in line.split("\t")]
        row = dict(zip(columns, cells, strict=True))
        # What happens once and not in each run, as the allocation of memory.
        if row.get(CALLS_COLUMN) == "0":
            continue
        mean_ms = float(row[TIME_COLUMN])
        operations.append(Operation(row[TYPE_COLUMN], row[NAME_COLUMN], mean_ms))
    return tuple(operations)
