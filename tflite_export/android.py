"""How long a `.tflite` file takes on an Android phone, by adb.

The phone runs Google's own `benchmark_model`, a command-line binary. Get the one for
the phone's processor, most often `android_aarch64`, from the links under "Native
benchmark binary" on LiteRT's page on performance measurement:
ai.google.dev/edge/litert/models/measurement
"""

import contextlib
import re
import subprocess
import uuid
from pathlib import Path

from tflite_export.checks import check_count
from tflite_export.latency import Latency, Operation

DEVICE_FOLDER = "/data/local/tmp"
# `benchmark_model` stops by itself after 150 seconds of each phase.
TIMEOUT_S = 600


class AdbError(RuntimeError):
    """adb, or the phone behind it, did not do what it was asked."""


def benchmark(
    path,
    binary,
    adb="adb",
    serial=None,
    threads=1,
    runs=50,
    warmup=5,
    use_gpu=False,
    use_nnapi=False,
    use_xnnpack=True,
    profile=False,
):
    """Times a `.tflite` file on an Android phone.

    Pushes the file and `benchmark_model` to a folder of their own in
    `/data/local/tmp`, runs it, and removes the folder again, also after an error.

    Example:

    ```python
    import tflite_export

    latency = tflite_export.android.benchmark(
        "model.tflite", "android_aarch64_benchmark_model", threads=4, profile=True
    )
    print(latency)
    for operation in latency.operations:
        print(operation.type, operation.mean_ms)
    ```

    Args:
        path: the file.
        binary: the `benchmark_model` binary for the phone's processor; the text of
            this module says where to get it.
        adb: the adb command of the Android SDK platform tools.
        serial: which device, as `adb devices` lists them; `None`: the only one.
        threads: how many threads the kernels may use.
        runs: how many inferences to time at least; it goes on for a second at least.
        warmup: how many inferences to run before at least, half a second at least.
        use_gpu: whether to use the GPU delegate.
        use_nnapi: whether to use the NNAPI delegate.
        use_xnnpack: whether to use XNNPACK for what runs on the processor.
        profile: whether to run once more and measure each operation. That slows the
            run down, so the other figures are never of this one.

    Returns:
        A `Latency`. `benchmark_model` does not tell `p90_ms`, and older ones do not
        tell `p50_ms`. `delegate` is what the phone did, not what it was asked for.

    Raises:
        FileNotFoundError: if there is no such file, binary or adb.
        ValueError: if a number is too small, or two accelerators are asked for.
        AdbError: if there is no device, more than one without `serial`, one that does
            not trust this computer, or the run failed; the error says which.
    """
    for name, file in (("path", path), ("binary", binary)):
        if not Path(file).is_file():
            raise FileNotFoundError(
                f"Expected `{name}` to be an existing file. "
                f"Received: {name}={str(file)!r}"
            )
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
    phone = _Phone(adb, serial)
    with _pushed(phone, path, binary) as run_benchmark:
        facts = parse_timings(run_benchmark(flags))
        if profile:
            output = run_benchmark({**flags, "enable_op_profiling": True})
            facts["operations"] = parse_operations(output)
    return Latency(
        path=str(path),
        size_bytes=Path(path).stat().st_size,
        threads=threads,
        warmup=warmup,
        **facts,
    )


