"""The batches that a step looks at, and the losses on them."""

from typing import TypeAlias

import numpy as np

from keras_greedy.devices import gathered, parts_of, split
from keras_greedy.processes import most_of_processes, share_of, total_of_processes
from keras_greedy.selection.output.objectives import Objective
from keras_greedy.selection.output.suffix import Suffix

BATCHES_PER_STEP = 4
"""How many batches a step looks at; the next step looks at the next ones."""

CACHE_BYTES = 2**30
FLOAT_BYTES = 4

Batch: TypeAlias = tuple[list, list]
"""`(live, targets)`: the tensors before the group's first consumer, and the targets."""


class Look:
    """The batches that a step looks at, of all that there are.

    Args:
        suffix: Evaluates mixtures of the group's channels.
        batches: Some examples each.
        at_once: How many of them to look at, in all processes.

    Attributes:
        batches: Those that are looked at.
        number: How often others were turned to.
        looks_for_all: How many looks it takes to see all.
    """

    def __init__(
        self,
        suffix: Suffix,
        batches: list[Batch],
        at_once: int = BATCHES_PER_STEP,
    ):
        self._suffix = suffix
        self._all = batches
        at_once = share_of(at_once)
        self._at_once = min(at_once, len(batches))
        # All processes take the same turns, also one that has fewer batches.
        self._turns = most_of_processes(self._at_once)
        self.looks_for_all = most_of_processes(-(-len(batches) // at_once))
        self.turn_to(1)

    def turn_to(self, number: int) -> None:
        """Turns to the batches that look `number` is of, from 1 on."""
        self.number = number
        start = (number - 1) * self._at_once
        self.batches: list[Batch] = []
        for i in range(start, start + self._at_once):
            place = i % len(self._all)
            self.batches.append(self._all[place])

    def loss(self, weights: np.ndarray) -> float:
        """Returns the mean loss at a mixture."""
        total = sum(
            self._suffix.loss(live, targets, weights) for live, targets in self.batches
        )
        return total_of_processes(total) / self._examples()

    def trials(
        self,
        weights: np.ndarray,
        channels: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        """Returns the `(K,)` mean loss after each of some steps, as of `Suffix`."""
        total = np.zeros(len(channels))
        for live, targets in self.batches:
            total += self._suffix.trials(live, targets, weights, channels, sizes)
        return total_of_processes(total) / self._examples()

    def race(
        self,
        weights: np.ndarray,
        channels: np.ndarray,
        sizes: np.ndarray,
        finalists: int,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evaluates steps on one batch, and the better half of them on the others.

        Args:
            weights: `(N,)` the mixture.
            channels: `(K,)` the channel of each step.
            sizes: `(K,)` the size of each step.
            finalists: Not more than this go on to the others.

        Returns:
            The indices of those that went on, and their mean losses on all batches.
        """
        left = np.arange(len(channels))
        total = np.zeros(len(left))
        for turn in range(self._turns):
            if turn == 1:
                half = -(-len(left) // 2)
                ranked = np.argsort(total, kind="stable")
                left = ranked[: min(half, finalists)]
                total = total[left]
            here = np.zeros(len(left))
            if turn < len(self.batches):
                # Of few batches each step sees all: another one comes first.
                place = (turn + self.number) % len(self.batches)
                live, targets = self.batches[place]
                steps = weights, channels[left], sizes[left]
                here = self._suffix.trials(live, targets, *steps)
            total = total + total_of_processes(here)
        return left, total / self._examples()

    def _examples(self) -> int:
        """Returns the number of examples looked at, of all processes."""
        own = sum(len(gathered(targets)[0]) for _, targets in self.batches)
        return total_of_processes(own)


def cached(suffix: Suffix, objective: Objective) -> list[Batch]:
    """Returns the objective's examples, up to about 1 GiB of them."""
    batches: list[Batch] = []
    size = 0
    for inputs, targets in objective.examples():
        live = suffix.prefix(split(inputs))
        batches.append((live, split(targets)))
        for part in parts_of(live):
            size += sum(FLOAT_BYTES * int(np.prod(tensor.shape)) for tensor in part)
        if size > CACHE_BYTES:
            break
    return batches
