"""The probes of one trace."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.graph.probing.dependencies import Dependencies, Sources
from keras_greedy.graph.probing.parts import check_parts, check_symbolic, parts_of
from keras_greedy.graph.probing.readers import Reading, check_reading, reading_of
from keras_greedy.graph.probing.trial import (
    MANY_ENTRIES,
    MOST_ENTRIES,
    MOST_ENTRIES_CHECKED,
    POSITIONS,
    Depending,
    Mixing,
    Subject,
    Trial,
    leaving_no_trace,
    positions_that_fit,
)
from keras_greedy.graph.symbols import first_line


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """The channels that a probe has told apart.

    Attributes:
        sources: For each channel of the output those of the inputs, counted in a row,
            that are one with it; none for a constant.
        is_broadcast: For each input whether its one channel goes with all others.
    """

    sources: Sources
    is_broadcast: list[bool]

    @property
    def is_elementwise(self) -> bool:
        """Returns whether each channel of the input makes the one in its place."""
        return self.sources == [[i] for i in range(len(self.sources))]


@dataclasses.dataclass(frozen=True, eq=False)
class Trusted:
    """A layer that is followed because a probe says that it can be.

    Attributes:
        layer: Its name.
        kind: Its class, or its activation.
        channels: The channel numbers of its output.
    """

    layer: str
    kind: str
    channels: np.ndarray


class Probes:
    """Probes functions, each once for tensors of the same shapes.

    With the trace its findings are forgotten: what a function closes over may be
    something else the next time.

    Attributes:
        trusted: The layers that are followed, for a warning.
    """

    def __init__(self) -> None:
        self.trusted: list[Trusted] = []
        self._findings: dict[Any, Found | Reading | Mixing] = {}

    def trust(self, layer: str, kind: str, channels: np.ndarray) -> None:
        """Notes that a layer is followed because of a probe."""
        self.trusted.append(Trusted(layer, kind, channels))

    def find(self, subject: Subject) -> Found | Reading:
        """Returns which channels a call tells apart, or how it reads all of them.

        Raises:
            Mixing: When it mixes them in another way, or cannot be tried; says why.
        """
        key = _key(subject)
        if key not in self._findings:
            self._findings[key] = _probe(subject)
        finding = self._findings[key]
        if isinstance(finding, Mixing):
            raise finding
        return finding

    def check_activation(
        self,
        activation: Any,
        made: KerasTensor,
    ) -> None:
        """Raises `Mixing` unless an activation acts on each channel alone."""
        x = KerasTensor(made.shape, made.dtype)
        found = self.find(Subject(activation, (x,), {}, [x], x))
        if isinstance(found, Reading):
            raise Mixing("its outputs depend on all channels")
        if not found.is_elementwise:
            raise Mixing("it moves them to other places")


def _key(subject: Subject) -> Any:
    """Returns what a finding holds for: a function on tensors of these shapes."""
    leaves: list[Any] = []
    for leaf in keras.tree.flatten((subject.args, subject.kwargs)):
        if isinstance(leaf, KerasTensor):
            leaves.append((leaf.shape, leaf.dtype))
        elif isinstance(leaf, str | int | float | None):
            leaves.append(leaf)
        else:
            # An array, or anything: no other call has it.
            leaves.append(object())
    # A function may have no hash, but is there as long as the model is.
    return id(subject.function), tuple(leaves)


def _probe(subject: Subject) -> Found | Reading | Mixing:
    try:
        with leaving_no_trace():
            return _found(subject)
    except Mixing as finding:
        return finding
    except Exception as error:
        # Whatever it is: the code is the user's.
        return Mixing(f"it fails: {first_line(error)}")


def _found(subject: Subject) -> Found | Reading:
    """Returns which channels a call tells apart, or how it reads all of them.

    Raises:
        Exception: Any that the user's code raises; `Mixing` when it mixes them.
    """
    for tensor in (*subject.tensors, subject.output):
        if len(tensor.shape) < 2 or tensor.shape[-1] is None:
            raise Mixing(f"a tensor of shape {tensor.shape} has no number of channels")
    trial = Trial(subject)
    if MANY_ENTRIES < trial.entries <= MOST_ENTRIES_CHECKED:
        for positions in (POSITIONS, positions_that_fit(subject)):
            try:
                found = _told_apart_or_read(Trial(subject, positions))
                _check_in_full(trial, found)
                return found
            except Depending:
                raise
            except Exception:
                # They may be too few for the call.
                continue
    if trial.entries > MOST_ENTRIES:
        raise Mixing("its input is too large to be tried")
    return _told_apart_or_read(trial)


def _check_in_full(trial: Trial, found: Found | Reading) -> None:
    """Raises an exception unless what was found holds for all positions, too."""
    if isinstance(found, Reading):
        check_reading(trial, found)
    else:
        parts = parts_of(trial.subject, found.sources, found.is_broadcast)
        check_parts(trial, parts[-1:], scales=[1.0])


def _told_apart_or_read(trial: Trial) -> Found | Reading:
    try:
        return _told_apart(trial)
    except Mixing:
        reading = reading_of(trial)
        if reading is None:
            raise
        return reading


def _told_apart(trial: Trial) -> Found:
    """Returns which channels are told apart on arrays of a trial's sizes."""
    subject = trial.subject
    greatest = max(subject.widths)
    is_broadcast = [width == 1 < greatest for width in subject.widths]
    sources: Sources = [[] for _ in range(subject.output.shape[-1])]
    start = 0
    for index, of_tensor in enumerate(Dependencies(trial).find()):
        for channels, found in zip(sources, of_tensor, strict=True):
            if not is_broadcast[index]:
                channels.extend(start + channel for channel in found)
        start += subject.widths[index]
    parts = parts_of(subject, sources, is_broadcast)
    if parts:
        check_parts(trial, parts)
        check_symbolic(subject, parts[-1])
    elif greatest > 1:
        raise Mixing("all of its channels are one")
    return Found(sources, is_broadcast)
