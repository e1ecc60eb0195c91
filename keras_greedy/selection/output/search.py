"""Forward selection on what the whole network makes of a mixture.

The objective is a loss of the network's output: that of its training [ICML], or the
divergence from the full network's output [NeurIPS, global imitation]. Steps are
`a <- (1 - g) a + g e_i`. With d_i = e_i - a the direction towards channel i, the
loss after a step is to second order

    L(a) + g <grad L, d_i> + g^2 / 2  E[<grad log p, d_i>^2]

where p is the probability of a label drawn from the network's own output: the Fisher
information is the second derivative. Two gradients give this for all channels; the
best few are evaluated exactly.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.moments.mixture import (
    STEPS_PER_CHANNEL,
    MixtureError,
    least_sizes,
)
from keras_greedy.selection.output.candidates import Candidates
from keras_greedy.selection.output.suffix import Suffix
from keras_greedy.selection.path import MixturePath, mixture_path, move

BATCHES_PER_STEP = 4
CACHE_BYTES = 2**30


class Uniform:
    """g = 1 / (n + 1): after n picks each has the weight 1 / n [ICML]."""

    def sizes(self, selection: "LossSelection") -> np.ndarray:
        return np.full(len(selection.weights), 1 / (len(selection.picks) + 1))

    def trials(self, selection, channels, sizes):
        """What to evaluate: `(K,)` channels and step sizes."""
        return channels, sizes[channels]

    def shares(self, selection, sizes):
        """`(K,)` the weights that the channels of K steps get, taken together."""
        return np.full(len(sizes), 1 / (len(selection.picks) + len(sizes)))


class LineSearch:
    """g and i together, g from -a_i / (1 - a_i) to 1 [NeurIPS].

    To second order the best g is known; it is tried whole and halved, and against a
    step of size 0, so that no step raises the loss on the examples it looks at.
    """

    def sizes(self, selection):
        if not selection.picks:
            return np.ones(len(selection.weights))
        slopes, curvatures = selection.expansion()
        best = -slopes / np.maximum(curvatures, np.finfo(float).tiny)
        return np.clip(best, least_sizes(selection.weights), 1.0)

    def trials(self, selection, channels, sizes):
        if not selection.picks:
            return channels, sizes[channels]
        stay, own = channels[:1], sizes[channels]
        sizes = np.concatenate([own, own / 2, [0.0]])
        return np.concatenate([channels, channels, stay]), sizes

    def shares(self, selection, sizes):
        return sizes / len(sizes)


STEP_SIZES = {"uniform": Uniform(), "line_search": LineSearch()}


class LossSelection:
    """A forward selection under way.

    Args:
        suffix: Evaluates mixtures of the group's channels.
        batches: `(live, targets)` of some examples each; a step looks at four.
        step: `"uniform"` or `"line_search"`.
        candidates: Which channels are evaluated.
        rng: Source of everything random.

    Attributes:
        suffix: As given.
        weights: `(N,)` the mixture a.
        picks: The channels of the steps taken.
        finished: Whether there is nothing left to pick, or no step helps.
    """

    def __init__(self, suffix: Suffix, batches: list, step, candidates, rng):
        self.suffix, self._batches, self._rng = suffix, batches, rng
        self._step, self._candidates = STEP_SIZES[step], candidates
        self.weights, self.picks, self._sizes = np.zeros(suffix.channels), [], []
        self._steps = self._stays = 0
        self._look_further()
        self._errors = [self._loss(self.weights)]

    @property
    def width(self) -> int:
        """How many channels the mixture uses."""
        return np.count_nonzero(self.weights)

    @property
    def finished(self) -> bool:
        looks = -(-len(self._batches) // BATCHES_PER_STEP)
        return len(self.fresh) == 0 or self._stays >= looks

    @property
    def fresh(self) -> np.ndarray:
        """The channels that were never picked."""
        return np.setdiff1d(np.arange(len(self.weights)), self.picks)

    def advance(self) -> None:
        """Adds the channels of one step."""
        self._look_further()
        everything, fresh = np.arange(len(self.weights)), self.fresh
        picked = len(everything) - len(fresh)
        may_repeat = len(self.picks) < STEPS_PER_CHANNEL * picked
        sizes = self._step.sizes(self)
        channels = self._candidates.chosen(
            everything if may_repeat or not picked else fresh,
            lambda: self._predicted(sizes),
            len(self.picks),
            self._rng,
        )
        channels, sizes = self._step.trials(self, channels, sizes)
        losses = self._trials(channels, sizes)
        self._take(channels, sizes, losses)

    def path(self) -> MixturePath:
        """The path so far; its errors are the loss above the full network's."""
        full = self._loss(np.full(len(self.weights), 1 / len(self.weights)))
        excess = np.maximum(np.array(self._errors) - full, 0.0)
        return mixture_path(self.picks, self._sizes, excess, len(self.weights))

    def expansion(self):
        """Slopes and curvatures `(N,)` of the loss on the way to each channel."""
        if self._expansion is None:
            slopes, sampled = zip(*map(self._slopes, self._looked_at), strict=True)
            slopes, sampled = np.concatenate(slopes), np.concatenate(sampled)
            slopes = slopes - (slopes @ self.weights)[:, None]
            sampled = sampled - (sampled @ self.weights)[:, None]
            self._expansion = slopes.mean(axis=0), np.square(sampled).mean(axis=0)
        return self._expansion

    def _slopes(self, batch):
        live, targets = batch
        return self.suffix.slopes(live, targets, self.weights, self._rng)

    def _predicted(self, sizes):
        if not self.picks:
            return MixtureError(self.suffix.gram()).trials(sizes)
        slopes, curvatures = self.expansion()
        return sizes * slopes + sizes**2 / 2 * curvatures

    def _trials(self, channels, sizes):
        total = sum(
            self.suffix.trials(live, targets, self.weights, channels, sizes)
            for live, targets in self._looked_at
        )
        return total / _examples(self._looked_at)

    def _loss(self, weights) -> float:
        total = sum(
            self.suffix.loss(live, targets, weights)
            for live, targets in self._looked_at
        )
        return total / _examples(self._looked_at)

    def _take(self, channels, sizes, losses):
        staying = losses[sizes == 0].min(initial=np.inf)
        ranked = np.argsort(losses, kind="stable")
        ranked = ranked[(losses[ranked] < staying) & (sizes[ranked] != 0)]
        _, first = np.unique(channels[ranked], return_index=True)
        best = ranked[np.sort(first)[: self._candidates.per_step]]
        self._stays = 0 if len(best) else self._stays + 1
        shares = self._step.shares(self, sizes[best])
        # Steps that one after the other give the mean of all.
        later = np.cumsum(shares[::-1])[::-1] - shares
        moves = shares / (1 - later)
        for channel, size in zip(channels[best], moves, strict=True):
            move(self.weights, channel, size)
            self.picks.append(int(channel))
            self._sizes.append(size)
        if len(best):
            error = losses[best[0]] if len(best) == 1 else self._loss(self.weights)
            self._errors += [error] * len(best)

    def _look_further(self):
        count = min(BATCHES_PER_STEP, len(self._batches))
        start = self._steps * count
        self._looked_at = [
            self._batches[i % len(self._batches)] for i in range(start, start + count)
        ]
        self._steps, self._expansion = self._steps + 1, None


