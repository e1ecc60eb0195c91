"""What a traced model is made of: calls, channels, groups of channels."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np

from keras_greedy.graph.registry import Rule


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
