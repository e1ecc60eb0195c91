"""Times `.tflite` files on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.checks import check_count, shown
from tflite_export.latency import RUNS, WARMUP, Comparison, Latency
from tflite_export.runtime import Interpreter, TfliteFile
from tflite_export.slower import contents_of, notes_on

MS_PER_SECOND = 1e3

STARTUP_MODULE = "tflite_export.startup"

# Characters of a failed process' last words to show: the error, not its trace.
ERROR_TAIL = 500


def benchmark(
    path: str | Path,
    runs: int = RUNS,
    threads: int = 1,
    warmup: int = WARMUP,
) -> Latency:
    """Times a `.tflite` file.

    To compare files use `compare`: two calls of `benchmark` also measure the other
    work of the machine in between.

    Args:
        path: The file.
        runs: Number of inferences to time.
        threads: Number of threads that the kernels may use.
        warmup: Number of inferences to run before the first one timed.

    Returns:
        A `Latency`.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is not a `.tflite` file, or a number is too small.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    latency = tflite_export.benchmark(path, runs=20)
    print(latency.p50_ms, latency.size_bytes)
    ```
    """
    return compare([path], runs, threads, warmup).latencies[0]


def compare(
    paths: Iterable[str | Path],
    runs: int = RUNS,
    threads: int = 1,
    warmup: int = WARMUP,
) -> Comparison:
    """Times several `.tflite` files in turns.

    Every file runs once per round, and each round starts with the next file, so
    that a machine which slows down or speeds up does so for all of them alike. The
    files push each other out of the caches, so the times can be a little above
    those of `benchmark`; the ratios are the point. They are ratios of medians:
    other work on the machine moves the means much more.

    The inputs are random numbers from a fixed seed; integer inputs are zero. The time
    to open a file, and its memory, are measured in a process of its own.

    Below the table stands why a file of integers is slower than the float file of the
    same model, if both are among the files.

    Args:
        paths: The files; the ratios are to the first.
        runs: Number of inferences to time per file.
        threads: Number of threads that the kernels may use.
        warmup: Number of rounds to run before the first one timed.

    Returns:
        A `Comparison`.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When there are no paths, one is not a `.tflite` file, or a number
            is too small.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    full = tflite_export.convert(model, "full.tflite")
    half = tflite_export.convert(model, "half.tflite", quantize="float16")
    print(tflite_export.compare([full, half], runs=20))
    ```
    """
    listed = _check_paths(paths)
    runs = check_count("runs", runs, minimum=1)
    threads = check_count("threads", threads, minimum=1)
    warmup = check_count("warmup", warmup, minimum=0)
    files = [TfliteFile(path, threads) for path in listed]
    for file in files:
        file.feed_noise()
    interpreters = [file.interpreter for file in files]
    seconds = time_in_turns(interpreters, warmup + runs)[warmup:]
    latencies = []
    for file, seconds_of_file in zip(files, seconds.T, strict=True):
        latency = Latency(
            path=file.path,
            size_bytes=Path(file.path).stat().st_size,
            runs=runs,
            threads=threads,
            **_statistics(seconds_of_file),
            warmup=warmup,
            delegate=_delegate(file.interpreter),
            **_started_alone(file.path, threads),
        )
        latencies.append(latency)
    contents = [contents_of(interpreter) for interpreter in interpreters]
    return Comparison(tuple(latencies), notes_on(latencies, contents))


def _check_paths(paths: Iterable[str | Path]) -> list[str | Path]:
    # A single path is iterable too, letter by letter.
    is_single = isinstance(paths, (str, bytes, os.PathLike))
    listed = list(paths) if isinstance(paths, Iterable) and not is_single else []
    if not listed:
        raise ValueError(
            "Expected `paths` to be a list of at least one file. "
            f"Received: paths={shown(paths)}"
        )
    return listed


def time_in_turns(interpreters: Sequence[Interpreter], rounds: int) -> np.ndarray:
    """Times each interpreter once per round, each round starting with the next one.

    Args:
        interpreters: Interpreters with their inputs set.
        rounds: Number of inferences of each.

    Returns:
        Seconds, of shape `(rounds, len(interpreters))`.
    """
    count = len(interpreters)
    seconds = np.empty((rounds, count))
    for turn in range(rounds):
        for place in range(count):
            # Rotated, so that none always runs behind the same other one.
            index = (turn + place) % count
            start = time.perf_counter()
            interpreters[index].invoke()
            seconds[turn, index] = time.perf_counter() - start
    return seconds


def _statistics(seconds: np.ndarray) -> dict[str, Any]:
    """Returns the fields of `Latency` that sum up the times `(runs,)` of one file."""
    milliseconds = MS_PER_SECOND * seconds
    p50, p90 = np.percentile(milliseconds, [50, 90])
    return {
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "mean_ms": float(milliseconds.mean()),
        "std_ms": float(milliseconds.std()),
    }


def _delegate(interpreter: Interpreter) -> str:
    """Returns the name of the delegate that the runtime applied by itself."""
    names = {each["op_name"] for each in interpreter._get_ops_details()}
    # The runtime says only that there is one; XNNPACK is the only one it can be.
    return "XNNPACK" if "DELEGATE" in names else "none"


def _started_alone(path: str, threads: int) -> dict[str, Any]:
    """Returns the fields of `Latency` that a fresh process measures."""
    command = [sys.executable, "-m", STARTUP_MODULE, path, str(threads)]
    # The child finds the packages where this process did, wherever it was started.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last_words = done.stderr.strip()[-ERROR_TAIL:]
        raise RuntimeError(
            f"Expected {path!r} to open in a process of its own too. Received: exit "
            f"code {done.returncode}. {last_words}"
        )
    return json.loads(done.stdout)
