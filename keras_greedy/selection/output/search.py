"""Forward selection on the output of the whole network, as a mixture of channels.

The objective is a loss of the network's output: that of its training [ICML], or the
divergence from the full network's output [NeurIPS, global imitation]. Steps are
`a <- (1 - g) a + g e_i`. With d_i = e_i - a the direction towards channel i, the
loss after a step is to second order

    L(a) + g <grad L, d_i> + g^2 / 2  E[<grad log p, d_i>^2]

where p is the probability of a label drawn from the network's own output: the Fisher
information is the second derivative. Two gradients give this for all channels; the
best few are evaluated exactly. As uniform steps get smaller, an expansion is good for
several of them, and candidates that are worse than others on one batch are not
evaluated on the rest. Where no channel is evaluated at all, the expansion alone says
where to go, for a block of steps.
"""

import dataclasses
from typing import Any, TypeAlias

import numpy as np

from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.moments.mixture import STEPS_PER_CHANNEL, MixtureError
from keras_greedy.selection.output.around import Around, expanded
from keras_greedy.selection.output.candidates import Candidates
from keras_greedy.selection.output.look import BATCHES_PER_STEP, Batch, Look, cached
from keras_greedy.selection.output.objectives import Objective
from keras_greedy.selection.output.step_sizes import STEP_SIZES, Expansion
from keras_greedy.selection.output.suffix import Suffix
from keras_greedy.selection.path import MixturePath, mixture_path, move

STEPS_PER_EXPANSION = 1 / 16
"""For how many steps an expansion is good, as a share of those taken before."""

STEPS_PER_BLOCK = 1 / 8
"""Likewise where none is evaluated: then the expansions are all that takes time."""

BATCHES_PER_BLOCK = 2
"""How many batches such a block looks at."""

FINALISTS = 8
"""Not more candidates of a race are evaluated on all batches."""

