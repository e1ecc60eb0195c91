"""Timers of `.tflite` files: this machine, or a function of the user's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from tflite_export.benchmark import time_in_turns
from tflite_export.checks import check_count
from tflite_export.runtime import TfliteFile

# Gives the milliseconds of each of a list of `.tflite` files.
Timer: TypeAlias = Callable[[list[Path]], Sequence[float]]

# The first inferences of a file also fill caches.
WARMUP = 5
# The time of a file is the one that this share of its runs stay below.
FAST_RUNS = 0.1
MS_PER_SECOND = 1e3


class LocalTimer:
    """Times `.tflite` files on this machine, in turns.

    Other work of the machine only ever adds to a time, and much to a median: the time
    of a file is the one that a tenth of its runs stay below.

    Args:
        threads: How many threads the kernels may use.
        runs: How many inferences of each file to time.

    Raises:
        ValueError: When one of them is no positive integer.

    Example:

    ```python
    import keras
    import keras_greedy
    import tflite_export

    for name, width in {"full": 64, "compact": 32}.items():
        model = keras.Sequential(
            [keras.Input((256,)), keras.layers.Dense(width), keras.layers.Dense(10)]
        )
        tflite_export.convert(model, f"{name}.tflite")
    timer = keras_greedy.LocalTimer(threads=1, runs=20)
    full_ms, compact_ms = timer(["full.tflite", "compact.tflite"])
    ```
    """

    def __init__(self, threads: int = 1, runs: int = 100):
        self.threads = check_count("threads", threads, minimum=1)
        self.runs = check_count("runs", runs, minimum=1)

    def __call__(self, paths: Sequence[str | Path]) -> list[float]:
        """Returns the time of each file in milliseconds.

        Args:
            paths: The `.tflite` files.
        """
        interpreters = []
        for path in paths:
            file = TfliteFile(path, self.threads)
            file.feed_noise()
            interpreters.append(file.interpreter)
        # (rounds, files) seconds.
        seconds = time_in_turns(interpreters, WARMUP + self.runs)
        fast = np.quantile(seconds[WARMUP:], FAST_RUNS, axis=0)
        return (MS_PER_SECOND * fast).tolist()


def time_files(timer: Timer, paths: list[Path]) -> np.ndarray:
    """Times files, and checks the result: the timer may be the user's.

    Args:
        timer: As for `measure_latencies`.
        paths: The `.tflite` files.

    Returns:
        `(len(paths),)` milliseconds.

    Raises:
        ValueError: When the timer does not give as many positive numbers.
    """
    ms = np.array(timer(paths), float)
    count = len(paths)
    if ms.shape != (count,) or not np.all(ms > 0):
        raise ValueError(
            f"Expected `timer` to give {count} positive numbers, the milliseconds of "
            f"each file. Received: {ms}"
        )
    return ms
