"""A Keras model as a graph of channels: which ones live and die together.

Every position of every tensor's last axis carries the number of a channel.
Layers that make channels draw fresh numbers, layers that act per channel pass
them on, and joins declare numbers equal. What is left in the end are classes of
positions that can only be removed together.

This is the one module that touches Keras' private node API.
"""

import collections
import dataclasses
import inspect
import sys
import warnings

import keras
import numpy as np
from keras.src.models.functional import Functional

from keras_greedy.graph.channels import Call, ChannelGraph, ChannelGroup
from keras_greedy.graph.rules import RULES, Rule, Unprunable


def trace(model: keras.Model) -> ChannelGraph:
    """Finds which channels of a model must be cut together.

    Layers without a rule keep all channels they touch; one warning lists them.

    Args:
        model: A built Functional or Sequential model, channels last.

    Returns:
        The `ChannelGraph`.

    Raises:
        ValueError: When `model` is of another kind, not built, or has a layer that
            cannot be made anew from its config.

    Example:

    ```python
    model = keras.applications.MobileNetV2(weights=None)
    for group in keras_greedy.trace(model).groups:
        print(group.name, group.size)
    ```
    """
    graph = trace_quietly(model)
    for call in graph.calls:
        _check_has_config(call.operation)
    if graph.unprunable:
        lines = "\n".join(f"  {name}: {reason}" for name, reason in graph.unprunable)
        warnings.warn(
            f"Some channels of model '{model.name}' stay unpruned because of "
            f"these layers:\n{lines}",
            stacklevel=2,
        )
    return graph


def trace_quietly(model: keras.Model) -> ChannelGraph:
    """`trace` without its warning, for copies of a model traced before."""
    functional = check_model(model)
    calls = [_call(i, node) for i, node in enumerate(_nodes(functional))]
    space, channels = ChannelSpace(), {}
    calls = _carry_all(functional, calls, space, channels)
    channels = {key: space.resolve(ids) for key, ids in channels.items()}
    groups, unprunable = _groups(calls, channels, space.pins())
    return ChannelGraph(model, functional, calls, channels, groups, unprunable)


class ChannelSpace:
    """Channel numbers with equality (union-find) and pins that forbid cutting."""

    def __init__(self):
        self._parent: list[int] = []
        self._pins: list[tuple[int, str | None, str]] = []

    def fresh(self, n: int) -> np.ndarray:
        start = len(self._parent)
        self._parent.extend(range(start, start + n))
        return np.arange(start, start + n)

    def unify(self, first: np.ndarray, second: np.ndarray) -> None:
        for a, b in zip(first, second, strict=True):
            a, b = self._find(a), self._find(b)
            self._parent[max(a, b)] = min(a, b)

    def pin(self, ids: np.ndarray, layer: str | None, reason: str) -> None:
        """Forbids cutting `ids`; `layer=None` for what no user would expect cut."""
        self._pins.extend((i, layer, reason) for i in ids)

    def resolve(self, ids: np.ndarray) -> np.ndarray:
        return np.array([self._find(i) for i in ids], dtype=int)

    def pins(self) -> dict[int, tuple[str | None, str]]:
        pins = {}
        for i, layer, reason in self._pins:
            root = self._find(i)
            if layer is None or root not in pins:
                pins[root] = (layer, reason)
        return pins

    def _find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return int(i)


def check_model(model) -> Functional:
    """Returns the built Functional that backs `model`, or raises."""
    if has_graph(model):
        return model._functional if isinstance(model, keras.Sequential) else model
    if isinstance(model, keras.Sequential) and _calls_as(model, keras.Sequential):
        raise ValueError(
            "Expected `model` to be built: call `model.build(input_shape)` or "
            f"start it with `keras.Input`. Received: model={model!r}"
        )
    raise ValueError(
        "Expected `model` to be a Functional or Sequential keras.Model without a "
        "`call` of its own (there is no graph to trace in one: express it with "
        f"`keras.Model(inputs, outputs)`). Received: model={model!r} "
        f"of type {type(model).__name__}"
    )


def has_graph(model) -> bool:
    """Whether `model` is a model that computes what its graph of layers says."""
    if isinstance(model, keras.Sequential):
        return model._functional is not None and _calls_as(model, keras.Sequential)
    return isinstance(model, Functional) and _calls_as(model, Functional)


def _calls_as(model, base: type) -> bool:
    return type(model).call is base.call


def _check_has_config(operation):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            operation.get_config()
    except (NotImplementedError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n\n")[0]
        raise ValueError(
            "Expected every layer of `model` to have a config, as saving the model "
            f"takes. Received: '{operation.name}' of type {type(operation).__name__}, "
            f"whose `get_config()` says: {reason}"
        ) from error


def _nodes(functional):
    """The nodes that belong to this model alone, in topological order."""
    by_depth = functional._nodes_by_depth
    nodes = [
        node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]
    ]
    return [node for node in nodes if not node.is_input]


