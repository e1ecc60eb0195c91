"""Calls that depend on all channels, but treat those that are gone in a known way."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from keras_greedy.graph.probing.parts import Part, are_close, check_symbolic
from keras_greedy.graph.probing.trial import Mixing, Trial

# Statistics over the channels that have rules.
STATISTICS = (ops.mean, ops.max, ops.min, ops.std, ops.var, ops.logsumexp)

# Standard deviations of the random inputs; of each some have one sign alone, as a
# maximum must be told from one of the values and 0.
SCALES = (1.0, 30.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """The way a call depends on all channels.

    Attributes:
        follows: Whether it makes a channel of each, which depends on all others.
        statistic: The statistic over the channels that it is, a function of Keras. If
            there is none, channels that are 0 might as well be absent.
        keeps_axis: Whether a statistic has an axis of one channel.
    """

    follows: bool
    statistic: Callable[..., Any] | None = None
    keeps_axis: bool = True


def reading_of(trial: Trial) -> Reading | None:
    """Returns the way in which a call depends on all channels, if it is a known one."""
    subject = trial.subject
    if len(subject.tensors) != 1 or subject.widths[0] < 2:
        return None
    (width,) = subject.widths
    sizes = sorted({1, width // 2, width - 1, width})
    draws = _draws(trial)
    readings = [Reading(follows=False)]
    if subject.output.shape[-1] == subject.widths[0]:
        readings.append(Reading(follows=True))
    keeps_axis = len(subject.output.shape) == len(subject.tensors[0].shape)
    for statistic in STATISTICS:
        readings.append(Reading(False, statistic, keeps_axis))
    for reading in readings:
        try:
            if _is_right(trial, draws, reading, sizes):
                return reading
        except Exception:
            # Whatever it is: the code is the user's, and another way may be it.
            continue
    return None


def check_reading(trial: Trial, reading: Reading) -> None:
    """Raises `Mixing` unless a call reads all channels in this way."""
    (width,) = trial.subject.widths
    (array,) = trial.draw(np.random.default_rng(5), 1.0)
    if not _is_right(trial, [array], reading, [width // 2]):
        raise Mixing("it does another thing to more positions")


def _draws(trial: Trial) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    draws = []
    for scale in SCALES:
        (array,) = trial.draw(rng, scale)
        draws += [array, abs(array), -abs(array)]
    return draws


def _is_right(
    trial: Trial,
    draws: list[np.ndarray],
    reading: Reading,
    sizes: list[int],
) -> bool:
    """Returns whether a call on parts of the channels is what a reading says.

    Raises:
        Exception: Any that the user's code raises; `Mixing` when Keras cannot make it.
    """
    subject = trial.subject
    (width,) = subject.widths
    rng = np.random.default_rng(4)
    for size in sizes:
        kept = np.zeros(width, bool)
        kept[rng.choice(width, size, replace=False)] = True
        made = np.ones(subject.output.shape[-1], bool)
        part = Part([kept], kept if reading.follows else made)
        function = subject.anew(int(part.of_output.sum()))
        for array in draws:
            found = trial.run([array[..., kept]], function)
            expected = _expected(trial, array, part, reading)
            if not are_close(found, expected, subject.is_half):
                return False
        check_symbolic(subject, part)
    return True


def _expected(
    trial: Trial,
    array: np.ndarray,
    part: Part,
    reading: Reading,
) -> np.ndarray:
    (kept,) = part.of_tensors
    if reading.statistic is None:
        return trial.run([array * kept])[..., part.of_output]
    (tensor,) = trial.subject.tensors
    x = ops.convert_to_tensor(array[..., kept], tensor.dtype)
    statistic = reading.statistic(x, axis=-1, keepdims=reading.keeps_axis)
    return ops.convert_to_numpy(ops.cast(statistic, "float32"))