class _Phone:
    """Sends commands to one device."""

    def __init__(self, adb, serial):
        self._adb = str(adb)
        self._serial = _choose(_devices(self._call("devices")), serial)

    def __call__(self, *arguments):
        """Returns what a command printed; raises an `AdbError` if it failed."""
        return self._call("-s", self._serial, *arguments)

    def _call(self, *arguments):
        try:
            done = subprocess.run(
                [self._adb, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
            )
        except OSError as error:
            raise FileNotFoundError(
                "Expected `adb` to be the command of the Android SDK platform tools. "
                f"Received: adb={self._adb!r}: {error.strerror}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise AdbError(
                f"`adb {' '.join(arguments)}` did not end within {TIMEOUT_S} seconds. "
                "Is the phone still connected?"
            ) from error
        if done.returncode:
            raise AdbError(_explained(arguments, done.returncode, done.stdout))
        return done.stdout.replace("\r", "")


def _devices(listing):
    """Serial number and state of each device in the output of `adb devices`."""
    _, _, table = listing.partition("List of devices attached")
    rows = (line.split(maxsplit=1) for line in table.splitlines())
    return {row[0]: row[1].strip() for row in rows if len(row) == 2}


def _choose(devices, serial):
    if not devices:
        raise AdbError(
            "Expected a phone that adb sees. Received: none. Connect one, and turn on "
            "USB debugging in its developer options."
        )
    if serial is None and len(devices) > 1:
        raise AdbError(
            "Expected `serial` to name one of several devices. "
            f"Received: serial=None with {devices}"
        )
    serial = next(iter(devices)) if serial is None else serial
    state = devices.get(serial)
    if state is None:
        raise AdbError(
            f"Expected `serial` to be one of {list(devices)}. "
            f"Received: serial={serial!r}"
        )
    if state != "device":
        raise AdbError(
            f"Expected device {serial} to be ready. Received: it is {state!r}. "
            + _REMEDIES.get(state, "Connect it again, or restart adb.")
        )
    return serial


_TRUST = "Unlock the phone and allow USB debugging for this computer."
_REMEDIES = {"unauthorized": _TRUST, "authorizing": _TRUST}
_HINTS = {
    "No space left on device": f"The phone is out of space in {DEVICE_FOLDER}.",
    "not executable|Exec format": "The binary is for another processor, it seems.",
    "unauthorized": _TRUST,
    "device .*not found|no devices|offline": "Was the phone disconnected?",
}


def _explained(arguments, code, output):
    hints = (text for words, text in _HINTS.items() if re.search(words, output))
    tail = "\n".join(output.strip().splitlines()[-5:])
    failed = f"`adb {' '.join(arguments)}` failed with exit code {code}: {tail}"
    return " ".join([*hints, failed])


@contextlib.contextmanager
def _pushed(phone, path, binary):
    """Gives a function that runs `benchmark_model` on the phone with some flags."""
    folder = f"{DEVICE_FOLDER}/tflite_export-{uuid.uuid4().hex}"
    program, model = f"{folder}/benchmark_model", f"{folder}/model.tflite"

    def run_benchmark(flags):
        words = [f"--{name}={str(value).lower()}" for name, value in flags.items()]
        return phone("shell", program, f"--graph={model}", *words)

    try:
        phone("shell", "mkdir", "-p", folder)
        phone("push", str(binary), program)
        phone("push", str(path), model)
        phone("shell", "chmod", "755", program)
        yield run_benchmark
    finally:
        # A phone that went away must not hide why.
        with contextlib.suppress(AdbError):
            phone("shell", "rm", "-rf", folder)


def parse_timings(output):
    """Reads the figures of a `Latency` out of what `benchmark_model` printed.

    Args:
        output: its output, of any version from 2020 on.

    Returns:
        A dict of fields of `Latency`.

    Raises:
        AdbError: if it did not come to an end.
    """
    lines = re.findall(r"^(?:INFO: )?(count=.*)$", output, re.MULTILINE)
    init = re.search(r"Inference timings in us: Init: ([\d.e+]+)", output)
    if not lines or not init:
        tail = "\n".join(output.strip().splitlines()[-5:])
        raise AdbError(
            f"Expected `benchmark_model` to print its timings. Received: {tail or None}"
        )
    # The warm-up has a line of its own, before. A single run has no statistics.
    found = dict(re.findall(r"(\w+)=([\d.e+]+)", lines[-1]))
    memory = re.search(r"emory footprint.*: init=\S+ overall=([\d.e+-]+)", output)
    return {
        "runs": int(found["count"]),
        "p50_ms": float(found["median"]) / 1e3 if "median" in found else None,
        "p90_ms": None,
        "mean_ms": float(found.get("avg", found["curr"])) / 1e3,
        "std_ms": float(found.get("std", 0)) / 1e3,
        "init_ms": float(init[1]) / 1e3,
        "peak_memory_mb": float(memory[1]) if memory else None,
        "delegate": _parse_delegate(output),
    }


def _parse_delegate(output):
    if "will not be executed by the delegate" in output:
        return "none"
    applied = re.search(r"pplied (\w+) delegate, and the model graph will be", output)
    replaced = re.search(r"with delegate \((?:TfLite)?(\w+?)(?:Delegate\w*)?\)", output)
    match = applied or replaced
    return match[1].replace("XNNPack", "XNNPACK") if match else "none"


def parse_operations(output):
    """Reads the time of each operation out of what `benchmark_model` printed.

    Args:
        output: its output with `--enable_op_profiling=true`.

    Returns:
        A tuple of `Operation`, in the order they ran.

    Raises:
        AdbError: if there is no such table.
    """
    _, _, report = output.partition("Profiling Info for Regular Benchmark Runs")
    header, *rows = re.findall(r"^\t.*\t.*$", report.partition("\n\n")[0], re.M) or [""]
    columns = [cell.strip(" []") for cell in header.split("\t")]
    if "avg ms" not in columns:
        raise AdbError(
            "Expected `benchmark_model` to print a profile. Received: none; is the "
            "binary built with profiling?"
        )
    cells = [
        dict(zip(columns, map(str.strip, row.split("\t")), strict=True)) for row in rows
    ]
    return tuple(
        Operation(each["node type"], each["Name"], float(each["avg ms"]))
        for each in cells
    )
