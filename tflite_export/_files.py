"""Files that are whole or not there."""

import contextlib
import uuid


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary name next to `path`, and renames it when all went well."""
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
