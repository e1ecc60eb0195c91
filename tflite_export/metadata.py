"""Labels and normalisation inside a `.tflite` file, by the TFLite Metadata standard."""

import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

import numpy as np

from tflite_export.checks import shown
from tflite_export.files import replacing
from tflite_export.metadata_tables import Numbers, import_for_metadata, pack_metadata
from tflite_export.runtime import TfliteFile

LABELS_FILE = "labels.txt"
METADATA_NAME = "TFLITE_METADATA"
# The first version that has the tools which files are rewritten with.
RUNTIME = "ai-edge-litert>=2.1"


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
        labels: The name of each class, in the order of the last axis of the output:
            a text of one line, not empty.
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
        ValueError: When the file or an argument is not as above, or they do not fit
            each other; the file is as it was.

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
    _check_file(file)
    names = _checked_labels(labels, file.outputs[0].shape[-1])
    _check_normalization(mean, std, file.inputs[0].shape[-1])
    if not isinstance(description, str):
        raise ValueError(
            "Expected `description` to be a text. "
            f"Received: description={shown(description)}"
        )
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


def _check_file(file: TfliteFile) -> None:
    if len(file.inputs) != 1 or len(file.outputs) != 1:
        raise ValueError(
            "Expected a file with one input and one output. Received: "
            f"path={file.path!r}, with {len(file.inputs)} and {len(file.outputs)}"
        )


def _checked_labels(labels: Sequence[str] | None, classes: int) -> list[str] | None:
    """Returns the labels as a list, if each is a text for one class."""
    if labels is None:
        return None
    # A single string is a sequence too, of letters.
    is_listed = isinstance(labels, Iterable) and not isinstance(labels, (str, bytes))
    if not is_listed or isinstance(labels, (Mapping, Set)):
        raise ValueError(
            "Expected `labels` to be a list of the names of the classes. "
            f"Received: labels={shown(labels)}"
        )
    names = list(labels)
    if len(names) != classes:
        raise ValueError(
            f"Expected `labels` to name the {classes} classes of the output. "
            f"Received: {len(names)} labels"
        )
    for name in names:
        # The file of labels has one in each line.
        if not isinstance(name, str) or not name.strip() or len(name.splitlines()) > 1:
            raise ValueError(
                "Expected `labels` to be texts of one line, not empty. "
                f"Received: {shown(name)} among them"
            )
    return names


def _check_normalization(
    mean: Numbers | None,
    std: Numbers | None,
    channels: int,
) -> None:
    if (mean is None) != (std is None):
        raise ValueError(
            f"Expected `mean` and `std` together. Received: mean={mean!r}, std={std!r}"
        )
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not _is_one_per_channel(values, channels):
            raise ValueError(
                f"Expected `{name}` to be a number, or one for each of {channels} "
                f"channels, all finite. Received: {name}={shown(values)}"
            )
    # As float32, as the file has them.
    if std is not None and not (np.asarray(std, "float32") > 0).all():
        raise ValueError(
            "Expected `std` to be above 0: it is what an app divides by. "
            f"Received: std={shown(std)}"
        )


def _is_one_per_channel(values: Numbers, channels: int) -> bool:
    try:
        numbers = np.asarray(values)
    except ValueError:  # Lists of unequal lengths.
        return False
    if numbers.dtype.kind not in "iuf" or numbers.size not in (1, channels):
        return False
    with np.errstate(over="ignore"):
        return bool(np.isfinite(numbers.astype("float32")).all())


def _with_metadata(path: str, packed: bytes) -> bytes:
    """Returns the content of the file with one more buffer, named as the standard's."""
    schema = import_for_metadata("ai_edge_litert.schema_py_generated", RUNTIME)
    flatbuffer_utils = import_for_metadata(
        "ai_edge_litert.tools.flatbuffer_utils", RUNTIME
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


def with_files_of(content: bytes, other: bytes) -> bytes:
    """Returns a `.tflite` file with the files that are behind another one, if any.

    Args:
        content: The content of the file.
        other: That of the other one, with a zip archive behind it or without.
    """
    stream = io.BytesIO(other)
    if not zipfile.is_zipfile(stream):
        return content
    with zipfile.ZipFile(stream) as archive:
        for name in archive.namelist():
            content = _with_file(content, name, archive.read(name))
    return content


def _with_file(content: bytes, name: str, text: str | bytes) -> bytes:
    """Returns `content` with a file in a zip archive behind it."""
    stream = io.BytesIO(content)
    # Zip readers look for the directory at the end, `.tflite` ones at the beginning.
    stream.seek(0, os.SEEK_END)
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(name, text)
    return stream.getvalue()
