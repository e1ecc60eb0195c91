"""Finds what each operation of a `.tflite` file costs."""

import contextlib
import dataclasses
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.benchmark import MS_PER_SECOND, time_in_turns
from tflite_export.checks import check_count
from tflite_export.delegated import delegated
from tflite_export.inspection import InspectedOperation, Inspection
from tflite_export.latency import RUNS, WARMUP
from tflite_export.runtime import TfliteFile
from tflite_export.single_operations import Operations, name_of


def inspect(
    path: str | Path,
    runs: int | None = RUNS,
    threads: int = 1,
) -> Inspection:
    """Lists what each operation of a `.tflite` file costs, of any file, quantized too.

    Each operation is timed alone, as a file of its own, all of them in turns: the
    runtime for Python tells no times of what runs inside a file. Their sum is not the
    time of the file, in which data stay in the caches.

    Args:
        path: The file.
        runs: How often to time each; `None` for no times.
        threads: Number of threads that the kernels may use.

    Returns:
        An `Inspection`.

    Raises:
        FileNotFoundError: When there is no such file.
        ImportError: When nothing installed can read the format.
        ValueError: When it is not a `.tflite` file, or a number is too small.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    print(tflite_export.inspect(path, runs=20))
    ```
    """
    if runs is not None:
        runs = check_count("runs", runs, minimum=1)
    file = TfliteFile(path, threads)
    found = Operations(file.path)
    accelerated = delegated(file.interpreter._get_ops_details())
    details = file.interpreter.get_tensor_details()
    bytes_of_each = {each["name"]: _bytes_of(each) for each in details}
    operations = []
    for index, kind in enumerate(found.kinds):
        is_accelerated = index in accelerated
        operations.append(_inspected(found, index, kind, bytes_of_each, is_accelerated))
    if runs is not None:
        times = _times(found, runs, threads)
        pairs = zip(operations, times, strict=True)
        operations = [dataclasses.replace(each, p50_ms=own) for each, own in pairs]
    size = Path(file.path).stat().st_size
    return Inspection(file.path, size, tuple(operations))


def _inspected(
    found: Operations,
    index: int,
    kind: str,
    bytes_of_each: dict[str, int],
    is_accelerated: bool,
) -> InspectedOperation:
    inputs, outputs = found.inputs(index), found.outputs(index)
    weight_bytes = sum(found.bytes_of(tensor) for tensor in inputs)
    tensors = [name_of(tensor) for tensor in [*inputs, *outputs]]
    computed = [each for each in inputs if not found.bytes_of(each)]
    read = _shape(computed[0]) if computed else ()
    return InspectedOperation(
        kind=kind,
        name=name_of(outputs[0]),
        shape=_shape(outputs[0]),
        channels=read[-1] if read else 0,
        macs=_macs(kind, [_shape(each) for each in inputs], _shape(outputs[0])),
        weight_bytes=weight_bytes,
        moved_bytes=sum(bytes_of_each.get(name, 0) for name in tensors),
        is_accelerated=is_accelerated,
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)


def _bytes_of(details: dict[str, Any]) -> int:
    return math.prod(map(int, details["shape"])) * np.dtype(details["dtype"]).itemsize


def _macs(
    kind: str,
    inputs: Sequence[tuple[int, ...]],
    output: tuple[int, ...],
) -> int:
    """Returns the multiply-accumulates of an operation by the shapes of its tensors."""
    made = math.prod(output)
    if kind in ("CONV_2D", "CONV_3D", "FULLY_CONNECTED"):
        # (outputs, ..., inputs): each entry takes a kernel of all but the first axis.
        return made * math.prod(inputs[1][1:])
    if kind == "DEPTHWISE_CONV_2D":
        return made * math.prod(inputs[1][:-1])
    if kind == "TRANSPOSE_CONV":
        # Its inputs are the shape to make, the kernel, and what it reads.
        outputs, *taps, _ = inputs[1]
        return math.prod(inputs[2]) * outputs * math.prod(taps)
    if kind == "BATCH_MATMUL":
        # (..., n, k) times (..., k, m): made has n m entries for k of one's n k.
        rows = output[-2]
        return made * (math.prod(inputs[0][-2:]) // max(rows, 1))
    return 0


def _times(found: Operations, runs: int, threads: int) -> list[float | None]:
    """Returns the median milliseconds of each operation alone, timed in turns.

    `None` of one that cannot run without the others.
    """
    times: list[float | None] = [None] * len(found.kinds)
    with _files_of_each(found, threads) as files:
        interpreters = [file.interpreter for file in files.values()]
        seconds = time_in_turns(interpreters, WARMUP + runs)[WARMUP:]
        for index, own in zip(files, seconds.T, strict=True):
            times[index] = float(MS_PER_SECOND * np.median(own))
    return times


@contextlib.contextmanager
def _files_of_each(found: Operations, threads: int) -> Iterator[dict[int, TfliteFile]]:
    """Yields index -> the open file of an operation, of those that can be alone."""
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for index in range(len(found.kinds)):
            path = Path(folder) / f"{index}.tflite"
            path.write_bytes(found.alone(index))
            try:
                file = TfliteFile(path, threads)
                file.feed_noise()
                file.interpreter.invoke()
            except (ValueError, RuntimeError):
                # It needs another subgraph, or a value that its inputs have to have.
                continue
            files[index] = file
        yield files
