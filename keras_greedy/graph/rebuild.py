"""From a graph and the channels to keep, a smaller ordinary Keras model."""

from typing import Any, TypeAlias

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.graph.blocks_anew import BlockCopier
from keras_greedy.graph.branch_ends import BranchEnd
from keras_greedy.graph.calls import Call, known_sizes, named_weights
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.clone import remake
from keras_greedy.graph.entries import entries_left
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.model_kinds import wrapped
from keras_greedy.graph.rule_faults import (
    blamed_on_rule,
    check_left,
    check_width,
    fault,
)
from keras_greedy.graph.rules.configs import fitting_initializers
from keras_greedy.graph.state import copy_weights, full_weights

# In place of what a call that goes would make.
GONE = object()

# Layer name -> weight name -> array in the full shape.
Weights: TypeAlias = dict[str, dict[str, np.ndarray]]


def rebuild(
    graph: ChannelGraph,
    selection: dict[str, Any],
    weights: Weights | None = None,
) -> keras.Model:
    """Builds the compact model: same layers, same names, fewer channels.

    Args:
        graph: The traced model, which is left as it is.
        selection: Group name -> indices of its kept channels; groups that are
            not named stay whole. Of one with no indices the branch goes, if it is one
            that may: a constant is added in its place, by a `Rescaling`.
        weights: Layer name -> weight name -> array, in the *full* shape, that
            takes the place of the layer's own before cutting. A `"bias"` given
            to a layer without one adds it.

    Returns:
        A `keras.Sequential` for a Sequential, else a functional `keras.Model`,
        not compiled.

    Raises:
        ValueError: When a name, an index or a shape does not fit the graph.

    Example:

    ```python
    import keras

    import keras_greedy
    from keras_greedy.graph.rebuild import rebuild

    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3),
        ]
    )
    graph = keras_greedy.trace(model)
    compact = rebuild(graph, {"hidden": [0, 2, 5]})
    assert compact.get_layer("hidden").kernel.shape == (16, 3)
    ```
    """
    cutter = Cutter(graph, graph.kept_mask(selection), weights or {})
    whole = wrapped(graph.functional)
    if whole in graph.inside:
        compact = cutter.opened(graph.inside[whole], graph.functional.input)
    else:
        compact = cutter.model(graph.model)
    cutter.copy_weights()
    return compact


