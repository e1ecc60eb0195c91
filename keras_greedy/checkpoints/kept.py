"""Keeps the search that runs under a `with`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_greedy.batches import Batches
from keras_greedy.checkpoints.checkpoint import Checkpoint
from keras_greedy.checkpoints.fingerprint import Fingerprint, fingerprint_of
from keras_greedy.checkpoints.together import RecordsOfAll
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.processes import check_agreed, process_count, process_index
from keras_greedy.progress import Progress
from keras_greedy.records import NO_RECORDS, Records
from keras_greedy.selection.methods import Method


@contextlib.contextmanager
def kept_in(
    folder: Path | None,
    graph: ChannelGraph,
    batches: Batches,
    method: Method,
    seed: int,
    budget: Any,
    progress: Progress,
) -> Iterator[Records]:
    """Yields the records of a search; an interruption then says how to go on.

    Of several processes each keeps its own in a folder within.

    Args:
        folder: Of the checkpoint; without one nothing is kept.
        graph: As for `fingerprint_of`, like the next four.
        batches: See there.
        method: See there.
        seed: See there.
        budget: See there.
        progress: Says that the search goes on.

    Raises:
        KeyboardInterrupt: When the search is interrupted.
        OSError: When the folder cannot be written to.
        RuntimeError: When the processes search for different things.
        ValueError: When it does not keep this search.
    """
    processes = process_count()
    if folder is None and processes == 1:
        yield NO_RECORDS
        return
    fingerprint = fingerprint_of(graph, batches, method, seed, budget)
    if processes > 1:
        check_agreed({**fingerprint, "data": "each its own"})
    records = NO_RECORDS if folder is None else _checkpoint(folder, fingerprint)
    if isinstance(records, Checkpoint) and records.goes_on:
        progress.say(f"Going on with the search kept in {folder}")
    try:
        yield records if processes == 1 else RecordsOfAll(records)
    except KeyboardInterrupt:
        if folder is None:
            raise
        raise KeyboardInterrupt(
            f"The search was interrupted. All that it had found is kept in {folder}: "
            "search again with the same arguments to go on."
        ) from None


def _checkpoint(folder: Path, fingerprint: Fingerprint) -> Checkpoint:
    """Returns the records in a folder, those of this process if there are several."""
    if process_count() == 1:
        return Checkpoint(folder, fingerprint)
    place = f"{process_index()} of {process_count()}"
    folder.mkdir(exist_ok=True)
    own = folder / f"process-{process_index()}"
    return Checkpoint(own, {**fingerprint, "process": place})
