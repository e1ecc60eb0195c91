"""The channels that those of an output depend on, found by drawing some anew."""

from typing import TypeAlias

import numpy as np

from keras_greedy.graph.probing.trial import Depending, Mixing, Trial

# Of one tensor, channels that an output may depend on: a block of 4 x 4 positions moved
# to the channels, as `depth_to_space` expects them, is the largest in use.
MOST_TIED = 16
# Channels of a tensor that are drawn anew one by one.
MOST_ALONE = 512

# Values that differ by a smaller part of them are the same.
ROUNDING = 1e-6
# Of a channel with fewer entries more random inputs are tried.
FEW_ENTRIES = 32
DRAWS = 2
DRAWS_OF_FEW_ENTRIES = 6
# Channels that a message names.
SHOWN = 3

# For each channel of the output those that it depends on.
Sources: TypeAlias = list[list[int]]


class Dependencies:
    """Finds the channels that those of the output depend on.

    Args:
        trial: The call.

    Raises:
        Mixing: When what the call makes is no function of its input, or has another
            number of channels than Keras says.
    """

    def __init__(self, trial: Trial):
        self._trial = trial
        self._outputs = trial.subject.output.shape[-1]
        rng = np.random.default_rng(0)
        entries = trial.entries // max(trial.subject.widths)
        draws = DRAWS if entries >= FEW_ENTRIES else DRAWS_OF_FEW_ENTRIES
        # Random inputs, others to draw from, and what is made of the first.
        self._draws = []
        for _ in range(draws):
            before = trial.draw(rng)
            made = trial.run(before)
            if made.shape[-1] != self._outputs:
                raise Mixing(f"it makes {made.shape[-1]} channels")
            if _differing(made, trial.run(before)).any():
                raise Mixing("two runs on the same input differ")
            self._draws.append((before, trial.draw(rng), made))

    def find(self) -> list[Sources]:
        """Returns for each tensor the channels of it that each output depends on.

        Raises:
            Mixing: When that are many.
        """
        of_tensors = []
        for index, width in enumerate(self._trial.subject.widths):
            sources = self._by_halves(index, width)
            if sources is None:
                sources = self._one_by_one(index, width)
            of_tensors.append(sources)
        return of_tensors

    def _by_halves(self, index: int, width: int) -> Sources | None:
        """Returns the sources if each is one channel at most.

        The channels are written as binary numbers, and of each digit those of 1 and
        those of 0 are drawn anew. An output changes with the half of its source.
        """
        channels = np.zeros(self._outputs, int)
        depends = np.zeros(self._outputs, bool)
        for digit in range(max(1, (width - 1).bit_length())):
            has_one = (np.arange(width) >> digit) & 1 == 1
            with_ones = self._changed_by(index, has_one)
            with_zeros = self._changed_by(index, ~has_one)
            changed = with_ones | with_zeros
            is_one_of_many = (with_ones & with_zeros).any()
            if is_one_of_many or (digit > 0 and (changed != depends).any()):
                return None
            depends = changed
            channels += with_ones.astype(int) << digit
        if (channels >= width).any():
            return None
        sources: Sources = []
        for channel, is_source in zip(channels, depends, strict=True):
            sources.append([int(channel)] if is_source else [])
        return sources

    def _one_by_one(self, index: int, width: int) -> Sources:
        """Returns the sources, which are found by drawing each channel anew.

        Raises:
            Mixing: When that are many.
        """
        if width > MOST_ALONE:
            raise Mixing("its outputs depend on several channels")
        sources: Sources = [[] for _ in range(self._outputs)]
        for channel in range(width):
            is_drawn = np.arange(width) == channel
            changed = np.flatnonzero(self._changed_by(index, is_drawn))
            for output in changed.tolist():
                sources[output].append(channel)
                if len(sources[output]) > MOST_TIED:
                    raise _depending(output, sources[output])
        largest = max(range(self._outputs), key=lambda output: len(sources[output]))
        if len(sources[largest]) == width > 1:
            raise _depending(largest, sources[largest])
        return sources

    def _changed_by(self, index: int, channels: np.ndarray) -> np.ndarray:
        """Returns which outputs change with channels of a tensor that are drawn anew.

        Args:
            index: The tensor.
            channels: `(C,)` mask.

        Returns:
            `(outputs,)` mask.
        """
        changed = np.zeros(self._outputs, bool)
        if not channels.any():
            return changed
        for before, other, made in self._draws:
            arrays = list(before)
            arrays[index] = np.where(channels, other[index], before[index])
            changed |= _differing(made, self._trial.run(arrays))
        return changed


def _depending(output: int, channels: list[int]) -> Depending:
    first = ", ".join(map(str, channels[:SHOWN]))
    more = " and more" if len(channels) > SHOWN else ""
    return Depending(f"its output {output} depends on the channels {first}{more}")


def _differing(made: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Returns the `(C,)` mask of the channels in which two outputs differ."""
    if made.shape != again.shape:
        raise Mixing(f"it makes tensors of shapes {made.shape} and {again.shape}")
    rounding = ROUNDING * np.maximum(np.abs(made), np.abs(again))
    is_same = (made == again) | (np.isnan(made) & np.isnan(again))
    is_same |= np.abs(made - again) <= rounding
    return ~is_same.all(axis=tuple(range(made.ndim - 1)))
