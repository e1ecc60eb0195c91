"""Tells why a file of integers is slower than the float file of the same model."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tflite_export.delegated import delegated
from tflite_export.inspection import SHORT_MS
from tflite_export.latency import Latency
from tflite_export.quantization import CONVERSIONS
from tflite_export.runtime import Interpreter

SLOWER = 1.05
"""So many times the float file's time is no noise of files that are timed in turns."""

LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"}


@dataclasses.dataclass(frozen=True)
class Contents:
    """The operations of a file.

    Attributes:
        layers: The kind and the output's shape of each layer with weights: files of
            one model have the same.
        is_integer: Whether it has quantized numbers.
        fallen_off: The kinds of operations that XNNPACK does not run -> their number.
        conversions: The number of operations between integers and floats.
        count: The number of operations.
    """

    layers: tuple[tuple[str, tuple[int, ...]], ...]
    is_integer: bool
    fallen_off: collections.Counter[str]
    conversions: int
    count: int


def contents_of(interpreter: Interpreter) -> Contents:
    """Returns the operations of an open file.

    Args:
        interpreter: Of the file, with its tensors allocated.
    """
    tensors = {each["index"]: each for each in interpreter.get_tensor_details()}
    details = interpreter._get_ops_details()
    run_by_xnnpack = delegated(details)
    operations = [each for each in details if each["op_name"] != "DELEGATE"]
    layers = []
    fallen_off: collections.Counter[str] = collections.Counter()
    for each in operations:
        kind = each["op_name"]
        if kind in LAYERS:
            shape = tensors[each["outputs"][0]]["shape"]
            layers.append((kind, tuple(int(size) for size in shape)))
        if each["index"] not in run_by_xnnpack:
            fallen_off[kind] += 1
    return Contents(
        layers=tuple(layers),
        is_integer=any(map(_is_quantized, tensors.values())),
        fallen_off=fallen_off,
        conversions=sum(each["op_name"] in CONVERSIONS for each in operations),
        count=len(operations),
    )


def _is_quantized(tensor: dict) -> bool:
    has_scales = len(tensor["quantization_parameters"]["scales"]) > 0
    return has_scales and np.issubdtype(tensor["dtype"], np.integer)


def notes_on(
    latencies: Sequence[Latency],
    contents: Sequence[Contents],
) -> tuple[str, ...]:
    """Returns a sentence for each file of integers that is slower than its float file.

    Args:
        latencies: Of files that were timed in turns.
        contents: The `Contents` of each.
    """
    floats: dict[object, tuple[Latency, Contents]] = {}
    for latency, content in zip(latencies, contents, strict=True):
        if not content.is_integer:
            floats.setdefault(content.layers, (latency, content))
    notes = []
    for latency, content in zip(latencies, contents, strict=True):
        if not content.is_integer or content.layers not in floats:
            continue
        own, before = floats[content.layers]
        if not latency.p50_ms or not own.p50_ms:
            continue
        ratio = latency.p50_ms / own.p50_ms
        if ratio > SLOWER:
            notes.append(
                f"{Path(latency.path).name} takes {ratio:.2f} x the time of "
                f"{Path(own.path).name}, the same network in float: "
                f"{_reason(latency.p50_ms, content, before)}."
            )
    return tuple(notes)


def _reason(p50_ms: float, content: Contents, before: Contents) -> str:
    """Returns why a file is slower.

    Args:
        p50_ms: The time of the file of integers.
        content: What is in it.
        before: What is in the float file.
    """
    fallen = content.fallen_off - before.fallen_off
    if fallen:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in fallen.most_common())
        return (
            f"XNNPACK does not run these in integers, slower kernels do: {kinds}; "
            "`inspect` times each"
        )
    if p50_ms < SHORT_MS * content.count:
        short = "its operations are too short to gain from integers"
        if content.conversions:
            return f"{short}, and {content.conversions} convert the numbers"
        return short
    return "`inspect` times its operations, beside those of the float file"
