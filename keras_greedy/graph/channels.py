"""A traced model: its calls, its channels, the groups of its channels."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.graph.axes import all_numbers
from keras_greedy.graph.branches import Branches
from keras_greedy.graph.calls import Apply, Call, Values, run_calls
from keras_greedy.graph.composites import Composite
from keras_greedy.graph.space import ByAxis

# Tensor -> the channel numbers of its last axis, and of others that have channels.
Channels: TypeAlias = dict[KerasTensor, ByAxis]
# `(layer name, reason)` of each layer that keeps the channels it touches.
Reasons: TypeAlias = list[tuple[str, str]]


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

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="classes"),
        ]
    )
    (group,) = keras_greedy.trace(model).groups
    assert (group.name, group.size) == ("hidden", 8)
    assert group.consumer_names == ["classes"]
    assert group.is_stem and group.is_head
    ```
    """

    name: str
    channels: np.ndarray
    producers: tuple[Call, ...]
    consumers: tuple[Call, ...]
    normalizers: tuple[Call, ...] = ()
    is_stem: bool = False
    is_head: bool = False

    def __repr__(self) -> str:
        return f"<ChannelGroup {self.name!r} of {self.size:,} channels>"

    @property
    def size(self) -> int:
        """Returns the number of channels."""
        return len(self.channels)

    @property
    def entries(self) -> int:
        """Returns how wide each channel is: as wide as a head, or 1."""
        return self.producers[0].entries_made

    @property
    def consumer_names(self) -> list[str]:
        """Returns the names of the consumers; one called several times has one."""
        return list(dict.fromkeys(call.name for call in self.consumers))

    @property
    def readers(self) -> tuple[Call, ...]:
        """Returns the calls that compute something else when channels are cut."""
        return (*self.consumers, *self.normalizers)

    @property
    def first_reader(self) -> int:
        """Returns the index of the first of the `readers`."""
        return min(call.index for call in self.readers)


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGraph:
    """The calls of a traced model, its channels, and the groups of them.

    The layers of models inside the model are calls like all others.

    Attributes:
        model: The traced model, never modified.
        functional: The Functional that holds its graph: `model` itself, or the
            Functional behind a Sequential.
        calls: All calls in topological order.
        outputs: The symbolic tensors the model returns, as the calls make them.
        stand_ins: A tensor as the model it is part of has it -> the tensor of the
            calls that it is, the first time that model is called.
        inside: Layer made of layers -> the calls that it makes of them.
        channels: Tensor -> axis -> `(C,)` channel numbers: of the last axis, -1, and
            of those before it that have channels.
        groups: The prunable groups, in the order of their first producer.
        unprunable: `(layer name, reason)` of each layer that keeps the channels it
            touches.
        probed: `(layer name, kind)` of each layer without a rule that channels are
            followed through, as a probe found that it tells them apart.
        whole: Operation -> the reason why all channels that it touches are kept; those
            too whose channels nobody would expect to be cut.

    Example:

    ```python
    import keras

    import keras_greedy

    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, name="a")(inputs)
    x = keras.layers.Conv2D(4, 3, name="b")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))

    graph = keras_greedy.trace(model)
    assert graph.widths == {"a": 6, "b": 4}
    kept = graph.kept_mask({"a": [0, 2]})
    made_by_a = graph.calls[0].outputs[0]
    assert kept[graph.channels_of(made_by_a)].sum() == 2
    ```
    """

    model: keras.Model
    functional: keras.Model
    calls: list[Call]
    outputs: list[KerasTensor]
    stand_ins: dict[KerasTensor, KerasTensor]
    inside: dict[keras.Operation, Composite]
    channels: Channels
    groups: list[ChannelGroup]
    unprunable: Reasons
    probed: Reasons
    whole: Mapping[keras.Operation, str] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        channels = sum(group.size for group in self.groups)
        return (
            f"<ChannelGraph of model {self.model.name!r}: {len(self.groups)} groups "
            f"with {channels:,} channels>"
        )

    @property
    def inputs(self) -> list[KerasTensor]:
        """Returns the model's input tensors."""
        return self.functional.inputs

    @property
    def widths(self) -> dict[str, int]:
        """Returns the number of channels of each group, by name."""
        return {group.name: group.size for group in self.groups}

    @functools.cached_property
    def branches(self) -> Branches:
        """The branches that may go, with the last channel of a group."""
        return Branches(self.calls, self.channels, self.groups, self.outputs)

    @functools.cached_property
    def _channel_count(self) -> int:
        """Returns the length of an array over all channel numbers."""
        greatest = max(all_numbers(own).max() for own in self.channels.values())
        return int(greatest) + 1

    @functools.cached_property
    def _last_use(self) -> dict[KerasTensor, int]:
        """Returns the index of the last call that reads each tensor.

        The model's outputs are read behind all calls.
        """
        last_use = {}
        for call in self.calls:
            for tensor in call.inputs:
                last_use[tensor] = call.index
        for tensor in self.outputs:
            last_use[tensor] = len(self.calls)
        return last_use

    def channels_of(self, tensor: KerasTensor) -> np.ndarray:
        """Returns the `(C,)` channel numbers of a tensor's last axis."""
        return self.channels[tensor][-1]

    def channels_read(self, call: Call) -> np.ndarray:
        """Returns the channel numbers that a call reads, as they go with its input.

        They are `(C,)` where its channels are on the last axis of that, else `(C, 1)`,
        and so on.
        """
        axis = call.rule.read_axis if call.rule else -1
        ids = self.channels[call.inputs[0]][axis]
        return ids.reshape(-1, *[1] * (-1 - axis))

    def calls_reading(self, tensor: KerasTensor) -> list[Call]:
        """Returns the calls that have the tensor among their inputs."""
        reading = []
        for call in self.calls:
            # Once for a call that reads the tensor twice, as `x * x` does.
            if any(own is tensor for own in call.inputs):
                reading.append(call)
        return reading

    def kept_mask(self, selection: dict[str, Any]) -> np.ndarray:
        """Returns the mask of the channel numbers that survive a selection.

        Args:
            selection: Group name -> indices of its kept channels; a group that
                is not named is kept whole. None is left of a group whose branch may
                go, and of those that go with it.

        Returns:
            Boolean array over all channel numbers of the graph.

        Raises:
            ValueError: When a name or an index is not one of the graph's groups.
        """
        groups = {group.name: group for group in self.groups}
        kept = np.ones(self._channel_count, bool)
        empty = [name for name, indices in selection.items() if not np.size(indices)]
        going = self.branches.groups_gone(empty)
        for name, indices in selection.items():
            if name not in groups:
                raise ValueError(
                    "Expected the keys of `selection` to be names of groups: "
                    f"{', '.join(groups)}. Received: {name!r}"
                )
            group = groups[name]
            if name in going:
                kept[group.channels] = False
                continue
            indices = _checked_indices(name, indices, group.size)
            kept[group.channels] = False
            kept[group.channels[indices]] = True
        return kept

    def scales(self, of_groups: Mapping[str, np.ndarray | float]) -> np.ndarray:
        """Returns the factor of each channel number, 1 where no group has its own.

        Args:
            of_groups: Group name -> scale of its channels, `(N,)` or one for all.
        """
        scales = np.ones(self._channel_count)
        for group in self.groups:
            scales[group.channels] = of_groups.get(group.name, 1.0)
        return scales

    def feed(self, inputs: list) -> Values:
        """Returns the value of each of the model's input tensors, for `run`."""
        return dict(zip(self.inputs, inputs, strict=True))

    def run(
        self,
        values: Values,
        calls: Sequence[Call],
        apply: Apply,
    ) -> Values:
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
                    # It may be gone: a call may read a tensor twice.
                    values.pop(tensor, None)
        return values

    def run_all(self, inputs: list, apply: Apply) -> list:
        """Evaluates the whole model; returns the values of its outputs.

        Args:
            inputs: One value per input of the model.
            apply: As for `run`.
        """
        values = self.run(self.feed(inputs), self.calls, apply)
        return [values[tensor] for tensor in self.outputs]

    def live_before(self, index: int) -> list[KerasTensor]:
        """Returns the tensors made before call `index` and needed from it on.

        Behind the last call, the model's outputs in their order.
        """
        if index == len(self.calls):
            return list(self.outputs)
        made = list(self.inputs)
        for call in self.calls[:index]:
            made.extend(call.outputs)
        live = []
        for tensor in made:
            # A tensor that no call reads, and is no output, was never needed.
            last_use = self._last_use.get(tensor, -1)
            if last_use >= index:
                live.append(tensor)
        return live


def _checked_indices(
    name: str,
    indices: Any,
    size: int,
) -> np.ndarray:
    """Returns a group's kept indices as an array, or raises a ValueError."""
    array = np.asarray(indices)
    if (
        array.ndim != 1
        or not array.size
        or not np.issubdtype(array.dtype, np.integer)
        or len(np.unique(array)) < len(array)
        or array.min() < 0
        or array.max() >= size
    ):
        raise ValueError(
            f"Expected `selection[{name!r}]` to be one or more different integers "
            f"from 0 to {size - 1}. Received: {array}"
        )
    return array
