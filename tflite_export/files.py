"""Files that are whole or not there."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from tflite_export.checks import check_folder


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a temporary name next to `path`, and renames it when all went well.

    Raises:
        FileNotFoundError: if the folder of `path` does not exist.
    """
    path = check_folder(path)
    # Unique per write, not per process: two threads may save to one path.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
