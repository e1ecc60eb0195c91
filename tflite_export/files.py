"""Files written as a whole or not at all, and read without trust."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tflite_export.checks import check_file, check_folder, is_count, shown

ZIP_MAGIC = b"PK\x03\x04"
"""The first bytes of a ZIP archive, as `.npz` and `.keras` files are, with a file."""


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, and renames it at the end.

    When the block under `with` raises, `path` is left as it was, and the temporary
    file is removed.

    Args:
        path: The file to write or to replace.

    Yields:
        The path to write to, with the suffix of `path`.

    Raises:
        FileNotFoundError: When the folder of `path` does not exist.

    Example:

    ```python
    from tflite_export.files import replacing

    with replacing("report.json") as temporary:
        temporary.write_text("{}")
    ```
    """
    path = check_folder(path)
    # In the same folder, since a rename is atomic only within one file system; and
    # unique per write, not per process: two threads may save to one path.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(path: str | Path, writer: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file; nothing is unpickled.

    Args:
        path: The file.
        writer: The function that writes such files, for the errors.

    Returns:
        Name of an entry -> its array.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When it is no `.npz` file of arrays, or is damaged.
    """
    path = check_file(path, f"a file that {writer} wrote")
    with open(path, "rb") as file:
        if file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
            raise misread(path, writer, "it is no .npz archive")
        file.seek(0)
        try:
            archive = np.load(file, allow_pickle=False)
            names = archive.files
        # Whatever the readers of archives raise for one that is cut off: they have no
        # common class of errors, and their texts advise to unpickle.
        except Exception:
            raise misread(path, writer, "the archive is cut off or damaged") from None
        arrays = {}
        for name in names:
            try:
                arrays[name] = archive[name]
            except Exception:
                reason = f"its entry {name!r} is damaged or no array of numbers"
                raise misread(path, writer, reason) from None
            # The reader gives files of another kind as bytes.
            if not isinstance(arrays[name], np.ndarray):
                raise misread(path, writer, f"its entry {name!r} is no array")
    return arrays


def check_version(version: object, newest: int) -> None:
    """Raises a ValueError for a file of a version that is not known.

    Args:
        version: The version that the file tells.
        newest: The newest version that this library reads.
    """
    if not is_count(version):
        raise ValueError(f"its version is {shown(version)}, no positive integer")
    if version > newest:  # type: ignore[operator]
        raise ValueError(
            f"it is of version {version}, and this library reads up to {newest}: "
            "pip install -U keras_greedy"
        )


def misread(path: str | Path, writer: str, reason: object) -> ValueError:
    """Returns the error for a file that `writer` did not write.

    Args:
        path: The file.
        writer: The function that writes such files.
        reason: Words, or an error, for what is wrong with it.
    """
    return ValueError(
        f"Expected `path` to be a file that {writer} wrote. "
        f"Received: path={str(path)!r}: {reason}"
    )
