"""Atomic writes: a file is there as a whole, or as it was before."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from tflite_export.checks import check_folder


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
