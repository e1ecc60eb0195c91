"""From a graph and the channels to keep, a smaller ordinary Keras model."""

import keras
import numpy as np

from keras_greedy.graph.rules import IN, OUT
from keras_greedy.graph.trace import Call, ChannelGraph


def rebuild(
    graph: ChannelGraph, selection: dict, weights: dict | None = None
) -> keras.Model:
    """Builds the compact model: same layers, same names, fewer channels.

    Args:
        graph: The traced model, which is left as it is.
        selection: Group name -> indices of its kept channels; groups that are
            not named stay whole.
        weights: Layer name -> weight name -> array, in the *full* shape, that
            takes the place of the layer's own before cutting. A `"bias"` given
            to a layer without one adds it.

    Returns:
        A `keras.Sequential` for a Sequential, else a functional `keras.Model`,
        not compiled.

    Example:

    ```python
    graph = keras_greedy.trace(model)
    compact = rebuild(graph, {"block_1_expand": np.arange(48)})
    ```
    """
    cutter = _Cutter(graph, graph.kept_mask(selection), weights or {})
    if isinstance(graph.model, keras.Sequential):
        layers = [cutter.operation(call) for call in graph.calls]
        compact = keras.Sequential([*fresh_inputs(graph), *layers], graph.model.name)
    else:
        compact = replay(graph, cutter.apply)
    cutter.copy_state(compact)
    return compact


def replay(graph: ChannelGraph, apply) -> keras.Model:
    """Calls the graph anew on fresh inputs, each call through `apply`."""
    inputs = fresh_inputs(graph)
    keys = [id(tensor) for tensor in graph.inputs]
    values = graph.run(dict(zip(keys, inputs, strict=True)), graph.calls, apply)
    values |= zip(keys, inputs, strict=True)

    def renew(structure):
        return keras.tree.map_structure(lambda old: values[id(old)], structure)

    model = graph.functional
    return keras.Model(renew(model.input), renew(model.output), name=graph.model.name)


def fresh_inputs(graph: ChannelGraph) -> list:
    """New symbolic inputs with the shapes, dtypes and names of the model's."""
    return [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for tensor, name in zip(graph.inputs, graph.input_names, strict=True)
    ]


class _Cutter:
    """Makes the new operation of each call, once, and fills in its weights."""

    def __init__(self, graph: ChannelGraph, kept: np.ndarray, weights: dict):
        self._graph, self._kept, self._weights = graph, kept, weights
        self._made: dict[int, tuple[Call, keras.Operation]] = {}

    def apply(self, call: Call, *args, **kwargs):
        if call.rule:
            args = call.rule.cut_arguments(call, args, self._kept_out(call))
        return self.operation(call)(*args, **kwargs)

    def operation(self, call: Call) -> keras.Operation:
        key = id(call.operation)
        if key not in self._made:
            config = call.operation.get_config() | self._config_changes(call)
            self._made[key] = call, type(call.operation).from_config(config)
        return self._made[key][1]

    def copy_state(self, compact: keras.Model) -> None:
        if not self._graph.model.trainable:
            compact.trainable = False
        for call, new in self._made.values():
            if call.is_layer:
                new.trainable = call.operation.trainable
                self._copy_weights(call, new)

    def _config_changes(self, call: Call) -> dict:
        if not call.rule:
            return {}
        changes = call.rule.cut_config(call, self._kept_in(call), self._kept_out(call))
        if "bias" in self._weights.get(call.name, ()):
            changes["use_bias"] = True
        return changes

    def _copy_weights(self, call: Call, new: keras.Layer) -> None:
        if not call.rule:
            new.set_weights(call.operation.get_weights())
            return
        kept = {IN: self._kept_in(call), OUT: self._kept_out(call)}
        arrays = full_weights(call.operation) | self._weights.get(call.name, {})
        for weight in new.weights:
            array = arrays[weight.name]
            for axis, runs_over in enumerate(call.rule.weight_axes[weight.name]):
                if runs_over is not None:
                    array = array.compress(kept[runs_over], axis)
            weight.assign(array)

    def _kept_in(self, call: Call) -> np.ndarray:
        return self._kept[self._graph.channels_of(call.inputs[0])]

    def _kept_out(self, call: Call) -> np.ndarray:
        return self._kept[self._graph.channels_of(call.outputs[0])]


def full_weights(layer: keras.Layer) -> dict[str, np.ndarray]:
    """Weight name -> value."""
    return {w.name: keras.ops.convert_to_numpy(w) for w in layer.weights}
