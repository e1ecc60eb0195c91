"""The same call on a part of the channels, which has to make the same values."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_greedy.graph.probing.dependencies import Sources
from keras_greedy.graph.probing.trial import Mixing, Subject, Trial
from keras_greedy.graph.symbols import first_line

# How far values on fewer channels, maybe computed in another order, may be apart: a
# part of the value itself, and a part of the channel's largest.
TOLERANCE = 1e-4
OF_LARGEST = 1e-6
# The same in half precision.
TOLERANCE_OF_HALF = 2e-2
OF_LARGEST_OF_HALF = 1e-2

# Standard deviations of the random inputs.
SCALES = (1e-3, 1.0, 100.0)


class Part(NamedTuple):
    """Channels that are kept together.

    Attributes:
        of_tensors: For each input the `(C,)` mask of its kept channels.
        of_output: The same of the output.
    """

    of_tensors: list[np.ndarray]
    of_output: np.ndarray


def parts_of(
    subject: Subject,
    sources: Sources,
    is_broadcast: Sequence[bool],
) -> list[Part]:
    """Returns random parts of the channels, of several sizes.

    Args:
        subject: The call.
        sources: For each channel of the output those of all inputs, counted in a row,
            that are one with it.
        is_broadcast: For each input whether its one channel goes with all others.

    Returns:
        The parts; none where all channels are one.
    """
    classes = _classes(sources, sum(subject.widths))
    of_tensors = np.split(classes, np.cumsum(subject.widths)[:-1])
    alone = []
    for own, is_shared in zip(of_tensors, is_broadcast, strict=True):
        if not is_shared:
            alone.append(own)
    numbers = np.unique(np.concatenate(alone))
    count = len(numbers)
    rng = np.random.default_rng(1)
    parts = []
    for size in sorted({1, (count + 2) // 3, (count + 1) // 2, count - 1}):
        if not 0 < size < count:
            continue
        kept = rng.choice(numbers, size, replace=False)
        masks = []
        for own, is_shared in zip(of_tensors, is_broadcast, strict=True):
            masks.append(np.isin(own, kept) | is_shared)
        of_output = []
        for channels in sources:
            is_constant = not channels
            of_output.append(is_constant or classes[channels[0]] in kept)
        if all(mask.any() for mask in masks) and any(of_output):
            parts.append(Part(masks, np.array(of_output)))
    return parts


def check_parts(
    trial: Trial,
    parts: Iterable[Part],
    scales: Iterable[float] = SCALES,
) -> None:
    """Raises `Mixing` unless a call on parts of the channels makes the same values.

    Args:
        trial: The call.
        parts: The parts.
        scales: Standard deviations of the random inputs.
    """
    rng = np.random.default_rng(2)
    wholes = []
    for scale in scales:
        arrays = trial.draw(rng, scale)
        wholes.append((arrays, trial.run(arrays)))
    for part in parts:
        function = trial.subject.anew(int(part.of_output.sum()))
        for arrays, made in wholes:
            narrow = []
            for array, kept in zip(arrays, part.of_tensors, strict=True):
                narrow.append(array[..., kept])
            try:
                found = trial.run(narrow, function)
            except Exception as error:
                # Whatever it is: the code is the user's.
                reason = first_line(error)
                raise Mixing(f"it fails on fewer channels: {reason}") from error
            expected = made[..., part.of_output]
            if found.shape != expected.shape:
                shapes = f"{found.shape}, not {expected.shape}"
                raise Mixing(f"on fewer channels it makes a tensor of shape {shapes}")
            if not are_close(found, expected, trial.subject.is_half):
                raise Mixing("on fewer channels it makes other values")


def check_symbolic(subject: Subject, part: Part) -> None:
    """Raises `Mixing` unless Keras can make the call on a part of the channels, too."""
    width = int(part.of_output.sum())
    function = subject.anew(width)
    if not isinstance(function, keras.Operation):
        return
    widths = [int(kept.sum()) for kept in part.of_tensors]
    try:
        made = subject.output_of(function, widths)
    except Exception as error:
        # Whatever it is: the code is the user's.
        raise Mixing(f"it fails on fewer channels: {first_line(error)}") from error
    expected = (*subject.output.shape[:-1], width)
    if getattr(made, "shape", None) != expected:
        raise Mixing("the shape that it says to make has not fewer channels")


def _classes(sources: Sources, total: int) -> np.ndarray:
    """Returns a number for each of all channels, equal for those that are one."""
    classes = np.arange(total)
    for channels in sources:
        if len(channels) > 1:
            own = np.unique(classes[channels])
            classes[np.isin(classes, own)] = own[0]
    return classes


def are_close(found: np.ndarray, expected: np.ndarray, is_half: bool) -> bool:
    """Returns whether values are the same, but for the order of computing them."""
    if found.shape != expected.shape:
        return False
    tolerance = TOLERANCE_OF_HALF if is_half else TOLERANCE
    of_largest = OF_LARGEST_OF_HALF if is_half else OF_LARGEST
    finite = np.where(np.isfinite(expected), np.abs(expected), 0)
    largest = finite.max(axis=tuple(range(finite.ndim - 1)))
    allowed = tolerance * np.abs(expected) + of_largest * largest
    is_same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    is_same |= np.abs(found - expected) <= allowed
    return bool(is_same.all())
