"""Lists of the operations of `.tflite` files, alone and beside those of another one."""

import dataclasses
import difflib
import json
from collections.abc import Iterator, Sequence

from tflite_export.latency import BYTES_PER_MB, UNKNOWN

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