def _call(index: int, node) -> Call:
    args, kwargs = node.arguments.args, node.arguments.kwargs
    first = next(iter(inspect.signature(node.operation.call).parameters), None)
    if first in kwargs:
        kwargs = dict(kwargs)
        args = (kwargs.pop(first),)
    rule = RULES.get(_rule_key(node.operation))
    return Call(index, node.operation, args, kwargs, tuple(node.outputs), rule)


def _rule_key(operation):
    """A layer's class; for a raw operation its public `keras.ops` function."""
    cls = type(operation)
    if isinstance(operation, keras.Layer) or not cls.__module__.startswith("keras."):
        return cls
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)
    return getattr(sys.modules[cls.__module__], name.lstrip("_"), cls)


def _carry_all(functional, calls, space, channels) -> list[Call]:
    """Fills `channels`; returns the calls, without a rule where all is kept."""
    for tensor in functional.inputs:
        channels[id(tensor)] = space.fresh(_width(tensor))
        space.pin(channels[id(tensor)], None, "the model's input")
    times_called = collections.Counter(id(call.operation) for call in calls)
    carried = []
    for call in calls:
        inputs = [channels[id(tensor)] for tensor in call.inputs]
        try:
            _check_rule_applies(call, times_called[id(call.operation)])
            outputs = [call.rule.carry(call, inputs, space)]
            _check_widths(call, outputs)
        except Unprunable as reason:
            outputs = [space.fresh(_width(tensor)) for tensor in call.outputs]
            for ids in [*inputs, *outputs]:
                space.pin(ids, call.name, str(reason))
            call = dataclasses.replace(call, rule=None)
        channels.update(zip(map(id, call.outputs), outputs, strict=True))
        carried.append(call)
    for tensor in functional.outputs:
        space.pin(channels[id(tensor)], None, "the model's output")
    return carried


def _check_rule_applies(call: Call, times_called: int) -> None:
    if isinstance(call.operation, keras.Model):
        raise Unprunable("the layers of a model inside the model are not seen")
    if call.rule is None:
        raise Unprunable(f"no channel rule for {type(call.operation).__name__}")
    weights = call.operation.weights if call.is_layer else []
    cut = type(call.rule).cut_config is not Rule.cut_config
    if times_called > 1 and (weights or cut):
        raise Unprunable("the layer is called more than once")
    extra = {w.name for w in weights} - {*call.rule.weight_axes}
    if extra:
        raise Unprunable(f"its rule does not know the weights {sorted(extra)}")


def _check_widths(call: Call, outputs: list[np.ndarray]) -> None:
    widths = [_width(tensor) for tensor in call.outputs]
    if [len(ids) for ids in outputs] != widths:
        raise Unprunable(f"its rule does not explain its {widths} output channels")


def _width(tensor) -> int:
    return tensor.shape[-1] or 1 if len(tensor.shape) > 1 else 1


def _groups(calls, channels, pins):
    """Sorts the channels by the calls that make and read them."""
    producers, consumers = _makers_and_readers(calls, channels)
    members, unprunable = {}, []
    for channel, makers in producers.items():
        if channel in pins:
            if pins[channel][0] is not None:
                unprunable.append(pins[channel])
        elif channel in consumers:
            members.setdefault((makers, consumers[channel]), []).append(channel)
    names, groups = {}, []
    for (makers, readers), ids in sorted(members.items()):
        first = calls[makers[0][0]]
        names[first.name] = names.get(first.name, 0) + 1
        suffix = f":{names[first.name]}" if names[first.name] > 1 else ""
        position = {c: i for i, c in enumerate(channels[id(first.outputs[0])])}
        groups.append(
            ChannelGroup(
                first.name + suffix,
                np.array(sorted(ids, key=position.get)),
                tuple(calls[i] for i, _ in makers),
                tuple(calls[i] for i, _ in readers),
            )
        )
    return groups, list(dict.fromkeys(unprunable))


def _makers_and_readers(calls, channels):
    """Channel -> the calls that make it and that read it, and how many times over.

    Each call is given by its index. Channels that a call reads unequally often do
    not cost the same: they are no group.
    """
    makers, readers = {}, {}
    for call in calls:
        if _makes_channels(call):
            for tensor in call.outputs:
                _note(makers, channels[id(tensor)], call.index)
        if call.rule and call.rule.consumes:
            _note(readers, channels[id(call.inputs[0])], call.index)
    return makers, readers


def _makes_channels(call: Call) -> bool:
    if call.rule:
        return call.rule.produces
    return call.is_layer and any(len(w.shape) > 1 for w in call.operation.weights)


def _note(calls_of, ids, index):
    for channel, count in collections.Counter(ids.tolist()).items():
        calls_of[channel] = (*calls_of.get(channel, ()), (index, count))
