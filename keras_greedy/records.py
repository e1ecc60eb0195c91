"""Findings of the stages of a search, kept for one that is stopped and goes on.

Here nothing is kept. `checkpoints` keeps it in a folder.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class Record:
    """The findings of one stage, by keys; these are forgotten."""

    def get(self, key: str) -> Any:
        """Returns the finding of a key, as `put` was given it, or `None`."""
        return None

    def put(self, key: str, finding: Any) -> None:
        """Keeps a finding, in the place of the last one of this key.

        Args:
            key: Of the finding.
            finding: Not changed afterwards by whoever found it: it is written later.
        """

    def write(self) -> None:
        """Writes at once what is new; else that waits for a while."""

    def of(self, key: str, find: Callable[..., Any], *args: Any) -> Any:
        """Returns the finding of a key; if there is none, finds and keeps it.

        Args:
            key: Of the finding.
            find: Called when there is none.
            *args: Of `find`.
        """
        finding = self.get(key)
        if finding is None:
            finding = find(*args)
            self.put(key, finding)
        return finding


class Records:
    """The records of all stages of a search, by their names; these forget."""

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Record]:
        """Yields the record of a stage, and writes what is new at the end.

        Args:
            name: Of the stage.
        """
        yield Record()

    def open_own(self, name: str) -> contextlib.AbstractContextManager[Record]:
        """Returns the record of what this process finds of its own data.

        Those of `open` are of what all processes find together.

        Args:
            name: As for `open`.
        """
        return self.open(name)


NO_RECORD = Record()
NO_RECORDS = Records()
