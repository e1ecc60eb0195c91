"""`python -m tflite_export.startup FILE THREADS`: what a file costs a fresh process."""

import json
import re
import sys
import time
from pathlib import Path

from tflite_export.runtime import TfliteFile, import_runtime


def main(path, threads):
    import_runtime()
    before = _memory_mb("VmRSS")
    start = time.perf_counter()
    file = TfliteFile(path, int(threads))
    init_ms = 1e3 * (time.perf_counter() - start)
    file.feed_noise()
    file.interpreter.invoke()
    # Not `getrusage`: its maximum begins at that of the parent process.
    peak = _memory_mb("VmHWM")
    grown = None if peak is None else max(0.0, peak - before)
    print(json.dumps({"init_ms": init_ms, "peak_memory_mb": grown}))


def _memory_mb(field):
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    kibibytes = re.search(rf"^{field}:\s*(\d+) kB", status.read_text(), re.MULTILINE)
    return int(kibibytes[1]) * 1024 / 1e6


if __name__ == "__main__":
    main(*sys.argv[1:])
