"""Groups of interchangeable channels: made and read by the same calls."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from keras import KerasTensor

from keras_greedy.graph.axes import all_numbers
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGroup, Channels, Reasons
from keras_greedy.graph.space import Boundary, Pin

# Each a call's index and how many times a channel is found there. Channels that a
# call reads unequally often do not cost the same: they are no group.
Occurrences: TypeAlias = tuple[tuple[int, int], ...]
ByChannel: TypeAlias = dict[int, Occurrences]


class Roles(NamedTuple):
    """The key of a group: all channels with these roles are interchangeable.

    Roles compare by the first call that makes the channels, which gives groups the
    order of their first producer.

    Attributes:
        made: Calls that make the channel.
        normalized: Calls that divide it by statistics over all channels.
        read: Calls that read all channels at once.
        parts: Tensors that have a part of a call's channels, the channel among them.
            Each part keeps one channel at least, as it has a group of its own.
    """

    made: Occurrences
    normalized: Occurrences
    read: Occurrences
    parts: Occurrences


@dataclasses.dataclass
class _Found:
    """The occurrences of each channel number in each role."""

    made: "ByChannel" = dataclasses.field(default_factory=dict)
    normalized: "ByChannel" = dataclasses.field(default_factory=dict)
    read: "ByChannel" = dataclasses.field(default_factory=dict)
    parts: "ByChannel" = dataclasses.field(default_factory=dict)


def find_groups(
    calls: Sequence[Call],
    channels: Channels,
    pins: dict[int, Pin],
) -> tuple[list[ChannelGroup], Reasons]:
    """Sorts the channels by the calls that make, normalize and read them.

    Args:
        calls: All calls in topological order.
        channels: Tensor -> axis -> `(C,)` channel numbers.
        pins: Channel number -> the reason why it cannot be cut.

    Returns:
        The `ChannelGroup`s in the order of their first producer, and the
        `(layer name, reason)` of each layer that keeps the channels it touches.
    """
    found = _roles(calls, channels)
    members: dict[Roles, list[int]] = {}
    unprunable: Reasons = []
    for channel, made in found.made.items():
        if channel in pins:
            pin = pins[channel]
            if pin.layer is not None:
                unprunable.append((pin.layer, pin.reason))
        elif channel in found.read:
            normalized = found.normalized.get(channel, ())
            parts = found.parts.get(channel, ())
            roles = Roles(made, normalized, found.read[channel], parts)
            members.setdefault(roles, []).append(channel)
        elif channel in found.normalized:
            (index, _), *_ = found.normalized[channel]
            reason = "nothing else reads the channels that it is a statistic of"
            unprunable.append((calls[index].name, reason))

    groups = []
    times_named: collections.Counter[str] = collections.Counter()
    for roles in sorted(members):
        group = _group(roles, members[roles], calls, channels, pins)
        times_named[group.name] += 1
        if times_named[group.name] > 1:
            name = f"{group.name}:{times_named[group.name]}"
            group = dataclasses.replace(group, name=name)
        groups.append(group)
    # A dict drops repeated entries and keeps their order.
    return groups, list(dict.fromkeys(unprunable))


def _group(
    roles: Roles,
    members: list[int],
    calls: Sequence[Call],
    channels: Channels,
    pins: dict[int, Pin],
) -> ChannelGroup:
    """Makes the group of the channels with these roles, named after its first maker."""

    def reaches(boundary: Boundary, tensors: Iterable[KerasTensor]) -> bool:
        for tensor in tensors:
            for channel in channels[tensor][-1]:
                if channel in pins and pins[channel].boundary is boundary:
                    return True
        return False

    producers = tuple(calls[index] for index, _ in roles.made)
    normalizers = tuple(calls[index] for index, _ in roles.normalized)
    consumers = tuple(calls[index] for index, _ in roles.read)
    first = producers[0]
    position = {}
    axis = first.rule.made_axis if first.rule else -1
    for place, channel in enumerate(channels[first.outputs[0]][axis]):
        position[channel] = place
    in_order = sorted(members, key=position.__getitem__)
    return ChannelGroup(
        name=first.name,
        channels=np.array(in_order),
        producers=producers,
        consumers=consumers,
        normalizers=normalizers,
        is_stem=any(reaches(Boundary.INPUT, call.inputs) for call in producers),
        is_head=any(reaches(Boundary.OUTPUT, call.outputs) for call in consumers),
    )


def _roles(
    calls: Sequence[Call],
    channels: Channels,
) -> _Found:
    """Collects the calls that make, normalize and read each channel."""
    found = _Found()
    for number, part in enumerate(_parts(calls, channels)):
        _note(found.parts, part, number)
    for call in calls:
        if _makes_channels(call):
            for tensor in call.outputs:
                axis = call.rule.made_axis if call.rule else -1
                _note(found.made, channels[tensor][axis], call.index)
        if call.rule is None:
            continue
        if call.rule.normalizes:
            axis = call.rule.read_axis
            _note(found.normalized, channels[call.inputs[0]][axis], call.index)
        if call.rule.consumes:
            axis = call.rule.read_axis
            _note(found.read, channels[call.inputs[0]][axis], call.index)
    return found


def _parts(
    calls: Sequence[Call],
    channels: Channels,
) -> Iterator[np.ndarray]:
    """Yields the channel numbers of each tensor with a part of a call's channels."""
    for call in calls:
        read = [{*all_numbers(channels[tensor])} for tensor in call.inputs]
        for tensor in call.outputs:
            made = {*all_numbers(channels[tensor])}
            if any(made < own for own in read):
                yield np.array([*made])


def _makes_channels(call: Call) -> bool:
    """Returns whether the call draws channels of its own."""
    if call.rule:
        return call.rule.produces
    # Without a rule, a matrix among the weights is the sign of a layer that a user
    # would expect to be pruned, so that the warning has to name it.
    if not call.is_layer:
        return False
    return any(len(weight.shape) > 1 for weight in call.operation.weights)


def _note(
    occurrences: ByChannel,
    ids: np.ndarray,
    index: int,
) -> None:
    """Adds a call to the occurrences of the channels on one of its tensors."""
    times = collections.Counter(ids.tolist())
    for channel, count in times.items():
        before = occurrences.get(channel, ())
        occurrences[channel] = (*before, (index, count))
