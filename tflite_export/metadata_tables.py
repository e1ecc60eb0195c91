"""The tables of the TFLite Metadata standard, serialised.

The field's own writers do not install beside a current TensorFlow (tflite-support needs
protobuf 3) or do not import (MediaPipe 1.2), so the few tables needed are written here.
The numbers are those of the standard's `metadata_schema.fbs`: a table there has its
fields in numbered slots.
"""

import enum
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import flatbuffers

Numbers: TypeAlias = float | Sequence[float] | np.ndarray
"""One number for all channels, or one per channel."""

Offset: TypeAlias = int
"""The place of a table, string or vector that the builder has written."""

FILE_IDENTIFIER = b"M001"
MINIMAL_PARSER_VERSION = "1.0.0"

# The builder's first buffer, which grows as needed.
INITIAL_BYTES = 256

OFFSET_BYTES = 4

TENSOR_AXIS_LABELS = 2
"""`AssociatedFileType`: the names of the entries along an axis."""

NORMALIZATION_OPTIONS = 1
"""`ProcessUnitOptions`: subtract the mean, then divide by the deviation."""


class _Model(enum.IntEnum):
    """Slots of the table `ModelMetadata`."""

    DESCRIPTION = 1
    SUBGRAPHS = 3
    MINIMAL_PARSER_VERSION = 7


class _Subgraph(enum.IntEnum):
    """Slots of the table `SubGraphMetadata`."""

    INPUTS = 2
    OUTPUTS = 3


class _Tensor(enum.IntEnum):
    """Slots of the table `TensorMetadata`."""

    NAME = 0
    PROCESS_UNITS = 4
    ASSOCIATED_FILES = 6


class _AssociatedFile(enum.IntEnum):
    """Slots of the table `AssociatedFile`."""

    NAME = 0
    TYPE = 2


class _ProcessUnit(enum.IntEnum):
    """Slots of the table `ProcessUnit`."""

    OPTIONS_TYPE = 0
    OPTIONS = 1


class _Normalization(enum.IntEnum):
    """Slots of the table `NormalizationOptions`."""

    MEAN = 0
    STD = 1


def import_for_metadata(module: str, package: str) -> Any:
    """Returns a module that only metadata need.

    Args:
        module: The full name of the module.
        package: The name of its package for pip, with the least version that has it.

    Raises:
        ImportError: When it is not installed; says how to.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Expected `{package}`, which metadata are written with. Received: "
            f"{error}: `pip install '{package}'`"
        ) from error


def pack_metadata(
    input_name: str,
    output_name: str,
    labels_file: str | None,
    mean: Numbers | None,
    std: Numbers | None,
    description: str,
) -> bytes:
    """Serialises the metadata of a model with one input and one output.

    Args:
        input_name: The name of the input.
        output_name: The name of the output.
        labels_file: The name of the file with the labels; `None` if there are none.
        mean: The number that pre-processing subtracts; `None` if it does not.
        std: The number it divides by then; with `mean` or not at all.
        description: A text on the purpose of the model.

    Returns:
        The standard's table `ModelMetadata`.

    Raises:
        ImportError: When `flatbuffers` is not installed; says how to.
    """
    flatbuffers = import_for_metadata("flatbuffers", "flatbuffers")
    builder = flatbuffers.Builder(INITIAL_BYTES)
    # The builder writes inner tables first: an outer one holds their offsets.
    source = {_Tensor.NAME: builder.CreateString(input_name)}
    sink = {_Tensor.NAME: builder.CreateString(output_name)}
    if mean is not None and std is not None:
        unit = _normalization(builder, mean, std)
        source[_Tensor.PROCESS_UNITS] = _vector(builder, [unit])
    if labels_file is not None:
        labels = _associated_labels(builder, labels_file)
        sink[_Tensor.ASSOCIATED_FILES] = _vector(builder, [labels])
    inputs = _vector(builder, [_table(builder, source)])
    outputs = _vector(builder, [_table(builder, sink)])
    subgraph = {_Subgraph.INPUTS: inputs, _Subgraph.OUTPUTS: outputs}
    model = {
        _Model.DESCRIPTION: builder.CreateString(description),
        _Model.SUBGRAPHS: _vector(builder, [_table(builder, subgraph)]),
        _Model.MINIMAL_PARSER_VERSION: builder.CreateString(MINIMAL_PARSER_VERSION),
    }
    root = _table(builder, model)
    builder.Finish(root, file_identifier=FILE_IDENTIFIER)
    return bytes(builder.Output())


def _normalization(
    builder: "flatbuffers.Builder",
    mean: Numbers,
    std: Numbers,
) -> Offset:
    """Writes a `ProcessUnit` for `(input - mean) / std`."""
    values = {
        _Normalization.MEAN: _floats(builder, mean),
        _Normalization.STD: _floats(builder, std),
    }
    options = {_ProcessUnit.OPTIONS: _table(builder, values)}
    kind = {_ProcessUnit.OPTIONS_TYPE: NORMALIZATION_OPTIONS}
    return _table(builder, options, kind)


def _associated_labels(builder: "flatbuffers.Builder", labels_file: str) -> Offset:
    """Writes an `AssociatedFile` for the file of labels."""
    name = {_AssociatedFile.NAME: builder.CreateString(labels_file)}
    kind = {_AssociatedFile.TYPE: TENSOR_AXIS_LABELS}
    return _table(builder, name, kind)


def _table(
    builder: "flatbuffers.Builder",
    offsets: Mapping[Any, Offset],
    enums: Mapping[Any, int] | None = None,
) -> Offset:
    """Writes a table.

    Args:
        builder: The builder.
        offsets: Slot -> the offset of a string, vector or table written before.
        enums: Slot -> a number of one byte.

    Returns:
        The table's offset.
    """
    enums = enums or {}
    last_slot = max([*offsets, *enums])
    builder.StartObject(last_slot + 1)
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in enums.items():
        builder.PrependUint8Slot(slot, value, 0)
    return builder.EndObject()


def _vector(builder: "flatbuffers.Builder", offsets: Sequence[Offset]) -> Offset:
    """Writes a vector of tables."""
    builder.StartVector(OFFSET_BYTES, len(offsets), OFFSET_BYTES)
    # The buffer grows towards its beginning: the last one is written first.
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder: "flatbuffers.Builder", values: Numbers) -> Offset:
    """Writes a vector of float32, of one entry for a single number."""
    return builder.CreateNumpyVector(np.ravel(values).astype("float32"))
