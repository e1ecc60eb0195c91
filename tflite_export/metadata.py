"""Labels and normalisation inside a `.tflite` file, by the TFLite Metadata standard."""

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tflite_export.files import replacing
from tflite_export.metadata_tables import Numbers, import_for_metadata, pack_metadata
from tflite_export.runtime import TfliteFile

LABELS_FILE = "labels.txt"
METADATA_NAME = "TFLITE_METADATA"


def add_metadata(
    path: str | Path,
    labels: Sequence[str] | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    description: str = "",
) -> Path:
    """Writes into the file how an app has to read its inputs and outputs.

    Apps with the TensorFlow Lite Support library read it. The labels are a text file
    in a zip archive at the end of the file: `unzip -p model.tflite labels.txt`. To
    runtimes the file is the same as before.

    Args:
        path: The file, with one input and one output, without metadata; changed in one
            step.
        labels: The name of each class, in the order of the last axis of the output.
        mean: The number that pre-processing subtracts from the input, or one per
            channel.
        std: The number it divides by then, or one per channel; with `mean` or not at
            all.
        description: A text on the purpose of the model.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: When there is no such file.
        ImportError: When `ai-edge-litert` or `flatbuffers` is not installed; says how
            to.
        ValueError: When the file is not as above, or the arguments do not fit it.

    Example:

    ```python
    import keras
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    path = tflite_export.convert(model, "model.tflite")
    tflite_export.add_metadata(path, labels=["cat", "dog", "ox"], mean=127.5, std=127.5)
    ```

    Reference:
        The standard's schema, `metadata_schema.fbs` of tflite-support.
    """
    file = TfliteFile(path)
    _check(file, labels, mean, std)
    names = None if labels is None else list(labels)
    packed = pack_metadata(
        input_name=file.inputs[0].name,
        output_name=file.outputs[0].name,
        labels_file=None if names is None else LABELS_FILE,
        mean=mean,
        std=std,
        description=description,
    )
    content = _with_metadata(file.path, packed)
    if names is not None:
        content = _with_file(content, LABELS_FILE, "\n".join(names))
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def _check(
    file: TfliteFile,
    labels: Sequence[str] | None,
    mean: Numbers | None,
    std: Numbers | None,
) -> None:
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
    if (mean is None) != (std is None):
        raise ValueError(
            f"Expected `mean` and `std` together. Received: mean={mean!r}, std={std!r}"
        )
    channels = file.inputs[0].shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and np.size(values) not in (1, channels):
            raise ValueError(
                f"Expected `{name}` to be a number, or one for each of {channels} "
                f"channels. Received: {name}={values!r}"
            )


def _with_metadata(path: str, packed: bytes) -> bytes:
    """Returns the content of the file with one more buffer, named as the standard's."""
    schema = import_for_metadata("ai_edge_litert.schema_py_generated", "ai-edge-litert")
    flatbuffer_utils = import_for_metadata(
        "ai_edge_litert.tools.flatbuffer_utils", "ai-edge-litert"
    )
    model = flatbuffer_utils.read_model(path)
    entries = list(model.metadata or [])
    if any(entry.name == METADATA_NAME.encode() for entry in entries):
        raise ValueError(
            f"Expected a file without metadata. Received: path={path!r}, which has "
            "some. Convert the model again."
        )
    entry = schema.MetadataT(name=METADATA_NAME, buffer=len(model.buffers))
    model.metadata = [*entries, entry]
    buffer = schema.BufferT(data=np.frombuffer(packed, "uint8"))
    model.buffers.append(buffer)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _with_file(content: bytes, name: str, text: str) -> bytes:
    """Returns `content` with a zip archive of one text file behind it."""
    stream = io.BytesIO(content)
    # Zip readers look for the directory at the end, `.tflite` ones at the beginning.
    stream.seek(0, os.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(name, text)
    return stream.getvalue()
