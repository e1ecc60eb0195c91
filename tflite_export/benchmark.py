"""How long `.tflite` files take on this machine."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from tflite_export.checks import check_count
from tflite_export.latency import Comparison, Latency
from tflite_export.runtime import TfliteFile


def benchmark(path, runs=50, threads=1, warmup=5):
    """Times a `.tflite` file.

    To compare files use `compare`: two calls of `benchmark` also measure what
    the machine was doing in between.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    latency = tflite_export.benchmark(path, runs=20)
    print(latency.p50_ms, latency.size_bytes)
    ```

    Args:
        path: the file.
        runs: how many inferences to time.
        threads: how many threads the kernels may use.
        warmup: how many inferences to run before the first one timed.

    Returns:
        A `Latency`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a `.tflite` file, or a number is too small.
    """
    return compare([path], runs, threads, warmup).latencies[0]


def compare(paths, runs=50, threads=1, warmup=5):
    """Times several `.tflite` files in turns.

    Every file runs once per round, and each round starts with the next file, so
    that a machine which slows down or speeds up does so for all of them alike. The
    files push each other out of the caches, so the times can be a little above
    those of `benchmark`; the ratios are the point. They are ratios of medians:
    other work on the machine moves the means much more.

    The inputs are random numbers from a fixed seed; integer inputs are zero. How long
    a file takes to open, and its memory, are measured in a process of its own.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    full = tflite_export.convert(model, "full.tflite")
    half = tflite_export.convert(model, "half.tflite", quantize="float16")
    print(tflite_export.compare([full, half], runs=20))
    ```

    Args:
        paths: the files; the ratios are to the first.
        runs: how many inferences to time per file.
        threads: how many threads the kernels may use.
        warmup: how many rounds to run before the first one timed.

    Returns:
        A `Comparison`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there are no paths, one is not a `.tflite` file, or a number
            is too small.
    """
    paths = _check_paths(paths)
    runs = check_count("runs", runs, minimum=1)
    threads = check_count("threads", threads, minimum=1)
    warmup = check_count("warmup", warmup, minimum=0)
    files = [TfliteFile(path, threads) for path in paths]
    for file in files:
        file.feed_noise()
    seconds = time_in_turns([file.interpreter for file in files], warmup + runs)
    return Comparison(
        tuple(
            Latency(
                path=file.path,
                size_bytes=Path(file.path).stat().st_size,
                runs=runs,
                threads=threads,
                **_statistics(times),
                warmup=warmup,
                delegate=_delegate(file.interpreter),
                **_started_alone(file.path, threads),
            )
            for file, times in zip(files, seconds[warmup:].T, strict=True)
        )
    )


def _check_paths(paths):
    listed = [] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not listed:
        raise ValueError(
            "Expected `paths` to be a list of at least one file. "
            f"Received: paths={paths!r}"
        )
    return listed


def time_in_turns(interpreters, rounds):
    count = len(interpreters)
    seconds = np.empty((rounds, count))
    for turn in range(rounds):
        for place in range(count):
            index = (turn + place) % count
            start = time.perf_counter()
            interpreters[index].invoke()
            seconds[turn, index] = time.perf_counter() - start
    return seconds


def _statistics(seconds):
    milliseconds = 1e3 * seconds
    p50, p90 = np.percentile(milliseconds, [50, 90])
    return {
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "mean_ms": float(milliseconds.mean()),
        "std_ms": float(milliseconds.std()),
    }


def _delegate(interpreter):
    """XNNPACK is the one that runtimes apply by themselves."""
    operations = {each["op_name"] for each in interpreter._get_ops_details()}
    return "XNNPACK" if "DELEGATE" in operations else "none"


def _started_alone(path, threads):
    command = [sys.executable, "-m", "tflite_export.startup", path, str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(
            f"Expected {path!r} to open in a process of its own too. Received: exit "
            f"code {done.returncode}. {done.stderr.strip()[-500:]}"
        )
    return json.loads(done.stdout)
