"""A wrapped model, and the plain one of the same size inside it."""

import inspect

import keras
import numpy as np

from keras_greedy.graph.calls import Call, named_weights
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.clone import Copier, remake
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.masks import get_keras_mask
from keras_greedy.graph.rebuild import Cutter, rebuild
from keras_greedy.graph.state import copy_weights, full_weights
from keras_greedy.graph.trace import trace_quietly
from keras_greedy.policies import of_groups
from keras_greedy.selection.cut import without_bias
from keras_greedy.while_training.layers import GreedyChannels, reads_channels


class GatedModel:
    """Reads and writes the gates and weights of a wrapped model, group by group.

    It makes a plain copy of the model once. The gates are always read as they are;
    `compact` first brings the weights of the copy up to date.

    Args:
        wrapped: The model; there may be no wrapper in it.

    Attributes:
        whole: The plain copy, traced.
        graph: The same with those groups only that have gates wherever they are read.
    """

    def __init__(self, wrapped: keras.Model):
        copier = Copier(lambda operation: remake(inner(operation)))
        self.whole = trace_quietly(copier.model(wrapped), look_inside=False)
        self._copies = [
            (old, new) for old, new in copier.copies if isinstance(old, keras.Layer)
        ]
        # Plain operation -> the one of the wrapped model, in its wrapper if it has one.
        self._originals = {new: old for old, new in copier.copies}
        self._copy_weights()
        gated = [group.name for group in self.whole.groups if self._is_gated(group)]
        self.graph = of_groups(self.whole, gated)

    def kept(self) -> dict[str, np.ndarray]:
        """Returns the indices of each group's kept channels, by its name."""
        return {name: np.flatnonzero(mask) for name, mask in self.masks().items()}

    def masks(self) -> dict[str, np.ndarray]:
        """Returns the `(N,)` mask of each group's kept channels, by its name."""
        masks = {}
        for group in self.graph.groups:
            wrapper, positions = self._first_reader_of(group)
            masks[group.name] = wrapper.kept()[positions]
        return masks

    def errors(self) -> dict[str, float]:
        """Returns the error of each group's last selection, by its name."""
        errors = {}
        for group in self.graph.groups:
            wrapper, positions = self._first_reader_of(group)
            errors[group.name] = float(wrapper.errors()[positions[0]])
        return errors

    def widths(self) -> dict[str, int]:
        """Returns how many channels of each group are kept, by its name."""
        return {name: len(kept) for name, kept in self.kept().items()}

    def share_of_macs(self) -> float:
        """Returns the share of the whole model's multiply-accumulates that is left."""
        costs = Costs(self.graph)
        return costs.macs(self.widths()) / costs.macs()

    def compact(self) -> keras.Model:
        """Builds the plain model without the channels that are gated."""
        self._copy_weights()
        return rebuild(self.graph, self.kept())

    def keep(
        self,
        selection: dict[str, np.ndarray],
        weights: dict[str, dict[str, np.ndarray]],
        errors: dict[str, float],
    ) -> None:
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

    def unwrapped_readers(self) -> dict[str, list[str]]:
        """Returns the readers without a wrapper that keep groups whole, by the group.

        Those are groups that have a wrapper as well, which gates nothing then.
        """
        found = {}
        for group in self.whole.groups:
            operations = [self._originals[call.operation] for call in group.readers]
            without = [o.name for o in operations if not isinstance(o, GreedyChannels)]
            if 0 < len(without) < len(operations):
                found[group.name] = without
        return found

    def _copy_weights(self) -> None:
        """Gives the layers of the copy the weights of the wrapped model."""
        for old, new in self._copies:
            copy_weights(inner(old), new)

    def _write_gates(
        self,
        selection: dict[str, np.ndarray],
        errors: dict[str, float],
    ) -> None:
        kept = self.graph.kept_mask(selection)
        error = self.graph.scales(errors)
        readers = {
            call.index: call for group in self.graph.groups for call in group.readers
        }
        for call in readers.values():
            ids = self.graph.channels_of(call.inputs[0])
            self._wrapper(call).keep(kept[ids], error[ids])

    def _write_weights(
        self,
        weights: dict[str, dict[str, np.ndarray]],
        kept: np.ndarray,
    ) -> None:
        """Writes arrays of the compact shapes into the weights of the full shapes."""
        cutter = Cutter(self.graph, kept, {})
        # A layer that is called several times is written by its first call.
        calls = {call.name: call for call in reversed(self.graph.calls)}
        for layer, arrays in weights.items():
            call = calls[layer]
            original = inner(self._originals[call.operation])
            own = named_weights(original)
            for name, array in arrays.items():
                full = full_weights(original)[name]
                full[cutter.entries_left(call, name, full.shape)] = array
                own[name].assign(full)

    def _first_reader_of(
        self,
        group: ChannelGroup,
    ) -> tuple[GreedyChannels, np.ndarray]:
        """Returns a wrapper with the group's gate, and where the channels are in it."""
        call = group.readers[0]
        return self._wrapper(call), self._positions(call, group)

    def _wrapper(self, call: Call) -> GreedyChannels:
        return self._originals[call.operation]

    def _is_gated(self, group: ChannelGroup) -> bool:
        """Returns whether every reader of the group has a gate for all its channels."""
        if not can_be_gated(self.whole, group):
            return False
        for call in group.readers:
            wrapper = self._originals[call.operation]
            if not isinstance(wrapper, GreedyChannels):
                return False
            places = [wrapper.places[i] for i in self._positions(call, group)]
            if not all(places):
                return False
        return True

    def _positions(self, call: Call, group: ChannelGroup) -> np.ndarray:
        """Returns where in the call's input each channel of the group first is."""
        ids = self.whole.channels_of(call.inputs[0]).tolist()
        return np.array([ids.index(channel) for channel in group.channels])


def inner(operation: keras.Operation) -> keras.Operation:
    """Returns the layer inside a wrapper; anything else as it is."""
    is_wrapper = isinstance(operation, GreedyChannels)
    return operation.layer if is_wrapper else operation


def can_be_gated(graph: ChannelGraph, group: ChannelGroup) -> bool:
    """Returns whether a wrapper of one gate can call each reader in its place.

    A layer that is called several times has one gate for all of its calls: it has to
    read the same channels each time. The wrapper takes one tensor, without a mask;
    its gate is for the last axis, and heads are on another one.
    """
    if not all(reads_channels(call.operation) for call in group.readers):
        return False
    if any(call.rule and call.rule.read_axis != -1 for call in group.readers):
        return False
    for call in group.readers:
        takes_mask = "mask" in inspect.signature(call.operation.call).parameters
        is_masked = get_keras_mask(call.inputs[0]) is not None
        if len(call.inputs) > 1 or len(call.outputs) > 1 or (takes_mask and is_masked):
            return False
    readers = {call.operation for call in group.readers}
    inputs = set()
    for call in graph.calls:
        if call.operation in readers:
            channels = graph.channels_of(call.inputs[0])
            inputs.add((call.operation, *channels))
    return len(inputs) == len(readers)
