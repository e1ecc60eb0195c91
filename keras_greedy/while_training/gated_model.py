"""A wrapped model as the plain one of the same size that is inside it."""

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph, ChannelGroup, named_weights
from keras_greedy.graph.clone import Copier, copy_weights, full_weights, remake
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.fold import foldable_norms
from keras_greedy.graph.rebuild import Cutter, rebuild
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.policies import of_groups
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.while_training.layers import GreedyChannels


class GatedModel:
    """Reads and writes the gates and weights of a wrapped model, group by group.

    Args:
        wrapped: The model; there may be no wrapper in it.

    Attributes:
        whole: The plain model, a copy with the same weights, traced.
        graph: The same with those groups only that have gates wherever they are read.
    """

    def __init__(self, wrapped: keras.Model):
        copier = Copier(lambda operation: remake(inner(operation)))
        self.whole = trace_quietly(copier.model(wrapped))
        self._originals = {new: old for old, new in copier.copies}
        for old, new in copier.copies:
            if isinstance(old, keras.Layer):
                copy_weights(inner(old), new)
        gated = [group.name for group in self.whole.groups if self._is_gated(group)]
        self.graph = of_groups(self.whole, gated)

    def kept(self) -> dict[str, np.ndarray]:
        """Group name -> indices of its channels that are kept."""
        return {name: np.flatnonzero(mask) for name, mask in self.masks().items()}

    def masks(self) -> dict[str, np.ndarray]:
        """Group name -> `(N,)` which of its channels are kept."""
        return {group.name: self._read(group)[0] for group in self.graph.groups}

    def errors(self) -> dict[str, float]:
        """Group name -> the error of its last selection."""
        return {group.name: self._read(group)[1] for group in self.graph.groups}

    def share_of_macs(self) -> float:
        """What is left of the whole model's multiply-accumulates."""
        costs = Costs(self.graph)
        widths = {name: len(kept) for name, kept in self.kept().items()}
        return costs.macs(widths) / costs.macs()

    def compact(self) -> keras.Model:
        """The plain model without the channels that are gated."""
        return rebuild(self.graph, self.kept())

    def keep(self, selection: dict, weights: dict, errors: dict) -> None:
        """Narrows groups further.

        Args:
            selection: Group name -> which of the channels that are *left* to keep.
            weights: Layer name -> weight name -> array, of the shape that the weight
                has in `compact()`.
            errors: Group name -> the selection's error.
        """
        before = self.kept()
        self._write_weights(weights, self.graph.kept_mask(before))
        narrowed = {name: before[name][kept] for name, kept in selection.items()}
        self._write_gates(before | narrowed, self.errors() | errors)

    def check_biases(self) -> None:
        """Raises a ValueError when a mean that goes could not be given back."""
        for call in without_bias(self.graph):
            raise ValueError(
                "Expected a layer that reads channels to have a bias, or a "
                "BatchNormalization of its own behind it, which takes the mean of the "
                "channels that go: make it with use_bias=True, or give prune_greedy "
                f"the whole model. Received: layer '{call.name}', wrapped alone, with "
                "neither"
            )

    def _write_gates(self, selection, errors):
        kept, error = self.graph.kept_mask(selection), self.graph.scales(errors)
        for call in {c.index: c for g in self.graph.groups for c in g.readers}.values():
            ids = self.graph.channels_of(call.inputs[0])
            self._wrapper(call).keep(kept[ids], error[ids])

    def _write_weights(self, weights, kept):
        cutter = Cutter(self.graph, kept, {})
        calls = {call.name: call for call in reversed(self.graph.calls)}
        for layer, arrays in weights.items():
            original = inner(self._originals[calls[layer].operation])
            own = named_weights(original)
            for name, array in arrays.items():
                full = full_weights(original)[name]
                full[cutter.entries_left(calls[layer], name, full.shape)] = array
                own[name].assign(full)

    def _read(self, group: ChannelGroup) -> tuple[np.ndarray, float]:
        call = group.readers[0]
        wrapper, at = self._wrapper(call), self._positions(call, group)
        return wrapper.kept()[at], float(wrapper.errors()[at[0]])

    def _wrapper(self, call: Call) -> GreedyChannels:
        return self._originals[call.operation]

    def _is_gated(self, group: ChannelGroup) -> bool:
        return all(
            isinstance(wrapper := self._originals[call.operation], GreedyChannels)
            and all(wrapper.places[i] for i in self._positions(call, group))
            for call in group.readers
        ) and can_be_gated(self.whole, group)

    def _positions(self, call: Call, group: ChannelGroup) -> np.ndarray:
        """Where in the call's input each channel of the group first is."""
        ids = self.whole.channels_of(call.inputs[0]).tolist()
        return np.array([ids.index(channel) for channel in group.channels])


def inner(operation: keras.Operation) -> keras.Operation:
    """What a wrapper wraps; anything else as it is."""
    is_wrapper = isinstance(operation, GreedyChannels)
    return operation.layer if is_wrapper else operation


def can_be_gated(graph: ChannelGraph, group: ChannelGroup) -> bool:
    """Whether each of its readers reads the same channels whenever it is called."""
    readers = {call.operation for call in group.readers}
    read = {
        (call.operation, *graph.channels_of(call.inputs[0]))
        for call in graph.calls
        if call.operation in readers
    }
    return len(read) == len(readers)


def without_bias(graph: ChannelGraph) -> list[Call]:
    """The readers that need a bias to take the mean of what goes, and have none."""
    norms = foldable_norms(graph)
    return [
        read.call
        for read in consumers_of(graph).values()
        if read.reconstructs
        and not read.call.operation.use_bias
        and read.call.index not in norms
    ]
