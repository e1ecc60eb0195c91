"""Times `.tflite` files on an Android phone, by adb.

The phone runs Google's own `benchmark_model`, a command-line binary. Get the one for
the phone's processor, most often `android_aarch64`, from the links under "Native
benchmark binary" on LiteRT's page on performance measurement:
ai.google.dev/edge/litert/models/measurement. The newer one of the same name, which runs
a file as a `CompiledModel`, is taken too: ai.google.dev/edge/litert/next/benchmark
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from tflite_export.adb import DEVICE_FOLDER, AdbError, Phone
from tflite_export.benchmark_model import parse_operations, parse_timings
from tflite_export.checks import check_count, check_file
from tflite_export.latency import RUNS, WARMUP, Latency

__all__ = ["AdbError", "benchmark", "parse_operations", "parse_timings"]

Flags: TypeAlias = Mapping[str, int | bool]
"""Flag of `benchmark_model`, without its dashes -> value."""


def benchmark(
    path: str | Path,
    binary: str | Path,
    adb: str | Path = "adb",
    serial: str | None = None,
    threads: int = 1,
    runs: int = RUNS,
    warmup: int = WARMUP,
    use_gpu: bool = False,
    use_nnapi: bool = False,
    use_xnnpack: bool = True,
    profile: bool = False,
) -> Latency:
    """Times a `.tflite` file on an Android phone.

    Pushes the file and `benchmark_model` to a folder of their own in
    `/data/local/tmp`, runs it, and removes the folder again, also after an error.
    From a shell:

    ```console
    python -m tflite_export android model.tflite --threads 4 --profile \\
        --binary android_aarch64_benchmark_model
    ```

    Args:
        path: The file.
        binary: The `benchmark_model` binary for the phone's processor; the text of
            this module says where to get it.
        adb: The adb command of the Android SDK platform tools.
        serial: The serial number of the device, as `adb devices` lists them; `None`
            for the only one.
        threads: Number of threads that the kernels may use.
        runs: Least number of inferences to time; it goes on for a second at least.
        warmup: Least number of inferences to run before, half a second at least.
        use_gpu: Whether to use the GPU delegate.
        use_nnapi: Whether to use the NNAPI delegate; the newer `benchmark_model` knows
            none.
        use_xnnpack: Whether to use XNNPACK for the operations on the processor; the
            newer `benchmark_model` always does.
        profile: Whether to run once more and measure each operation. That slows the
            run down, so the other figures are never of this one.

    Returns:
        A `Latency`. `benchmark_model` does not tell `p90_ms`, and older ones do not
        tell `p50_ms`. `delegate` is the one that the phone used, not the one it was
        asked for.

    Raises:
        FileNotFoundError: When there is no such file, binary or adb.
        ValueError: When a number is too small, or two accelerators are asked for.
        AdbError: When there is no device, more than one without `serial`, one that
            does not trust this computer, or the run failed; the error says which.
    """
    path = check_file(path, "an existing file")
    binary = check_file(binary, "an existing file", name="binary")
    if use_gpu and use_nnapi:
        raise ValueError(
            "Expected one accelerator. Received: use_gpu=True and use_nnapi=True"
        )
    runs = check_count("runs", runs, minimum=1)
    threads = check_count("threads", threads, minimum=1)
    warmup = check_count("warmup", warmup, minimum=0)
    flags = {
        "num_threads": threads,
        "num_runs": runs,
        "warmup_runs": warmup,
        "use_gpu": use_gpu,
        "use_nnapi": use_nnapi,
        "use_xnnpack": use_xnnpack,
    }
    phone = Phone(adb, serial)
    with _pushed(phone, path, binary) as run_benchmark:
        figures = parse_timings(run_benchmark(flags))
        if profile:
            # Each of the two programs warns of the other one's flag and goes on.
            profiling = {"enable_op_profiling": True, "use_profiler": True}
            output = run_benchmark({**flags, **profiling})
            figures["operations"] = parse_operations(output)
    return Latency(
        path=str(path),
        size_bytes=path.stat().st_size,
        threads=threads,
        warmup=warmup,
        **figures,
    )


@contextlib.contextmanager
def _pushed(
    phone: Phone,
    path: str | Path,
    binary: str | Path,
) -> Iterator[Callable[[Flags], str]]:
    """Yields a function that runs `benchmark_model` on the phone with some flags."""
    # A folder per call: two processes may time on one phone.
    folder = f"{DEVICE_FOLDER}/tflite_export-{uuid.uuid4().hex}"
    program = f"{folder}/benchmark_model"
    model = f"{folder}/model.tflite"

    def run_benchmark(flags: Flags) -> str:
        words = [f"--{name}={str(value).lower()}" for name, value in flags.items()]
        return phone.run("shell", program, f"--graph={model}", *words)

    try:
        phone.run("shell", "mkdir", "-p", folder)
        phone.run("push", str(binary), program)
        phone.run("push", str(path), model)
        phone.run("shell", "chmod", "755", program)
        yield run_benchmark
    finally:
        # A phone that went away must not hide why.
        with contextlib.suppress(AdbError):
            phone.run("shell", "rm", "-rf", folder)
