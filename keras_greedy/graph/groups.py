"""Which channels are interchangeable: made and read by the same calls."""

import collections

import numpy as np

from keras_greedy.graph.channels import Call, ChannelGroup


def find_groups(calls: list[Call], channels: dict, pins: dict):
    """Sorts the channels by the calls that make, normalize and read them.

    Args:
        calls: All calls in topological order.
        channels: Tensor id -> `(C,)` channel numbers.
        pins: Channel number -> `(layer name or None, reason)` it cannot be cut.

    Returns:
        The `ChannelGroup`s in the order of their first producer, and the
        `(layer name, reason)` of what had to stay whole.
    """

    def at(place, tensors):
        ids = np.concatenate([channels[tensor] for tensor in tensors])
        return any(pins.get(channel) == (None, place) for channel in ids)

    makers, norms, readers = _roles(calls, channels)
    members, unprunable = {}, []
    for channel, made_by in makers.items():
        if channel in pins:
            if pins[channel][0] is not None:
                unprunable.append(pins[channel])
        elif channel in readers:
            key = made_by, norms.get(channel, ()), readers[channel]
            members.setdefault(key, []).append(channel)
    names, groups = {}, []
    for roles, ids in sorted(members.items()):
        producers, normalizers, consumers = (
            tuple(calls[i] for i, _ in role) for role in roles
        )
        first = producers[0]
        names[first.name] = names.get(first.name, 0) + 1
        suffix = f":{names[first.name]}" if names[first.name] > 1 else ""
        position = {c: i for i, c in enumerate(channels[first.outputs[0]])}
        in_order = np.array(sorted(ids, key=position.get))
        groups.append(
            ChannelGroup(
                name=first.name + suffix,
                channels=in_order,
                producers=producers,
                consumers=consumers,
                normalizers=normalizers,
                is_stem=any(at("the model's input", c.inputs) for c in producers),
                is_head=any(at("the model's output", c.outputs) for c in consumers),
            )
        )
    return groups, list(dict.fromkeys(unprunable))


def _roles(calls, channels):
    """Channel -> the calls that make, normalize and read it, and how many times over.

    Each call is given by its index. Channels that a call reads unequally often do
    not cost the same: they are no group.
    """
    makers, norms, readers = {}, {}, {}
    for call in calls:
        if _makes_channels(call):
            for tensor in call.outputs:
                _note(makers, channels[tensor], call.index)
        if call.rule and call.rule.normalizes:
            _note(norms, channels[call.inputs[0]], call.index)
        if call.rule and call.rule.consumes:
            _note(readers, channels[call.inputs[0]], call.index)
    return makers, norms, readers


def _makes_channels(call: Call) -> bool:
    if call.rule:
        return call.rule.produces
    return call.is_layer and any(len(w.shape) > 1 for w in call.operation.weights)


def _note(calls_of, ids, index):
    for channel, count in collections.Counter(ids.tolist()).items():
        calls_of[channel] = (*calls_of.get(channel, ()), (index, count))
