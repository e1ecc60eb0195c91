"""Layers made of layers, made anew: as they are, or as models of what is inside."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.graph.calls import Call, run_calls
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.clone import Copier, remake
from keras_greedy.graph.composites import INPUT, Composite, tensors_among
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.layout import calls_of
from keras_greedy.graph.model_kinds import check_model, has_graph
from keras_greedy.graph.rules.contraction import HEADS
from keras_greedy.graph.state import copy_weights

# Layers made of layers that are made anew as they are, with fewer heads.
ATTENTION = (
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)


class BlockCopier(Copier):
    """Copies models, and layers made of layers: a block stays one if nothing is cut.

    Args:
        graph: The traced model.
        kept: What is kept of its channels.
        weights: Layer name -> weight name -> array that takes the place of its own.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        kept: Kept,
        weights: Mapping[str, Mapping[str, np.ndarray]],
    ):
        super().__init__()
        self._graph = graph
        self._kept = kept
        self._weights = weights
        # Of a layer that is called several times any call will do: the masks of its
        # channels are the same.
        self._calls: dict[keras.Operation, Call] = {}
        for call in graph.calls:
            self._calls[call.operation] = call
        # Operations that a cut changes, or that meet cut channels.
        self._touched: set[keras.Operation] = set()

    def opened(self, inside: Composite, structure: Any = None) -> keras.Model:
        """Returns a model of the calls that a layer makes of those inside it.

        Args:
            inside: The calls.
            structure: That of the inputs; by default a list, or one alone.
        """
        fresh = []
        for number, tensor in enumerate(inside.inputs):
            name = f"{INPUT}_{number}" if number else INPUT
            shape = self._shape_left(tensor)
            fresh.append(keras.Input(batch_shape=shape, dtype=tensor.dtype, name=name))
        values = dict(zip(inside.inputs, fresh, strict=True))
        run_calls(inside.calls, values, self.apply_own)
        made = inside.packed([values[tensor] for tensor in inside.outputs])
        if structure is None:
            structure = fresh if len(fresh) > 1 else fresh[0]
        inputs = keras.tree.pack_sequence_as(structure, fresh)
        return keras.Model(inputs, made, trainable=inside.trainable, name=inside.name)

    def _shape_left(self, tensor: KerasTensor) -> tuple[int | None, ...]:
        """Returns the shape that is left of a tensor of a model inside."""
        stand_in = self._graph.stand_ins[tensor]
        shape = list(tensor.shape)
        for axis in self._kept.axes(stand_in):
            if shape[axis] is not None:
                shape[axis] = int(self._kept(stand_in, axis).sum())
        return tuple(shape)

    def _block(self, layer: keras.Layer, inside: Composite) -> keras.Layer:
        """Returns the new one of a layer made of layers.

        That is the layer as it is, or where it is touched a model of those inside.
        """
        is_touched = not self._touched.isdisjoint(_operations_in(self._graph, inside))
        if is_touched and type(layer) in ATTENTION and self._is_one_still(layer):
            return remake(layer, self._changes_of_attention(layer))
        if not is_touched:
            try:
                new = remake(layer)
            except Exception:
                # Without a config it can be taken apart all the same.
                return self.opened(inside)
            new.name = inside.name
            return new
        return self.opened(inside)

    def _apply_block(
        self,
        own: Call,
        args: tuple,
        kwargs: dict[str, Any],
    ) -> Any:
        """Makes a call of a layer made of layers."""
        layer = own.operation
        new = self.operation(layer)
        if type(new) is type(layer):
            made = new(*args, **kwargs)
            if type(layer) in ATTENTION:
                # They are there as soon as it is called.
                pairs = zip(projections(layer), projections(new), strict=True)
                self._made |= dict(pairs)
                return made
            if _shapes(new) == _shapes(layer):
                return made
            # Its config does not tell all that it is.
            new = self.opened(self._graph.inside[layer])
            self._made[layer] = new
        tensors = tensors_among(args, kwargs)
        mode = kwargs.get("training")
        given = {} if mode is None else {"training": mode}
        return new(tensors if len(tensors) > 1 else tensors[0], **given)

    def _changes_of_attention(self, layer: keras.Layer) -> dict[str, Any]:
        """Returns the entries of an attention's config that the cut changes."""
        query, key, _, output, *_ = [self._calls[own] for own in projections(layer)]
        heads = int(self._kept(query.outputs[0], HEADS).sum())
        changes: dict[str, Any] = {"num_heads": heads}
        if isinstance(layer, keras.layers.GroupQueryAttention):
            shared = int(self._kept(key.outputs[0], HEADS).sum())
            changes = {"num_query_heads": heads, "num_key_value_heads": shared}
        width = int(self._kept(output.outputs[0]).sum())
        if width != self._kept(query.inputs[0]).sum():
            changes["output_shape"] = width
        return changes

    def _is_one_still(self, layer: keras.Layer) -> bool:
        """Returns whether an attention that is cut can be the same kind of layer.

        It has a bias at all of its matrices or at none, and where queries share keys,
        as many channels come out as go in.
        """
        query, _, _, output, *_ = [self._calls[own] for own in projections(layer)]
        width = self._kept(output.outputs[0]).sum()
        is_shared = isinstance(layer, keras.layers.GroupQueryAttention)
        if is_shared and width != self._kept(query.inputs[0]).sum():
            return False
        for projection in projections(layer):
            call = self._calls[projection]
            is_given_one = "bias" in self._weights.get(call.name, {})
            if is_given_one and "bias" not in call.weights:
                return False
        return True

    def _copy_weights_of_blocks(self) -> None:
        """Gives the layers that are made anew as they are their weights."""
        for layer in self._graph.inside:
            new = self._made.get(layer)
            if type(new) is type(layer) and type(layer) not in ATTENTION:
                copy_weights(layer, new)


def _shapes(layer: keras.Layer) -> list[tuple]:
    return [tuple(weight.shape) for weight in layer.weights]


def projections(layer: keras.Layer) -> list[keras.Layer]:
    """Returns the matrices of an attention: query, key, value, output, and a gate."""
    found = [layer._query_dense, layer._key_dense, layer._value_dense]
    found.append(layer._output_dense)
    if getattr(layer, "_gate_dense", None) is not None:
        found.append(layer._gate_dense)
    return found


def _operations_in(
    graph: ChannelGraph,
    model: keras.Model | Composite,
) -> Iterator[keras.Operation]:
    """Yields the operations of a model, and those of models and layers inside it."""
    for call in calls_of(model):
        inside = graph.inside.get(call.operation)
        if inside is not None:
            yield from _operations_in(graph, inside)
        elif has_graph(call.operation):
            yield from _operations_in(graph, check_model(call.operation))
        else:
            yield call.operation
