"""A Keras model as a graph of channels: which ones live and die together.

Every position of every tensor's last axis carries the number of a channel.
Layers that make channels draw fresh numbers, layers that act per channel pass
them on, and joins declare numbers equal. What is left in the end are classes of
positions that can only be removed together.

This is the one module that touches Keras' private node API.
"""

import dataclasses
import sys
import warnings
from collections.abc import Callable

import keras
import numpy as np

from keras_greedy.graph.rules import RULES, Rule, Unprunable


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One operation applied once: a node of the model's graph.

    Attributes:
        index: Position in the graph's topological order.
        operation: The `keras.Operation` (a layer or a raw operation).
        args: Positional arguments, symbolic tensors included.
        kwargs: Keyword arguments, symbolic tensors included.
        outputs: The symbolic tensors it makes.
        rule: How it carries channels; `None` when that is not known.
    """

    index: int
    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: tuple
    rule: Rule | None

    @property
    def name(self) -> str:
        return self.operation.name

    @property
    def is_layer(self) -> bool:
        return isinstance(self.operation, keras.Layer)

    @property
    def inputs(self) -> list:
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]

    def arguments(self, values: dict) -> tuple[tuple, dict]:
        """Its arguments with every symbolic tensor replaced by its value."""

        def value(leaf):
            return values[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

        return keras.tree.map_structure(value, (self.args, self.kwargs))


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are interchangeable for pruning, each cut as a whole.

    Attributes:
        name: Name of the first layer that makes these channels.
        channels: `(N,)` channel numbers, in that layer's order.
        producers: Calls that make the channels.
        consumers: Calls that read them all at once.
    """

    name: str
    channels: np.ndarray
    producers: tuple[Call, ...]
    consumers: tuple[Call, ...]

    @property
    def size(self) -> int:
        return len(self.channels)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGraph:
    """What `trace` returns: the calls of a model, its channels, its groups.

    Attributes:
        model: The traced model, never modified.
        functional: The Functional that holds its graph: `model` itself, or what
            backs a Sequential.
        calls: All calls in topological order.
        channels: Tensor id -> `(C,)` channel numbers of its last axis.
        groups: The prunable groups, in the order of their first producer.
        unprunable: `(layer name, reason)` of what had to stay whole.
    """

    model: keras.Model
    functional: keras.Model
    calls: list[Call]
    channels: dict[int, np.ndarray]
    groups: list[ChannelGroup]
    unprunable: list[tuple[str, str]]

    @property
    def inputs(self) -> list:
        return self.functional.inputs

    @property
    def outputs(self) -> list:
        return self.functional.outputs

    @property
    def input_names(self) -> list[str]:
        return [tensor._keras_history.operation.name for tensor in self.inputs]

    @property
    def widths(self) -> dict[str, int]:
        return {group.name: group.size for group in self.groups}

    def channels_of(self, tensor) -> np.ndarray:
        return self.channels[id(tensor)]

    def readers(self, tensor) -> list[Call]:
        return [c for c in self.calls if any(t is tensor for t in c.inputs)]

    def kept_mask(self, selection: dict[str, np.ndarray]) -> np.ndarray:
        """Which channel numbers survive a selection.

        Args:
            selection: Group name -> indices of its kept channels; a group that
                is not named is kept whole.

        Returns:
            Boolean array over all channel numbers of the graph.
        """
        kept = np.ones(1 + max(ids.max() for ids in self.channels.values()), bool)
        for group in self.groups:
            if group.name in selection:
                kept[group.channels] = False
                kept[group.channels[selection[group.name]]] = True
        return kept

    def run(self, values: dict, calls: list[Call], apply: Callable) -> dict:
        """Evaluates calls, freeing each tensor after its last use.

        Args:
            values: Tensor id -> value; updated in place.
            calls: A contiguous part of `self.calls`.
            apply: `apply(call, *args, **kwargs)` computes one call.

        Returns:
            `values`, with what is still needed behind the last call.
        """
        for call in calls:
            args, kwargs = call.arguments(values)
            outputs = keras.tree.flatten(apply(call, *args, **kwargs))
            values.update(zip(map(id, call.outputs), outputs, strict=True))
            for tensor in call.inputs:
                if self._last_use[id(tensor)] <= call.index:
                    values.pop(id(tensor), None)
        return values

    def live_before(self, index: int) -> list[int]:
        """Ids of the tensors made before call `index` and needed from it on.

        Behind the last call, the ids of the model's outputs in their order.
        """
        if index == len(self.calls):
            return [id(tensor) for tensor in self.outputs]
        made = [*self.inputs, *(t for c in self.calls[:index] for t in c.outputs)]
        return [id(t) for t in made if self._last_use.get(id(t), -1) >= index]

    def __post_init__(self):
        last_use = {id(t): c.index for c in self.calls for t in c.inputs}
        last_use |= {id(tensor): len(self.calls) for tensor in self.outputs}
        object.__setattr__(self, "_last_use", last_use)


