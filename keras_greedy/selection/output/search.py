"""Forward selection on the output of the whole network, as a mixture of channels.

The objective is a loss of the network's output: that of its training [ICML], or the
divergence from the full network's output [NeurIPS, global imitation]. Steps are
`a <- (1 - g) a + g e_i`. With d_i = e_i - a the direction towards channel i, the
loss after a step is to second order

    L(a) + g <grad L, d_i> + g^2 / 2  E[<grad log p, d_i>^2]

where p is the probability of a label drawn from the network's own output: the Fisher
information is the second derivative. Two gradients give this for all channels; the
best few are evaluated exactly.
"""

from typing import Any, TypeAlias

import numpy as np
from keras import ops

from keras_greedy.devices import gathered, parts_of, split
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.processes import (
    most_of_processes,
    own_generator,
    share_of,
    total_of_processes,
)
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.moments.mixture import STEPS_PER_CHANNEL, MixtureError
from keras_greedy.selection.output.candidates import Candidates
from keras_greedy.selection.output.objectives import Objective
from keras_greedy.selection.output.step_sizes import STEP_SIZES, Expansion
from keras_greedy.selection.output.suffix import Suffix
from keras_greedy.selection.path import MixturePath, mixture_path, move

BATCHES_PER_STEP = 4
"""How many batches a step looks at; the next step looks at the next ones."""

CACHE_BYTES = 2**30
FLOAT_BYTES = 4

Batch: TypeAlias = tuple[list, list]
"""`(live, targets)`: the tensors before the group's first consumer, and the targets."""

State: TypeAlias = dict[str, Any]
"""Attribute of a selection between two steps -> its value."""