State: TypeAlias = dict[str, Any]
"""Attribute of a selection between two steps -> its value."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where an expansion was made, all that it takes to make it again.

    Attributes:
        picks: How many steps were taken.
        looks: How often the selection had turned to the next batches.
        rng: The state of the random numbers.
        good_until: The number of steps from which it is too old.
    """

    picks: int
    looks: int
    rng: dict[str, Any]
    good_until: int


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
        batches_per_step = BATCHES_PER_STEP
        if candidates.is_ranked:
            batches_per_step = BATCHES_PER_BLOCK
        self._look = Look(suffix, batches, batches_per_step)
        self._step_sizes = STEP_SIZES[step]
        self._candidates = candidates
        self._rng = rng
        self._sizes: list[float] = []
        # Else an expansion is good for one step, and there is no race: several channels
        # are to be the best on all batches, and a step that does not shrink is compared
        # with staying there.
        is_single = candidates.is_screened and candidates.per_step == 1
        self._races = is_single and self._step_sizes.shrinks
        self._around: Around | None = None
        self._origin = Origin(0, 0, {}, 0)
        self._steps_without_gain = 0
        self._errors = [self._look.loss(self.weights)]

    @property
    def width(self) -> int:
        """The number of channels that the mixture uses."""
        return int(np.count_nonzero(self.weights))

    @property
    def finished(self) -> bool:
        # A step that gains nothing on its batches may gain on the next ones: the
        # selection ends when none of all batches asks for one.
        is_of_no_use = self._steps_without_gain >= self._look.looks_for_all
        return len(self.fresh) == 0 or is_of_no_use

    @property
    def fresh(self) -> np.ndarray:
        """The channels that were never picked."""
        return np.setdiff1d(np.arange(len(self.weights)), self.picks)

    def advance(self) -> None:
        """Adds the channels of one step, or of a block of steps."""
        self._look.turn_to(self._look.number + 1)
        if self._candidates.is_ranked:
            self._take_block()
            return
        picks = len(self.picks)
        if not self._races or picks >= self._origin.good_until:
            self._around = None
        sizes = self._step_sizes.sizes(self.weights, picks, self.expansion)
        candidates = self._candidates.chosen(
            self._allowed(),
            lambda: self._predicted(sizes),
            picks,
            self._rng,
            self._races,
        )
        channels, sizes = self._step_sizes.trials(picks, candidates, sizes)
        if self._races:
            left, losses = self._look.race(self.weights, channels, sizes, FINALISTS)
            self._take(channels[left], sizes[left], losses)
        else:
            losses = self._look.trials(self.weights, channels, sizes)
            self._take(channels, sizes, losses)

    def state(self) -> State:
        """Returns all that the next steps depend on, for `restore`."""
        return {
            "picks": np.array(self.picks, int),
            "sizes": np.array(self._sizes, float),
            "errors": np.array(self._errors, float),
            "looks": self._look.number,
            "steps_without_gain": self._steps_without_gain,
            "rng": self._rng.bit_generator.state,
            "origin": dataclasses.asdict(self._origin),
        }

    def restore(self, state: State) -> None:
        """Takes up a selection where another one, begun alike, was.

        Args:
            state: Of the other.
        """
        picks, sizes = state["picks"].tolist(), [*state["sizes"]]
        origin = Origin(**state["origin"])
        self._replay(picks[: origin.picks], sizes[: origin.picks])
        self._around = None
        if self._races and len(picks) < origin.good_until:
            # The next step goes by this expansion.
            self._look.turn_to(origin.looks)
            self._rng.bit_generator.state = origin.rng
            self.expansion()
        self._origin = origin
        self._replay(picks, sizes)
        self._errors = [*state["errors"]]
        self._look.turn_to(state["looks"])
        self._steps_without_gain = state["steps_without_gain"]
        self._rng.bit_generator.state = state["rng"]

    def path(self) -> MixturePath:
        """Returns the path so far; its errors are the loss above the full network's."""
        all_alike = np.full(len(self.weights), 1 / len(self.weights))
        full = self._look.loss(all_alike)
        excess = np.maximum(np.array(self._errors) - full, 0.0)
        return mixture_path(self.picks, self._sizes, excess, len(self.weights))

    def expansion(self) -> Expansion:
        """Returns the loss to second order on the way to each channel."""
        if self._around is None:
            picks = len(self.picks)
            steps = int(STEPS_PER_EXPANSION * picks) if self._races else 1
            rng = dict(self._rng.bit_generator.state)
            self._origin = Origin(picks, self._look.number, rng, picks + max(steps, 1))
            self._around = expanded(
                self.suffix, self._look.batches, self.weights, self._rng
            )
        return self._around.towards_each(self.weights)

    def _replay(self, picks: list[int], sizes: list[float]) -> None:
        """Takes these steps from the empty layer."""
        self.picks, self._sizes = picks, sizes
        self.weights[:] = 0.0
        for channel, size in zip(picks, sizes, strict=True):
            move(self.weights, channel, size)

    def _allowed(self) -> np.ndarray:
        """Returns the channels that may be picked: all, or those that never were.

        Those that nobody reads would only scale the others down: they come last. By an
        expansion alone none is picked again: that helps the examples it is made of,
        and hardly any others.
        """
        everything = np.arange(len(self.weights))
        fresh = self.fresh
        picked = len(everything) - len(fresh)
        is_early = len(self.picks) < STEPS_PER_CHANNEL * picked
        may_repeat = is_early and not self._candidates.is_ranked
        allowed = everything if may_repeat or not picked else fresh
        is_read = self.suffix.is_read
        return allowed[is_read[allowed]] if is_read[fresh].any() else allowed

    def _predicted(self, sizes: np.ndarray) -> np.ndarray:
        if not self.picks:
            # Around a = 0 the network is far from linear; the imitation error is not.
            return MixtureError(self.suffix.gram()).trials(sizes)
        return self.expansion().at(sizes)

    def _take_block(self) -> None:
        """Takes steps to the best channels by one expansion, none being evaluated."""
        self._around = None
        allowed = self._allowed()
        block = int(STEPS_PER_BLOCK * len(self.picks))
        steps = max(self._candidates.per_step, block)
        for _ in range(min(steps, len(allowed))):
            picks = len(self.picks)
            sizes = self._step_sizes.sizes(self.weights, picks, self.expansion)
            predicted = self._predicted(sizes)
            best = int(allowed[np.argmin(predicted[allowed])])
            allowed = allowed[allowed != best]
            move(self.weights, best, sizes[best])
            self.picks.append(best)
            self._sizes.append(sizes[best])
        new = len(self.picks) + 1 - len(self._errors)
        self._errors += [self._look.loss(self.weights)] * new

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
        error = losses[best[0]] if is_evaluated else self._look.loss(self.weights)
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
