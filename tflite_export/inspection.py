"""Lists the operations of a `.tflite` file, what they cost and where time goes."""

import contextlib
import dataclasses
import difflib
import json
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tflite_export.benchmark import MS_PER_SECOND, time_in_turns
from tflite_export.checks import check_count
from tflite_export.latency import BYTES_PER_MB, RUNS, UNKNOWN, WARMUP
from tflite_export.runtime import TfliteFile
from tflite_export.single_operations import Operations

ROUND = 8
"""Kernels compute so many channels at once, at least."""

FEW_MACS_PER_BYTE = 8
"""With fewer, an operation waits for the memory: a core does more in that time."""

SHORT_MS = 0.005
"""Below this the call itself is most of the time."""

SLOWER = 1.1
"""The time has not followed the work, if it is so many times what the work says."""


@dataclasses.dataclass(frozen=True)
class InspectedOperation:
    """One operation of a file.

    Attributes:
        kind: `CONV_2D` for example.
        name: The tensor that it makes.
        shape: The shape of that tensor.
        channels: Of what it reads, on the last axis.
        macs: Its multiply-accumulates; 0 of an operation without a kernel.
        weight_bytes: Of its constants.
        moved_bytes: Of all that it reads and makes, constants included.
        is_accelerated: Whether XNNPACK runs it.
        p50_ms: Its median time alone, in milliseconds; `None` if it was not timed.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    channels: int
    macs: int
    weight_bytes: int
    moved_bytes: int
    is_accelerated: bool
    p50_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """The operations of a `.tflite` file; `str()` gives a table.

    Attributes:
        path: The file.
        size_bytes: Its size on disk.
        operations: One `InspectedOperation` for each, in the order that they run in.
    """

    path: str
    size_bytes: int
    operations: tuple[InspectedOperation, ...]

    def __repr__(self) -> str:
        return f"<Inspection of {len(self.operations)} operations, {self.path!r}>"

    @property
    def fallen_off(self) -> tuple[InspectedOperation, ...]:
        """The operations that XNNPACK does not run."""
        return tuple(each for each in self.operations if not each.is_accelerated)

    def to_json(self) -> str:
        """Returns the fields as a JSON string."""
        return json.dumps(dataclasses.asdict(self))

    def to_markdown(self) -> str:
        """Returns the table in Markdown."""
        header = ["operation", "output", "MACs", "weights kB", "p50 ms", "XNNPACK"]
        rows = [header, ["---", "---", "---:", "---:", "---:", "---"]]
        rows += [_cells_of(each) for each in self.operations]
        return _table(rows)

    def __str__(self) -> str:
        macs = sum(each.macs for each in self.operations)
        fallen = len(self.fallen_off)
        return (
            f"{self.path}: {self.size_bytes / BYTES_PER_MB:.3f} MB, "
            f"{len(self.operations)} operations, {macs / 1e6:.1f} M multiply-"
            f"accumulates, {fallen} operations not run by XNNPACK\n"
            f"{self.to_markdown()}"
        )

    def beside(self, other: "Inspection") -> str:
        """Returns a table of two files, in Markdown: what became of each operation.

        The last column says why an operation got less fast than its work got less.

        Args:
            other: The compact model's, where this one is the full model's.
        """
        header = ["operation", "channels", "MACs ratio", "p50 ms", "ratio", "why"]
        rows = [header, ["---", "---", "---:", "---:", "---:", "---"]]
        for one, two in _pairs(self.operations, other.operations):
            rows.append(_cells_of_pair(one, two))
        return _table(rows)


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
    accelerated = _accelerated(file.interpreter._get_ops_details())
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
    tensors = [tensor.name.decode() for tensor in [*inputs, *outputs]]
    computed = [each for each in inputs if not found.bytes_of(each)]
    read = _shape(computed[0]) if computed else ()
    return InspectedOperation(
        kind=kind,
        name=outputs[0].name.decode(),
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


def _accelerated(details: Sequence[dict[str, Any]]) -> set[int]:
    """Returns the operations that a delegate runs, by what it reads and makes.

    Args:
        details: Of all operations, the delegate's nodes behind the others.
    """
    nodes = [each for each in details if each["op_name"] == "DELEGATE"]
    makers = {}
    for each in details[: len(details) - len(nodes)]:
        for tensor in each["outputs"]:
            makers[int(tensor)] = each
    accelerated: set[int] = set()
    for node in nodes:
        read = {int(tensor) for tensor in node["inputs"]}
        waiting = [int(tensor) for tensor in node["outputs"]]
        while waiting:
            tensor = waiting.pop()
            maker = makers.get(tensor)
            if tensor in read or maker is None or maker["index"] in accelerated:
                continue
            accelerated.add(int(maker["index"]))
            waiting += [int(each) for each in maker["inputs"]]
    return accelerated


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


def _pairs(
    one: Sequence[InspectedOperation],
    two: Sequence[InspectedOperation],
) -> Iterator[tuple[InspectedOperation | None, InspectedOperation | None]]:
    """Yields the operations of two files side by side, by the order of their kinds."""
    kinds = [each.kind for each in one], [each.kind for each in two]
    matcher = difflib.SequenceMatcher(None, *kinds, autojunk=False)
    for tag, start, end, own_start, own_end in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(one[start:end], two[own_start:own_end], strict=True)
            continue
        yield from ((each, None) for each in one[start:end])
        yield from ((None, each) for each in two[own_start:own_end])


def _cells_of(operation: InspectedOperation) -> list[str]:
    return [
        operation.kind,
        " x ".join(map(str, operation.shape)),
        f"{operation.macs:,}",
        f"{operation.weight_bytes / 1e3:.1f}",
        _milliseconds(operation),
        "yes" if operation.is_accelerated else "no",
    ]


def _cells_of_pair(
    one: InspectedOperation | None,
    two: InspectedOperation | None,
) -> list[str]:
    known = one or two
    assert known is not None  # A pair has one operation at least.
    if one is None or two is None:
        return [known.kind, _channels(known), "", _milliseconds(known), "", _only(one)]
    times = f"{_milliseconds(one)} -> {_milliseconds(two)}"
    channels = _channels(one)
    if _channels(two) != channels:
        channels = f"{channels}, now {_channels(two)}"
    work = f"{two.macs / one.macs:.2f}" if one.macs else ""
    ratio = _time_ratio(one, two)
    shown = "" if ratio is None else f"{ratio:.2f}"
    return [one.kind, channels, work, times, shown, _reason(one, two)]


def _only(one: InspectedOperation | None) -> str:
    return "only in the second file" if one is None else "only in the first file"


def _channels(operation: InspectedOperation) -> str:
    made = operation.shape[-1] if operation.shape else 0
    return f"{operation.channels} to {made}"


def _milliseconds(operation: InspectedOperation) -> str:
    return UNKNOWN if operation.p50_ms is None else f"{operation.p50_ms:.4f}"


def _time_ratio(one: InspectedOperation, two: InspectedOperation) -> float | None:
    if not one.p50_ms or two.p50_ms is None:
        return None
    return two.p50_ms / one.p50_ms


def _reason(one: InspectedOperation, two: InspectedOperation) -> str:
    """Says why the time of an operation did not follow its work, if it did not."""
    ratio = _time_ratio(one, two)
    work = two.macs / one.macs if one.macs else two.moved_bytes / one.moved_bytes
    if ratio is None or work >= 1 or ratio <= SLOWER * work:
        return ""
    if not two.is_accelerated:
        return "not run by XNNPACK"
    if max(one.p50_ms or 0, two.p50_ms or 0) < SHORT_MS:
        return "too short to tell"
    widths = {two.channels, two.shape[-1]} - {one.channels, one.shape[-1]}
    odd = [str(width) for width in sorted(widths) if width % ROUND]
    if odd and two.macs:
        return f"{' and '.join(odd)} channels: no multiple of {ROUND}"
    if two.macs < FEW_MACS_PER_BYTE * two.moved_bytes:
        return "bound by memory"
    return "the kernel has less to do at once"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