class OutputSelection:
    """A forward selection under way.

    Args:
        suffix: Evaluates mixtures of the group's channels.
        batches: Some examples each; a step looks at four of them.
        step: `"uniform"` or `"line_search"`.
        candidates: The channels that are evaluated.
        rng: Source of everything random.

    Attributes:
        suffix: As given.
        weights: `(N,)` the mixture a.
        picks: The channels of the steps taken.
        finished: Whether there is nothing left to pick, or no step helps.
    """

    def __init__(
        self,
        suffix: Suffix,
        batches: list[Batch],
        step: str,
        candidates: Candidates,
        rng: np.random.Generator,
    ):
        self.suffix = suffix
        self.weights = np.zeros(suffix.channels)
        self.picks: list[int] = []
        self._batches = batches
        self._at_once = share_of(BATCHES_PER_STEP)
        looks_for_all = -(-len(batches) // self._at_once)
        self._looks_for_all = most_of_processes(looks_for_all)
        self._step_sizes = STEP_SIZES[step]
        self._candidates = candidates
        self._rng = rng
        self._sizes: list[float] = []
        self._expansion: Expansion | None = None
        self._looks = 0
        self._steps_without_gain = 0
        self._look_further()
        self._errors = [self._loss(self.weights)]

    @property
    def width(self) -> int:
        """The number of channels that the mixture uses."""
        return int(np.count_nonzero(self.weights))

    @property
    def finished(self) -> bool:
        # A step that gains nothing on its batches may gain on the next ones: the
        # selection ends when none of all batches asks for one.
        is_of_no_use = self._steps_without_gain >= self._looks_for_all
        return len(self.fresh) == 0 or is_of_no_use

    @property
    def fresh(self) -> np.ndarray:
        """The channels that were never picked."""
        return np.setdiff1d(np.arange(len(self.weights)), self.picks)

    def advance(self) -> None:
        """Adds the channels of one step."""
        self._look_further()
        picks = len(self.picks)
        sizes = self._step_sizes.sizes(self.weights, picks, self.expansion)
        candidates = self._candidates.chosen(
            self._allowed(),
            lambda: self._predicted(sizes),
            picks,
            self._rng,
        )
        channels, sizes = self._step_sizes.trials(picks, candidates, sizes)
        losses = self._trials(channels, sizes)
        self._take(channels, sizes, losses)

    def state(self) -> State:
        """Returns all that the next steps depend on, for `restore`."""
        return {
            "picks": np.array(self.picks, int),
            "sizes": np.array(self._sizes, float),
            "errors": np.array(self._errors, float),
            "looks": self._looks,
            "steps_without_gain": self._steps_without_gain,
            "rng": self._rng.bit_generator.state,
        }

    def restore(self, state: State) -> None:
        """Takes up a selection where another one, begun alike, was.

        Args:
            state: Of the other.
        """
        self.picks = state["picks"].tolist()
        self._sizes = [*state["sizes"]]
        self._errors = [*state["errors"]]
        self.weights[:] = 0.0
        for channel, size in zip(self.picks, self._sizes, strict=True):
            move(self.weights, channel, size)
        self._looks = state["looks"] - 1
        self._look_further()
        self._steps_without_gain = state["steps_without_gain"]
        self._rng.bit_generator.state = state["rng"]

    def path(self) -> MixturePath:
        """Returns the path so far; its errors are the loss above the full network's."""
        all_alike = np.full(len(self.weights), 1 / len(self.weights))
        full = self._loss(all_alike)
        excess = np.maximum(np.array(self._errors) - full, 0.0)
        return mixture_path(self.picks, self._sizes, excess, len(self.weights))

    def expansion(self) -> Expansion:
        """Returns the loss to second order on the way to each channel."""
        if self._expansion is None:
            self._expansion = self._expanded()
        return self._expansion

    def _expanded(self) -> Expansion:
        rng = own_generator(self._rng)
        slopes_of_batches, draws_of_batches = [], []
        for live, targets in self._looked_at:
            slopes, draws = self.suffix.slopes(live, targets, self.weights, rng)
            counts = self._weights_of_examples(targets)
            if counts is not None:
                # The second derivative of a weighed loss is the weighed information.
                draws = draws * np.sqrt(counts)[:, None]
            slopes_of_batches.append(slopes)
            draws_of_batches.append(draws)
        # `(n, N)` gradients of each example's loss, and of log p of its drawn label.
        slopes = np.concatenate(slopes_of_batches)
        draws = np.concatenate(draws_of_batches)
        # Along d_i = e_i - a: the i-th entry less the derivative along a itself.
        slopes = slopes - (slopes @ self.weights)[:, None]
        draws = draws - (draws @ self.weights)[:, None]
        return Expansion(_mean_of_all(slopes), _mean_of_all(np.square(draws)))

    def _weights_of_examples(self, targets: list) -> np.ndarray | None:
        """Returns the `(n,)` weights of the examples, `None` where they have none."""
        outputs = len(self.suffix.kinds)
        weights = [ops.convert_to_numpy(each) for each in gathered(targets[outputs:])]
        if not weights:
            return None
        # Of several outputs, or positions, the mean counts.
        rows = [each.reshape(len(each), -1).mean(axis=1) for each in weights]
        return np.mean(rows, axis=0)

    def _allowed(self) -> np.ndarray:
        """Returns the channels that may be picked: all, or those that never were.

        Those that nobody reads would only scale the others down: they come last.
        """
        everything = np.arange(len(self.weights))
        fresh = self.fresh
        picked = len(everything) - len(fresh)
        may_repeat = len(self.picks) < STEPS_PER_CHANNEL * picked
        allowed = everything if may_repeat or not picked else fresh
        is_read = self.suffix.is_read
        return allowed[is_read[allowed]] if is_read[fresh].any() else allowed

    def _predicted(self, sizes: np.ndarray) -> np.ndarray:
        if not self.picks:
            # Around a = 0 the network is far from linear; the imitation error is not.
            return MixtureError(self.suffix.gram()).trials(sizes)
        return self.expansion().at(sizes)

    def _trials(self, channels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """Returns the `(K,)` mean loss after each step, on the batches looked at."""
        total = np.zeros(len(channels))
        for live, targets in self._looked_at:
            total += self.suffix.trials(live, targets, self.weights, channels, sizes)
        return total_of_processes(total) / _examples(self._looked_at)

    def _loss(self, weights: np.ndarray) -> float:
        """Returns the mean loss at a mixture, on the batches looked at."""
        total = sum(
            self.suffix.loss(live, targets, weights)
            for live, targets in self._looked_at
        )
        return total_of_processes(total) / _examples(self._looked_at)

    def _take(
        self,
        channels: np.ndarray,
        sizes: np.ndarray,
        losses: np.ndarray,
    ) -> None:
        """Takes the best of the steps tried, as many as a step may add."""
        best = self._best(channels, sizes, losses)
        if not len(best):
            self._steps_without_gain += 1
            return
        self._steps_without_gain = 0
        shares = self._step_sizes.shares(len(self.picks), sizes[best])
        # Each later step scales the weights before it by 1 - g: these are the sizes
        # that, taken one after the other, leave the k-th channel its share.
        later = np.cumsum(shares[::-1])[::-1] - shares
        moves = shares / (1 - later)
        for channel, size in zip(channels[best], moves, strict=True):
            move(self.weights, channel, size)
            self.picks.append(int(channel))
            self._sizes.append(size)
        is_evaluated = len(best) == 1
        error = losses[best[0]] if is_evaluated else self._loss(self.weights)
        self._errors += [error] * len(best)

    def _best(
        self,
        channels: np.ndarray,
        sizes: np.ndarray,
        losses: np.ndarray,
    ) -> np.ndarray:
        """Returns the indices of the best trials, no two of them of one channel."""
        staying = losses[sizes == 0].min(initial=np.inf)
        ranked = np.argsort(losses, kind="stable")
        gains = (losses[ranked] < staying) & (sizes[ranked] != 0)
        ranked = ranked[gains]
        _, first = np.unique(channels[ranked], return_index=True)
        return ranked[np.sort(first)[: self._candidates.per_step]]

    def _look_further(self) -> None:
        """Turns to the next batches, and forgets the expansion on the last ones."""
        count = min(self._at_once, len(self._batches))
        start = self._looks * count
        self._looked_at = []
        for i in range(start, start + count):
            place = i % len(self._batches)
            self._looked_at.append(self._batches[place])
        self._looks += 1
        self._expansion = None


def begin(
    graph: ChannelGraph,
    group: ChannelGroup,
    moments: Moments,
    objective: Objective,
    step: str,
    candidates: Candidates,
    rng: np.random.Generator,
) -> OutputSelection:
    """Returns the selection of a group's channels, before its first step.

    Args:
        graph: The traced model.
        group: One of its groups.
        moments: Of the inputs of the group's consumers.
        objective: Gives the loss and the examples.
        step: `"uniform"` or `"line_search"`.
        candidates: The channels that are evaluated at each step.
        rng: Source of everything random.
    """
    suffix = Suffix(graph, group, moments, objective.loss)
    batches = cached(suffix, objective)
    return OutputSelection(suffix, batches, step, candidates, rng)


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


def _examples(batches: list[Batch]) -> int:
    """Returns the number of examples, of all processes."""
    own = sum(len(gathered(targets)[0]) for _, targets in batches)
    return total_of_processes(own)


def _mean_of_all(rows: np.ndarray) -> np.ndarray:
    """Returns the `(N,)` mean of `(n, N)` rows, of all processes."""
    return total_of_processes(rows.sum(axis=0)) / total_of_processes(len(rows))