class Cutter(BlockCopier):
    """Makes the new operation of each call, once, and fills in its weights.

    Args:
        graph: The traced model.
        kept: Boolean array over the graph's channel numbers.
        weights: As for `rebuild`.
    """

    def __init__(self, graph: ChannelGraph, kept: np.ndarray, weights: Weights):
        super().__init__(graph, Kept(graph.channels, kept), weights)
        self._mask = kept
        self._makers: dict[KerasTensor, Call] = {}
        for call in graph.calls:
            self._makers[call.outputs[0]] = call
        self._gone: set[int] = set()
        # Index of the call of a sum -> the ends of the branches that it does without.
        self._cut_off: dict[int, list[BranchEnd]] = {}
        self._find_branches_gone()
        self._touched = self._operations_touched()
        _check_names(graph, weights)

    def apply(
        self,
        call: Call,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Makes a call of the graph with the new operation, if it does not go."""
        if call.index in self._gone:
            return [GONE] * len(call.outputs)
        if call.index in self._cut_off:
            return self._without_branches(call, args)
        operation = self.operation(call.operation)
        if not call.rule:
            return operation(*args, **kwargs)
        with blamed_on_rule(call, "to fit what is left of its channels"):
            args = call.rule.arguments(call, args, self._kept)
            made = call.rule.left(call, operation(*args, **kwargs), self._kept)
        check_width(call, made, int(self._kept(call.outputs[0]).sum()))
        return made

    def new(self, operation: keras.Operation) -> keras.Operation:
        """Makes the new one of an operation, cut if it is one of the graph's calls."""
        inside = self._graph.inside.get(operation)
        if inside is not None:
            return self._block(operation, inside)
        if operation not in self._calls:
            return self.model(operation)
        call = self._calls[operation]
        if not call.rule:
            return self._named(remake(operation), call)
        changes = known_sizes(call) | self._config_changes(call)
        if not changes:
            return self._named(remake(operation), call)
        expected = f"to change entries of its config that there are, {[*changes]}"
        with blamed_on_rule(call, expected):
            return self._named(remake(operation, changes), call)

    def _named(self, new: keras.Operation, call: Call) -> keras.Operation:
        """Returns a new operation with the name that it has in its model."""
        new.name = call.name.split("/")[-1]
        return new

    def copy_weights(self) -> None:
        """Gives the new layers their weights, cut where the call has a rule."""
        for operation, call in self._calls.items():
            # One that has gone was not made, nor was one in a layer that stays whole.
            if not call.is_layer or operation not in self._made:
                continue
            if call.rule and not call.rule.has_own_state:
                self._cut_weights(call, self._made[operation])
            else:
                copy_weights(operation, self._made[operation])
        self._copy_weights_of_blocks()

    def entries_left(
        self,
        call: Call,
        name: str,
        shape: tuple[int, ...],
    ) -> tuple[np.ndarray, ...]:
        """Returns the index of the entries that are left of a weight.

        Args:
            call: A call with a rule.
            name: Name of the weight.
            shape: Its full shape.

        Returns:
            An index as of `np.ix_`: an array of entries for each axis, which broadcast.
        """
        # Without a rule nothing is known of the weight's axes.
        assert call.rule is not None
        axes = call.rule.axes_of(name, len(shape))
        kept_in = self._kept(call.inputs[0], call.rule.read_axis)
        kept_out = self._kept(call.outputs[0], call.rule.made_axis)
        return entries_left(axes, shape, kept_in, kept_out)

    def apply_own(
        self,
        own: Call,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Makes a call of one model's graph anew, cut as the traced call it is."""
        if own.operation in self._graph.inside:
            return self._apply_block(own, args, kwargs)
        if own.operation not in self._calls:
            return self.operation(own.operation)(*args, **kwargs)
        made = self._graph.stand_ins[own.outputs[0]]
        return self.apply(self._makers[made], *args, **kwargs)

    def input(
        self,
        tensor: KerasTensor,
        layer: keras.layers.InputLayer,
    ) -> KerasTensor:
        """Returns the new input, which in a model inside may have been cut."""
        shape = self._shape_left(tensor)
        if shape == tensor.shape:
            return remake(layer).output
        return remake(layer, {"batch_shape": shape}).output

    def _operations_touched(self) -> set[keras.Operation]:
        """Returns the operations that a cut changes, or that meet cut channels."""
        touched = set()
        for call in self._graph.calls:
            is_cut = call.index in self._gone or call.index in self._cut_off
            if not all(map(self._kept.all_of, (*call.inputs, *call.outputs))):
                is_cut = True
            if is_cut or self._weights.get(call.name):
                touched.add(call.operation)
        return touched

    def _find_branches_gone(self) -> None:
        """Finds what goes with the groups that have no channel."""
        empty = []
        for group in self._graph.groups:
            if not self._mask[group.channels].any():
                empty.append(group.name)
        branches = self._graph.branches
        self._gone = branches.calls_gone(empty)
        for name in empty:
            for end in branches.ends.get(name, ()):
                self._cut_off.setdefault(end.sum.index, []).append(end)

    def _without_branches(self, call: Call, args: tuple) -> KerasTensor:
        """Adds what is left of a sum, and the constants in place of what has gone.

        The layer that adds the constants has the sum's name, if that itself has gone.
        """
        operation = call.operation
        # (C,): what the branches would add at every position.
        ends = self._cut_off[call.index]
        constant = np.sum([end.constant(self._weights) for end in ends], axis=0)
        constant = constant[self._kept(call.outputs[0])]
        left = [value for value in keras.tree.flatten(args) if value is not GONE]
        name = operation.name
        if len(left) == 1:
            (total,) = left
        else:
            total = self.operation(operation)(left)
            name = f"{name}_constant"
        dtype = operation.dtype_policy if call.is_layer else call.outputs[0].dtype
        shift = keras.layers.Rescaling(1.0, constant.tolist(), name=name, dtype=dtype)
        return shift(total)

    def _config_changes(self, call: Call) -> dict[str, Any]:
        """Returns the entries of an operation's config that the cut changes."""
        if not call.rule:
            return {}
        changes: dict[str, Any] = {}
        tensors = (*call.inputs, *call.outputs)
        is_cut = not all(self._kept.all_of(tensor) for tensor in tensors)
        if is_cut:
            with blamed_on_rule(call, "to have a `cut_config` that can be called"):
                changes |= call.rule.changes(call, self._kept)
        if "bias" in self._weights.get(call.name, {}):
            changes |= call.rule.with_bias(call)
        if is_cut or changes:
            changes = call.rule.nested(call.operation, changes)
        return fitting_initializers(call.operation) | changes if is_cut else changes

    def _cut_weights(
        self,
        call: Call,
        new: keras.Layer,
    ) -> None:
        """Fills a new layer with the entries left of the old one's weights."""
        arrays = full_weights(call.operation)
        arrays |= self._weights.get(call.name, {})
        full_shapes = {}
        for name, weight in call.weights.items():
            full_shapes[name] = tuple(weight.shape)
        # A bias that the old layer does not have is one of all that it makes.
        sizes = call.outputs[0].shape
        bias_shape = sizes[call.rule.made_axis :] if call.rule else ()
        for name, weight in named_weights(new).items():
            if name not in arrays:
                raise fault(call, "to leave it its weights", f"a new one, {name!r}")
            array = arrays[name]
            shape = full_shapes.get(name, bias_shape)
            if np.shape(array) != shape:
                raise ValueError(
                    f"Expected `weights[{call.name!r}][{name!r}]` to have the "
                    f"full shape {shape}. Received: an array of shape {np.shape(array)}"
                )
            with blamed_on_rule(call, f"to have `weight_axes` that fit {name!r}"):
                left = array[self.entries_left(call, name, shape)]
            check_left(call, name, left.shape, weight.shape)
            weight.assign(left)
        for inside in new._flatten_layers():
            if isinstance(inside, keras.layers.Normalization):
                inside.finalize_state()  # It computes from copies of its weights.


def _check_names(graph: ChannelGraph, weights: Weights) -> None:
    """Raises a ValueError for a weight that no layer with a rule has."""
    known = {}
    for call in graph.calls:
        if call.rule:
            known[call.name] = call.rule.weight_axes
    for layer, arrays in weights.items():
        for name in arrays:
            if name not in known.get(layer, {}):
                raise ValueError(
                    "Expected the keys of `weights` to be layers that can be cut and "
                    f"names of their weights. Received: weights[{layer!r}][{name!r}]"
                )
