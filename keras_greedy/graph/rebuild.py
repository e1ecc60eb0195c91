"""From a graph and the channels to keep, a smaller ordinary Keras model."""

import inspect

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.graph.registry import IN, OUT
from keras_greedy.graph.trace import has_graph, trace_quietly


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

    Raises:
        ValueError: When a name, an index or a shape does not fit the graph.

    Example:

    ```python
    graph = keras_greedy.trace(model)
    compact = rebuild(graph, {"block_1_expand": np.arange(48)})
    ```
    """
    cutter = Cutter(graph, graph.kept_mask(selection), weights or {})
    if isinstance(graph.model, keras.Sequential):
        layers = [*fresh_inputs(graph), *map(cutter.operation, graph.calls)]
        compact = keras.Sequential(
            layers, trainable=graph.model.trainable, name=graph.model.name
        )
    else:
        compact = replay(graph, cutter.apply)
    cutter.copy_weights()
    return compact


def replay(graph: ChannelGraph, apply) -> keras.Model:
    """Calls the graph anew on fresh inputs, each call through `apply`."""
    inputs = fresh_inputs(graph)
    keys = [id(tensor) for tensor in graph.inputs]
    values = graph.run(dict(zip(keys, inputs, strict=True)), graph.calls, apply)
    values |= zip(keys, inputs, strict=True)

    def renew(structure):
        return keras.tree.map_structure(lambda old: values[id(old)], structure)

    return keras.Model(
        renew(graph.functional.input),
        renew(graph.functional.output),
        trainable=graph.model.trainable,
        name=graph.model.name,
    )


def fresh_inputs(graph: ChannelGraph) -> list:
    """New symbolic inputs like the model's."""
    operations = graph.functional.operations
    makers = {
        id(layer.output): layer
        for layer in operations
        if isinstance(layer, keras.layers.InputLayer)
    }
    return [remake(makers[id(tensor)]).output for tensor in graph.inputs]


class Cutter:
    """Makes the new operation of each call, once, and fills in its weights.

    Args:
        graph: The traced model.
        kept: Boolean array over the graph's channel numbers.
        weights: As for `rebuild`.
    """

    def __init__(self, graph: ChannelGraph, kept: np.ndarray, weights: dict):
        self._graph, self._kept, self._weights = graph, kept, weights
        self._made: dict[int, tuple[Call, keras.Operation]] = {}
        _check_names(graph, weights)

    def apply(self, call: Call, *args, **kwargs):
        if call.rule:
            args = call.rule.cut_arguments(call, args, self._kept_out(call))
        return self.operation(call)(*args, **kwargs)

    def operation(self, call: Call) -> keras.Operation:
        key = id(call.operation)
        if key not in self._made:
            self._made[key] = call, remake(call.operation, self._config_changes(call))
        return self._made[key][1]

    def copy_weights(self) -> None:
        for call, new in self._made.values():
            if call.rule and call.is_layer:
                self._cut_weights(call, new)
            elif call.is_layer:
                copy_weights(call.operation, new)

    def _config_changes(self, call: Call) -> dict:
        if not call.rule:
            return {}
        kept, changes = (self._kept_in(call), self._kept_out(call)), {}
        if not np.concatenate(kept).all():
            changes = call.rule.cut_config(call, *kept) | _fitting_initializers(call)
        if "bias" in self._weights.get(call.name, ()):
            changes["use_bias"] = True
        return changes

    def _cut_weights(self, call: Call, new: keras.Layer) -> None:
        kept = {IN: self._kept_in(call), OUT: self._kept_out(call)}
        arrays = full_weights(call.operation) | self._weights.get(call.name, {})
        for weight in new.weights:
            array = arrays[weight.name]
            axes = call.rule.axes_of(weight.name, len(weight.shape))
            sizes = zip(weight.shape, axes, strict=True)
            full = tuple(len(kept[axis]) if axis else size for size, axis in sizes)
            if np.shape(array) != full:
                raise ValueError(
                    f"Expected `weights[{call.name!r}][{weight.name!r}]` to have the "
                    f"full shape {full}. Received: an array of shape {np.shape(array)}"
                )
            for i, axis in enumerate(axes):
                if axis:
                    array = np.compress(kept[axis], array, i)
            weight.assign(array)

    def _kept_in(self, call: Call) -> np.ndarray:
        return self._kept[self._graph.channels_of(call.inputs[0])]

    def _kept_out(self, call: Call) -> np.ndarray:
        return self._kept[self._graph.channels_of(call.outputs[0])]


def remake(operation: keras.Operation, changes: dict | None = None) -> keras.Operation:
    """A new operation from the config of another, without its weights.

    A model inside the model is rebuilt whole, weights included.
    """
    if has_graph(operation):
        return rebuild(trace_quietly(operation), {})
    cls, config = type(operation), operation.get_config()
    config |= _live_entries(operation, config) | (changes or {})
    is_lambda = isinstance(operation, keras.layers.Lambda)
    new = cls(**config) if is_lambda else cls.from_config(config)
    new.name = operation.name
    if isinstance(new, keras.Layer) and new.trainable != operation.trainable:
        new.trainable = operation.trainable
    return new


def copy_weights(layer: keras.Layer, new: keras.Layer) -> None:
    """Gives a remade layer the weights of the old one, whatever they are."""
    new.set_weights(layer.get_weights())
    # Some layers compute from what they derive of their weights on loading.
    store = {}
    layer.save_own_variables(store)
    new.load_own_variables(store)


def full_weights(layer: keras.Layer) -> dict[str, np.ndarray]:
    """Weight name -> value."""
    return {w.name: keras.ops.convert_to_numpy(w) for w in layer.weights}


def _live_entries(operation, config) -> dict:
    """The entries of a config that Keras cannot read back, as they are."""
    own = vars(operation)
    if isinstance(operation, keras.layers.Lambda):
        names = {"output_shape": "_output_shape"}
        names |= {name: name for name in ("function", "mask", "arguments")}
        return {entry: own[attribute] for entry, attribute in names.items()}
    functions = {
        name: own[name] for name in config if inspect.isfunction(own.get(name))
    }
    return {
        name: function
        for name, function in functions.items()
        if not function.__module__.startswith("keras.")
    }


def _fitting_initializers(call: Call) -> dict:
    """Zeros for constants of the full shape, which a cut layer cannot start from."""
    return {
        name: "zeros"
        for name, value in vars(call.operation).items()
        if name.endswith("_initializer") and np.ndim(getattr(value, "value", 0))
    }


def _check_names(graph: ChannelGraph, weights: dict) -> None:
    known = {call.name: call.rule.weight_axes for call in graph.calls if call.rule}
    for layer, arrays in weights.items():
        for name in arrays:
            if name not in known.get(layer, ()):
                raise ValueError(
                    "Expected the keys of `weights` to be layers that can be cut and "
                    f"names of their weights. Received: weights[{layer!r}][{name!r}]"
                )
