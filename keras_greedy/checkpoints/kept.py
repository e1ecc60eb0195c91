"""Keeps the search that runs under a `with`."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_greedy.batches import Batches
from keras_greedy.checkpoints.checkpoint import Checkpoint
from keras_greedy.checkpoints.fingerprint import fingerprint_of
from keras_greedy.graph.channels import ChannelGraph
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
        ValueError: When it does not keep this search.
    """
    if folder is None:
        yield NO_RECORDS
        return
    fingerprint = fingerprint_of(graph, batches, method, seed, budget)
    checkpoint = Checkpoint(folder, fingerprint)
    if checkpoint.goes_on:
        progress.say(f"Going on with the search kept in {folder}")
    try:
        yield checkpoint
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"The search was interrupted. All that it had found is kept in {folder}: "
            "search again with the same arguments to go on."
        ) from None
