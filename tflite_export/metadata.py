"""Labels and normalisation inside a `.tflite` file, by the TFLite Metadata standard.

The field's own writers do not install beside a current TensorFlow (tflite-support needs
protobuf 3) or do not import (MediaPipe 1.2), so the few tables needed are written here.
The numbers are those of the standard's `metadata_schema.fbs`.
"""

import io
import os
import zipfile
from pathlib import Path

import numpy as np

from tflite_export.files import replacing
from tflite_export.runtime import TfliteFile

LABELS_FILE = "labels.txt"
_TENSOR_AXIS_LABELS = 2
_NORMALIZATION_OPTIONS = 1


def add_metadata(path, labels=None, mean=None, std=None, description=""):
    """Writes what an app needs to know of its inputs and outputs into the file.

    Apps with the TensorFlow Lite Support library read it. The labels are a text file
    in a zip archive at the end of the file: `unzip -p model.tflite labels.txt`. To
    runtimes the file is the same as before.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    tflite_export.add_metadata(path, labels=["cat", "dog", "ox"], mean=127.5, std=127.5)
    ```

    Args:
        path: the file, with one input and one output, without metadata; changed in one
            step. Needs `ai-edge-litert`.
        labels: the name of each class, in the order of the last axis of the output.
        mean: what pre-processing subtracts from the input, a number or one per channel.
        std: what it divides by then; with `mean` or not at all.
        description: what the model is for.

    Returns:
        `path`, as a `pathlib.Path`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not as above, or the arguments do not fit it.
    """
    file = TfliteFile(path)
    _check(file, labels, mean, std)
    labels = None if labels is None else list(labels)
    content = _with_metadata(
        file.path, _packed(file, labels is not None, mean, std, description)
    )
    if labels is not None:
        content = _with_file(content, LABELS_FILE, "\n".join(labels))
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def _check(file, labels, mean, std):
    if len(file.inputs) != 1 or len(file.outputs) != 1:
        raise ValueError(
            "Expected a file with one input and one output. Received: "
            f"path={file.path!r}, with {len(file.inputs)} and {len(file.outputs)}"
        )
    classes = file.outputs[0].shape[-1]
    if labels is not None and len(labels) != classes:
        raise ValueError(
            f"Expected `labels` to name the {classes} classes of the output. "
            f"Received: {len(labels)} labels"
        )
    channels = file.inputs[0].shape[-1]
    if (mean is None) != (std is None):
        raise ValueError(
            f"Expected `mean` and `std` together. Received: mean={mean!r}, std={std!r}"
        )
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and np.size(values) not in (1, channels):
            raise ValueError(
                f"Expected `{name}` to be a number, or one for each of {channels} "
                f"channels. Received: {name}={values!r}"
            )


def _packed(file, has_labels, mean, std, description):
    """The standard's `ModelMetadata`, as bytes."""
    import flatbuffers

    builder = flatbuffers.Builder(256)
    source, sink = {0: builder.CreateString(file.inputs[0].name)}, {}
    sink[0] = builder.CreateString(file.outputs[0].name)
    if mean is not None:
        options = {0: _floats(builder, mean), 1: _floats(builder, std)}
        normalization = _table(builder, options)
        unit = _table(builder, {1: normalization}, {0: _NORMALIZATION_OPTIONS})
        source[4] = _tables(builder, [unit])
    if has_labels:
        name = builder.CreateString(LABELS_FILE)
        associated = _table(builder, {0: name}, {2: _TENSOR_AXIS_LABELS})
        sink[6] = _tables(builder, [associated])
    subgraph = {
        2: _tables(builder, [_table(builder, source)]),
        3: _tables(builder, [_table(builder, sink)]),
    }
    model = {
        1: builder.CreateString(description),
        3: _tables(builder, [_table(builder, subgraph)]),
        7: builder.CreateString("1.0.0"),
    }
    builder.Finish(_table(builder, model), file_identifier=b"M001")
    return bytes(builder.Output())


def _table(builder, offsets, enums=None):
    """Writes a table: offsets of what was written before, and bytes, by their slot."""
    builder.StartObject(1 + max({**offsets, **(enums or {})}))
    for slot, offset in offsets.items():
        builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
    for slot, value in (enums or {}).items():
        builder.PrependUint8Slot(slot, value, 0)
    return builder.EndObject()


def _tables(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder, values):
    return builder.CreateNumpyVector(np.atleast_1d(values).astype("float32"))


def _with_metadata(path, packed):
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)
    entries = list(model.metadata or [])
    if any(each.name == b"TFLITE_METADATA" for each in entries):
        raise ValueError(
            f"Expected a file without metadata. Received: path={path!r}, which has "
            "some. Convert the model again."
        )
    entry = schema.MetadataT(name="TFLITE_METADATA", buffer=len(model.buffers))
    model.metadata = [*entries, entry]
    model.buffers.append(schema.BufferT(data=np.frombuffer(packed, "uint8")))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _with_file(content, name, text):
    stream = io.BytesIO(content)
    stream.seek(0, os.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(name, text)
    return stream.getvalue()
