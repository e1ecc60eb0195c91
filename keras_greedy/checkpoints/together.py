"""The records of a search in several processes, which have to go on from the same."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from keras_greedy.checkpoints.trees import Tree, tree_of_bytes, tree_to_bytes
from keras_greedy.processes import gathered_bytes, process_index
from keras_greedy.records import Record, Records


class RecordsOfAll(Records):
    """Records of which those that are common to all processes are the first one's.

    Processes that are killed have not come equally far. What each finds of its own data
    it takes from its own record; where it stands in the search they have together, all
    take from that of the first.

    Args:
        own: Those of this process.
    """

    def __init__(self, own: Records):
        self._own = own

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Record]:
        """Yields the record of a stage that all processes go through together."""
        with self._own.open(name) as record:
            yield _RecordOfAll(record)

    def open_own(self, name: str) -> contextlib.AbstractContextManager[Record]:
        return self._own.open(name)


class _RecordOfAll(Record):
    """The findings of the first process, which all of them ask for in the same order.

    Args:
        own: That of this process.
    """

    def __init__(self, own: Record):
        self._own = own

    def get(self, key: str) -> Any:
        return _of_first(self._own.get(key))

    def put(self, key: str, finding: Any) -> None:
        if process_index() == 0:
            self._own.put(key, finding)

    def write(self) -> None:
        self._own.write()

    def of(self, key: str, find: Callable[..., Any], *args: Any) -> Any:
        finding = self.get(key)
        if finding is None:
            # All find it, and it is decided once: processors may round differently.
            finding = _of_first(find(*args))
            self.put(key, finding)
        return finding


def _of_first(tree: Tree) -> Tree:
    """Returns the tree that the first process has."""
    # Whatever the others have is not sent.
    content = tree_to_bytes(tree if process_index() == 0 else None)
    return tree_of_bytes(gathered_bytes(content)[0])
