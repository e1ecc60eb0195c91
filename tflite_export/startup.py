"""Measures the start of a file: `python -m tflite_export.startup FILE THREADS`.

`benchmark` runs this in a fresh process, whose memory and caches are the file's alone.
"""

import json
import re
import sys
import time
from pathlib import Path

from tflite_export.runtime import TfliteFile, import_runtime

STATUS = Path("/proc/self/status")
RESIDENT_MEMORY = "VmRSS"
PEAK_RESIDENT_MEMORY = "VmHWM"
BYTES_PER_KIBIBYTE = 1024
BYTES_PER_MB = 1e6
MS_PER_SECOND = 1e3


def main(path: str, threads: str) -> None:
    """Prints the cost of opening a file and running it once, as one line of JSON.

    Args:
        path: The file.
        threads: Number of threads that the kernels may use, as written on the
            command line.
    """
    # Before the clock starts: importing the runtime is not part of opening a file.
    import_runtime()
    memory_before = _memory_mb(RESIDENT_MEMORY)
    start = time.perf_counter()
    file = TfliteFile(path, int(threads))
    init_ms = MS_PER_SECOND * (time.perf_counter() - start)
    file.feed_noise()
    file.interpreter.invoke()
    # Not `getrusage`: its maximum begins at that of the parent process.
    peak = _memory_mb(PEAK_RESIDENT_MEMORY)
    growth = None
    if peak is not None and memory_before is not None:
        growth = max(0.0, peak - memory_before)
    print(json.dumps({"init_ms": init_ms, "peak_memory_mb": growth}))


def _memory_mb(field: str) -> float | None:
    """Returns a memory figure of this process in MB; `None` where none is told."""
    if not STATUS.exists():
        return None
    line = re.search(rf"^{field}:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE)
    if line is None:
        return None
    # The kernel writes kB and means KiB.
    return int(line[1]) * BYTES_PER_KIBIBYTE / BYTES_PER_MB


if __name__ == "__main__":
    main(*sys.argv[1:])