@dataclasses.dataclass(frozen=True)
class LossSearch:
    """How to select on the network's output.

    Attributes:
        step: `"uniform"` or `"line_search"`.
        candidates: Which channels are evaluated at each step.
        seed: Of everything random.
    """

    step: str
    candidates: Candidates
    seed: int

    def begin(
        self, graph: ChannelGraph, group: ChannelGroup, moments: Moments, objective
    ) -> LossSelection:
        """The selection of a group's channels, before its first step.

        Args:
            graph: The traced model.
            group: One of its groups.
            moments: Of what the group's consumers read.
            objective: Gives the loss and the examples.
        """
        suffix = Suffix(graph, group, moments, objective.loss)
        batches = cached(suffix, objective)
        rng = np.random.default_rng(self.seed)
        return LossSelection(suffix, batches, self.step, self.candidates, rng)


def cached(suffix: Suffix, objective) -> list[tuple[list, list]]:
    """`(live, targets)` of the objective's examples, up to about 1 GiB of them."""
    batches, size = [], 0
    for inputs, targets in objective.examples():
        live = suffix.prefix(_tensors(inputs))
        batches.append((live, _tensors(targets)))
        size += sum(4 * int(np.prod(tensor.shape)) for tensor in live)
        if size > CACHE_BYTES:
            break
    return batches


def _tensors(arrays):
    return [ops.convert_to_tensor(array) for array in arrays]


def _examples(batches) -> int:
    return sum(len(targets[0]) for _, targets in batches)
