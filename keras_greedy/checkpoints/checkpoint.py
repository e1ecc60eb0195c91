"""The folder that a search is kept in, so that one that was stopped goes on.

A header says which search it is. Each stage has a file of its own, which is replaced as
the stage goes on. A search that is given the folder again takes from it what is there,
and finds the rest: it is the same search, and so its result is the same.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_greedy.checkpoints.fingerprint import Fingerprint, digest_of
from keras_greedy.checkpoints.trees import read_tree, write_tree
from keras_greedy.records import Record, Records
from tflite_export.files import check_version, replacing

FORMAT = 1
"""The version of the folder's layout."""

HEADER = "checkpoint.json"
SUFFIX = ".checkpoint.npz"

TEMPORARY = re.compile(r"\.(.+\.)?checkpoint\.[0-9a-f]{32}\.(json|npz)")
"""The name of a file that a search was killed over, as `replacing` makes it."""

REST = 9.0
"""After a writing nothing is written for so many times as long: it takes a tenth."""

LONGEST = 200
"""Characters of a value in a message."""


class Checkpoint(Records):
    """The records of a search, kept in a folder.

    Args:
        folder: From `checked_folder`; made if it is not there.
        fingerprint: Of the search.

    Attributes:
        goes_on: Whether something was there already.

    Raises:
        OSError: When it cannot be written to.
        ValueError: When it keeps another search, or is damaged; says what.
    """

    def __init__(self, folder: Path, fingerprint: Fingerprint):
        self._folder = folder
        self._search = digest_of(fingerprint)
        header = folder / HEADER
        if header.exists():
            self._check_header(header, fingerprint)
        elif self._files():
            raise self._refused(f"which keeps a search, but its {HEADER} is missing")
        else:
            self._begin(header, fingerprint)
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        files = self._files()
        # All of them now, not one after hours: a stage is read when it begins.
        for path in files:
            self._findings(path)
        self.goes_on: bool = bool(files)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Record]:
        """Yields the record of a stage, and writes what is new at the end.

        It is written, too, when the stage ends by an error or is interrupted.
        """
        path = self._folder / f"{name}{SUFFIX}"
        findings = self._findings(path) if path.exists() else {}
        record = _SavedRecord(path, self._search, findings)
        try:
            yield record
        finally:
            record.write()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{SUFFIX}"))

    def _begin(self, header: Path, fingerprint: Fingerprint) -> None:
        """Makes the folder, and the header in it."""
        content = {"format": FORMAT, "search": fingerprint}
        content["checksum"] = digest_of(content)
        try:
            self._folder.mkdir(exist_ok=True)
            with replacing(header) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
        except OSError as error:
            raise _unwritten(error, self._folder) from error

    def _check_header(self, header: Path, fingerprint: Fingerprint) -> None:
        """Raises a ValueError when the folder keeps another search."""
        try:
            content = _read_header(header)
        except ValueError as error:
            raise self._refused(f"whose {HEADER} is damaged: {error}") from None
        changes = []
        kept: Fingerprint = content["search"]
        for name in {**kept, **fingerprint}:
            before, now = kept.get(name), fingerprint.get(name)
            if before != now:
                changes.append(f"{name}: {_short(before)}, now {_short(now)}")
        if changes:
            raise self._refused(f"which keeps another search. {'. '.join(changes)}")

    def _findings(self, path: Path) -> dict[str, Any]:
        """Returns the findings in the file of a stage.

        Raises:
            ValueError: When it is damaged, or of another search.
        """
        try:
            tree = read_tree(path)
        except ValueError as error:
            raise self._refused(f"whose file {path.name} is damaged: {error}") from None
        if tree["search"] != self._search:
            raise self._refused(f"whose file {path.name} is that of another search")
        return tree["findings"]

    def _refused(self, reason: str) -> ValueError:
        return ValueError(
            "Expected `checkpoint` to be a new folder, or one that keeps a search with "
            "the same model, data and arguments. Received: "
            f"checkpoint={str(self._folder)!r}, {reason}. To search anew, give another "
            "folder, or remove this one; to go on, give all as it was."
        )


class _SavedRecord(Record):
    """The findings of one stage, in a file.

    Args:
        path: The file.
        search: Tells the search.
        findings: Those that are in the file already.
    """

    def __init__(self, path: Path, search: str, findings: dict[str, Any]):
        self._path = path
        self._search = search
        self._findings = findings
        self._has_news = False
        self._written_at = 0.0
        self._took = 0.0

    def get(self, key: str) -> Any:
        return self._findings.get(key)

    def put(self, key: str, finding: Any) -> None:
        self._findings[key] = finding
        self._has_news = True
        if time.monotonic() - self._written_at >= REST * self._took:
            self.write()

    def write(self) -> None:
        """Writes what is new, if anything is.

        Raises:
            OSError: When it cannot be written; the file is as it was.
        """
        if not self._has_news:
            return
        began = time.monotonic()
        try:
            write_tree(self._path, {"search": self._search, "findings": self._findings})
        except OSError as error:
            # Not tried again on the way out.
            self._has_news = False
            raise _unwritten(error, self._path.parent) from error
        self._has_news = False
        self._written_at = time.monotonic()
        self._took = self._written_at - began


def checked_folder(checkpoint: str | Path | None) -> Path | None:
    """Returns the folder of the argument `checkpoint`, if one is given.

    Raises:
        FileNotFoundError: When the folder that it is to be in does not exist.
        ValueError: When it is no name of a folder.
    """
    if checkpoint is None:
        return None
    is_path = isinstance(checkpoint, str | os.PathLike) and os.fspath(checkpoint)
    if not is_path or Path(checkpoint).is_file():
        raise ValueError(
            "Expected `checkpoint` to be the name of a folder, a string or a "
            f"pathlib.Path, or None. Received: checkpoint={checkpoint!r}"
        )
    folder = Path(checkpoint)
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"Expected `checkpoint` to be in an existing folder: create "
            f"{folder.parent} first. Received: checkpoint={str(folder)!r}"
        )
    return folder


def _unwritten(error: OSError, folder: Path) -> OSError:
    """Returns the error for a folder that cannot be written to, in words of ours."""
    reason = error.strerror or str(error)
    return OSError(
        error.errno or 0,
        "Expected `checkpoint` to be a folder that can be written to. Received: "
        f"checkpoint={str(folder)!r}: {reason}. All that was kept before is still "
        "there: make room, and search again with the same arguments to go on",
    )


def _read_header(path: Path) -> dict[str, Any]:
    """Returns the content of a header.

    Raises:
        ValueError: When it is none; says why.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError:
        raise ValueError("it is no JSON") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    check_version(content.get("format"), FORMAT)
    checksum = content.pop("checksum", None)
    if checksum != digest_of(content):
        raise ValueError("its checksum is not that of its content")
    return content


def _short(value: str | None) -> str:
    if value is None:
        return "not told"
    return value if len(value) <= LONGEST else value[: LONGEST - 3] + "..."
