"""Files that are whole or not there."""

import contextlib
import os
from pathlib import Path


def check_folder(path, name: str = "path") -> Path:
    """Returns `path`; raises a ValueError when its folder does not exist."""
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(
            f"Expected `{name}` to be in a folder that exists: create {path.parent} "
            f"first. Received: {name}={str(path)!r}"
        )
    return path


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary name next to `path`, and renames it when all went well."""
    path = check_folder(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