def trace(model: keras.Model) -> ChannelGraph:
    """Finds which channels of a model must be cut together.

    Layers without a rule keep all channels they touch; one warning lists them.

    Args:
        model: A built Functional or Sequential model, channels last.

    Returns:
        The `ChannelGraph`.

    Raises:
        ValueError: When `model` is of another kind or not built.

    Example:

    ```python
    model = keras.applications.MobileNetV2(weights=None)
    for group in keras_greedy.trace(model).groups:
        print(group.name, group.size)
    ```
    """
    graph = trace_quietly(model)
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


def check_model(model) -> keras.Model:
    """Returns the built Functional that backs `model`, or raises."""
    if isinstance(model, keras.Sequential):
        if not model.built:
            raise ValueError(
                "Expected `model` to be built: call `model.build(input_shape)` or "
                f"start it with `keras.Input`. Received: model={model!r}"
            )
        return model._functional
    if not isinstance(model, keras.Model) or not hasattr(model, "_nodes_by_depth"):
        raise ValueError(
            "Expected `model` to be a Functional or Sequential keras.Model (a "
            "subclassed model has no graph to trace: express it with "
            f"`keras.Model(inputs, outputs)`). Received: model={model!r} "
            f"of type {type(model).__name__}"
        )
    return model


def _nodes(functional):
    """The nodes that belong to this model alone, in topological order."""
    by_depth = functional._nodes_by_depth
    nodes = [
        node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]
    ]
    return [node for node in nodes if not node.is_input]


def _call(index: int, node) -> Call:
    arguments, operation = node.arguments, node.operation
    rule = RULES.get(_rule_key(operation))
    return Call(
        index, operation, arguments.args, arguments.kwargs, tuple(node.outputs), rule
    )


def _rule_key(operation):
    """A layer's class; for a raw operation its public `keras.ops` function."""
    cls = type(operation)
    if isinstance(operation, keras.Layer) or not cls.__module__.startswith("keras."):
        return cls
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in cls.__name__)
    return getattr(sys.modules[cls.__module__], name.lstrip("_"), cls)


def _weighted_operations_called_twice(calls) -> set[int]:
    seen, twice = set(), set()
    for call in calls:
        if call.is_layer and call.operation.weights:
            (twice if id(call.operation) in seen else seen).add(id(call.operation))
    return twice


def _carry_all(functional, calls, space, channels) -> list[Call]:
    """Fills `channels`; returns the calls, without a rule where all is kept."""
    for tensor in functional.inputs:
        channels[id(tensor)] = space.fresh(_width(tensor))
        space.pin(channels[id(tensor)], None, "the model's input")
    shared = _weighted_operations_called_twice(calls)
    carried = []
    for call in calls:
        inputs = [channels[id(tensor)] for tensor in call.inputs]
        try:
            _check_rule_applies(call, shared)
            outputs = [call.rule.carry(call, inputs, space)]
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


def _check_rule_applies(call: Call, shared: set[int]) -> None:
    if call.rule is None:
        raise Unprunable(f"no channel rule for {type(call.operation).__name__}")
    if id(call.operation) in shared:
        raise Unprunable("the layer is called more than once")
    if call.is_layer:
        extra = {w.name for w in call.operation.weights} - {*call.rule.weight_axes}
        if extra:
            raise Unprunable(f"its rule does not know the weights {sorted(extra)}")


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
        first = calls[makers[0]]
        names[first.name] = names.get(first.name, 0) + 1
        suffix = f":{names[first.name]}" if names[first.name] > 1 else ""
        position = {c: i for i, c in enumerate(channels[id(first.outputs[0])])}
        groups.append(
            ChannelGroup(
                first.name + suffix,
                np.array(sorted(ids, key=position.get)),
                tuple(calls[i] for i in makers),
                tuple(calls[i] for i in readers),
            )
        )
    return groups, list(dict.fromkeys(unprunable))


def _makers_and_readers(calls, channels):
    """Channel -> indices of the calls that make it, and that read it."""
    makers, readers = {}, {}
    for call in calls:
        if call.rule and call.rule.produces and call.is_layer:
            for channel in set(channels[id(call.outputs[0])]):
                makers[channel] = (*makers.get(channel, ()), call.index)
        if call.rule and call.rule.consumes:
            for channel in set(channels[id(call.inputs[0])]):
                readers[channel] = (*readers.get(channel, ()), call.index)
    return makers, readers
