"""What a traced model is made of: calls, channels, groups of channels."""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from keras_greedy.graph.rules.base import Rule

AUTO_NAME = re.compile(r"variable(_\d+)?")


def named_weights(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Name -> weight; one made without a name has that of the layer's attribute.

    Weights that share a name, of layers inside the layer, have their path for one.
    """
    attributes = {
        id(value): name
        for name, value in vars(layer).items()
        if isinstance(value, keras.Variable)
    }
    times = collections.Counter(weight.name for weight in layer.weights)

    def name_of(weight):
        if AUTO_NAME.fullmatch(weight.name):
            return attributes.get(id(weight), weight.path)
        return weight.name if times[weight.name] == 1 else weight.path

    return {name_of(weight): weight for weight in layer.weights}


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One operation applied once: a node of the model's graph.

    Attributes:
        index: Position in the graph's topological order.
        name: Name of the operation, behind those of the models it is nested in,
            as in `"backbone/conv1"`.
        operation: The `keras.Operation` (a layer or a raw operation).
        args: Positional arguments, symbolic tensors included.
        kwargs: Keyword arguments, symbolic tensors included.
        outputs: The symbolic tensors it makes.
        rule: How it carries channels; `None` when that is not known.
    """

    index: int
    name: str
    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: tuple
    rule: Rule | None

    @property
    def is_layer(self) -> bool:
        return isinstance(self.operation, keras.Layer)

    @property
    def weights(self) -> dict[str, keras.Variable]:
        """Name -> weight, nothing for a raw operation."""
        return named_weights(self.operation) if self.is_layer else {}

    @property
    def inputs(self) -> list:
        leaves = keras.tree.flatten((self.args, self.kwargs))
        return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]

    def arguments(self, values: dict) -> tuple[tuple, dict]:
        """Its arguments with every symbolic tensor replaced by its value."""

        def value(leaf):
            return values[leaf] if isinstance(leaf, keras.KerasTensor) else leaf

        return keras.tree.map_structure(value, (self.args, self.kwargs))


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are interchangeable for pruning, each cut as a whole.

    Attributes:
        name: Name of the first layer that makes these channels.
        channels: `(N,)` channel numbers, in that layer's order.
        producers: Calls that make the channels.
        consumers: Calls that read them all at once.
        normalizers: Calls on the way that normalise each channel by statistics
            over all, as a LayerNormalization does.
        is_stem: Whether a producer reads the model's input.
        is_head: Whether a consumer makes the model's output.
    """

    name: str
    channels: np.ndarray
    producers: tuple[Call, ...]
    consumers: tuple[Call, ...]
    normalizers: tuple[Call, ...] = ()
    is_stem: bool = False
    is_head: bool = False

    @property
    def size(self) -> int:
        return len(self.channels)

    @property
    def consumer_names(self) -> list[str]:
        """The names of the consumers, once each: one may be called several times."""
        return list(dict.fromkeys(call.name for call in self.consumers))

    @property
    def readers(self) -> tuple[Call, ...]:
        """The calls that compute otherwise when channels are cut."""
        return (*self.consumers, *self.normalizers)

    @property
    def first_reader(self) -> int:
        """Index of the first of the `readers`."""
        return min(call.index for call in self.readers)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGraph:
    """What `trace` returns: the calls of a model, its channels, its groups.

    The layers of models inside the model are calls like all others.

    Attributes:
        model: The traced model, never modified.
        functional: The Functional that holds its graph: `model` itself, or what
            backs a Sequential.
        calls: All calls in topological order.
        outputs: The symbolic tensors the model returns, as the calls make them.
        stand_ins: A tensor as the model it is part of has it -> the tensor of the
            calls that it is, the first time that model is called.
        channels: Tensor -> `(C,)` channel numbers of its last axis.
        groups: The prunable groups, in the order of their first producer.
        unprunable: `(layer name, reason)` of what had to stay whole.
    """

    model: keras.Model
    functional: keras.Model
    calls: list[Call]
    outputs: list
    stand_ins: dict[keras.KerasTensor, keras.KerasTensor]
    channels: dict[keras.KerasTensor, np.ndarray]
    groups: list[ChannelGroup]
    unprunable: list[tuple[str, str]]

    @property
    def inputs(self) -> list:
        return self.functional.inputs

    @property
    def widths(self) -> dict[str, int]:
        return {group.name: group.size for group in self.groups}

    def channels_of(self, tensor) -> np.ndarray:
        return self.channels[tensor]

    def calls_reading(self, tensor) -> list[Call]:
        return [c for c in self.calls if any(t is tensor for t in c.inputs)]

    def kept_mask(self, selection: dict[str, np.ndarray]) -> np.ndarray:
        """Which channel numbers survive a selection.

        Args:
            selection: Group name -> indices of its kept channels; a group that
                is not named is kept whole.

        Returns:
            Boolean array over all channel numbers of the graph.

        Raises:
            ValueError: When a name or an index is not one of the graph's groups.
        """
        groups = {group.name: group for group in self.groups}
        kept = np.ones(1 + max(ids.max() for ids in self.channels.values()), bool)
        for name, indices in selection.items():
            if name not in groups:
                raise ValueError(
                    "Expected the keys of `selection` to be names of groups: "
                    f"{', '.join(groups)}. Received: {name!r}"
                )
            indices = _checked_indices(name, indices, groups[name].size)
            kept[groups[name].channels] = False
            kept[groups[name].channels[indices]] = True
        return kept

    def scales(self, of_groups: dict[str, np.ndarray]) -> np.ndarray:
        """What each channel number is multiplied by, 1 where no group says more.

        Args:
            of_groups: Group name -> `(N,)` scale of its channels.
        """
        scales = np.ones(1 + max(ids.max() for ids in self.channels.values()))
        for group in self.groups:
            scales[group.channels] = of_groups.get(group.name, 1.0)
        return scales

    def feed(self, inputs: list) -> dict[keras.KerasTensor, Any]:
        """Returns the value of each of the model's input tensors, for `run`."""
        return dict(zip(self.inputs, inputs, strict=True))

    def run(self, values: dict, calls: list[Call], apply: Callable) -> dict:
        """Evaluates calls, freeing each tensor after its last use.

        Args:
            values: Symbolic tensor -> value; updated in place.
            calls: A contiguous part of `self.calls`.
            apply: `apply(call, *args, **kwargs)` computes one call.

        Returns:
            `values`, with those still needed behind the last call.
        """
        for call in calls:
            run_calls([call], values, apply)
            for tensor in call.inputs:
                if self._last_use[tensor] <= call.index:
                    values.pop(tensor, None)
        return values

    def run_all(self, inputs: list, apply: Callable) -> list:
        """Evaluates the whole model; returns the values of its outputs.

        Args:
            inputs: One value per input of the model.
            apply: As for `run`.
        """
        values = self.run(self.feed(inputs), self.calls, apply)
        return [values[tensor] for tensor in self.outputs]

    def live_before(self, index: int) -> list[keras.KerasTensor]:
        """Returns the tensors made before call `index` and needed from it on.

        Behind the last call, the model's outputs in their order.
        """
        if index == len(self.calls):
            return list(self.outputs)
        made = [*self.inputs, *(t for c in self.calls[:index] for t in c.outputs)]
        return [t for t in made if self._last_use.get(t, -1) >= index]

    def __post_init__(self):
        last_use = {t: c.index for c in self.calls for t in c.inputs}
        last_use |= {tensor: len(self.calls) for tensor in self.outputs}
        object.__setattr__(self, "_last_use", last_use)


def run_calls(calls: Iterable[Call], values: dict, apply: Callable) -> None:
    """Evaluates calls, in their order, and adds what they make to `values`.

    Args:
        calls: In topological order.
        values: Symbolic tensor -> value; updated in place.
        apply: `apply(call, *args, **kwargs)` computes one call.
    """
    for call in calls:
        args, kwargs = call.arguments(values)
        made = keras.tree.flatten(apply(call, *args, **kwargs))
        values.update(zip(call.outputs, made, strict=True))


def _checked_indices(name: str, indices, size: int) -> np.ndarray:
    indices = np.asarray(indices)
    if (
        indices.ndim != 1
        or not indices.size
        or not np.issubdtype(indices.dtype, np.integer)
        or len(np.unique(indices)) < len(indices)
        or indices.min() < 0
        or indices.max() >= size
    ):
        raise ValueError(
            f"Expected `selection[{name!r}]` to be one or more different integers "
            f"from 0 to {size - 1}. Received: {indices}"
        )
    return indices
