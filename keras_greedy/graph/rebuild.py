"""From a graph and the channels to keep, a smaller ordinary Keras model."""

import inspect

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph, named_weights
from keras_greedy.graph.registry import IN, OUT
from keras_greedy.graph.trace import check_model, has_graph, own_calls, trace_quietly


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
    compact = cutter.model(graph.model)
    cutter.copy_weights()
    return compact


def replay(model: keras.Model, fresh, outputs, calls, apply) -> keras.Model:
    """A functional model of calls made anew on fresh inputs, each through `apply`.

    Args:
        model: What the new model is like: its structures, its name.
        fresh: The new inputs.
        outputs: The symbolic tensors of the calls that the model is to return.
        calls: In topological order.
        apply: `apply(call, *args, **kwargs)` makes one call.
    """
    functional = check_model(model)
    values = dict(zip(map(id, functional.inputs), fresh, strict=True))
    for call in calls:
        args, kwargs = call.arguments(values)
        made = keras.tree.flatten(apply(call, *args, **kwargs))
        values.update(zip(map(id, call.outputs), made, strict=True))
    outputs = [values[id(tensor)] for tensor in outputs]
    return keras.Model(
        keras.tree.pack_sequence_as(functional.input, fresh),
        keras.tree.pack_sequence_as(functional.output, outputs),
        trainable=model.trainable,
        name=model.name,
    )


def replay_flat(graph: ChannelGraph, apply) -> keras.Model:
    """`replay` of all calls of a graph: no models inside are left."""
    fresh = [remake(layer).output for layer in _input_layers(graph.functional)]
    return replay(graph.model, fresh, graph.outputs, graph.calls, apply)


def _input_layers(functional) -> list:
    layers = {
        id(layer.output): layer
        for layer in functional.operations
        if isinstance(layer, keras.layers.InputLayer)
    }
    return [layers[id(tensor)] for tensor in functional.inputs]


class Cutter:
    """Makes the new operation of each call, once, and fills in its weights.

    Args:
        graph: The traced model.
        kept: Boolean array over the graph's channel numbers.
        weights: As for `rebuild`.
    """

    def __init__(self, graph: ChannelGraph, kept: np.ndarray, weights: dict):
        self._graph, self._kept, self._weights = graph, kept, weights
        self._calls = {id(call.operation): call for call in graph.calls}
        self._makers = {id(call.outputs[0]): call for call in graph.calls}
        self._made: dict[int, keras.Operation] = {}
        _check_names(graph, weights)

    def model(self, model: keras.Model) -> keras.Model:
        """The new one of the traced model, or of one inside it."""
        functional = check_model(model)
        calls = own_calls(functional)
        fresh = [*map(self._input, functional.inputs, _input_layers(functional))]
        if not isinstance(model, keras.Sequential):
            return replay(model, fresh, functional.outputs, calls, self._apply_own)
        new = [self.operation(call.operation) for call in calls]
        return keras.Sequential(
            [*fresh, *new], trainable=model.trainable, name=model.name
        )

    def apply(self, call: Call, *args, **kwargs):
        """Makes a call of the graph with the new operation."""
        if call.rule:
            args = call.rule.cut_arguments(call, args, self._kept_out(call))
        return self.operation(call.operation)(*args, **kwargs)

    def operation(self, operation: keras.Operation) -> keras.Operation:
        """The new one of an operation; for a model inside, with all of its layers."""
        key = id(operation)
        if key not in self._made:
            if key in self._calls:
                changes = self._config_changes(self._calls[key])
                self._made[key] = remake(operation, changes)
            else:
                self._made[key] = self.model(operation)
        return self._made[key]

    def copy_weights(self) -> None:
        for key, call in self._calls.items():
            if call.rule and call.is_layer:
                self._cut_weights(call, self._made[key])
            elif call.is_layer:
                copy_weights(call.operation, self._made[key])

    def _apply_own(self, own: Call, *args, **kwargs):
        if id(own.operation) not in self._calls:
            return self.operation(own.operation)(*args, **kwargs)
        made = self._graph.stand_ins[id(own.outputs[0])]
        return self.apply(self._makers[id(made)], *args, **kwargs)

    def _input(self, tensor, layer):
        """The new input, which in a model inside may have been cut."""
        kept = self._kept[self._graph.channels_of(self._graph.stand_ins[id(tensor)])]
        if kept.all():
            return remake(layer).output
        return remake(layer, {"batch_shape": (*tensor.shape[:-1], sum(kept))}).output

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
        shapes = {name: tuple(weight.shape) for name, weight in call.weights.items()}
        for name, weight in named_weights(new).items():
            array, full = arrays[name], shapes.get(name, (len(kept[OUT]),))
            if np.shape(array) != full:
                raise ValueError(
                    f"Expected `weights[{call.name!r}][{name!r}]` to have the "
                    f"full shape {full}. Received: an array of shape {np.shape(array)}"
                )
            for i, axis in enumerate(call.rule.axes_of(name, len(full))):
                if axis:
                    array = np.compress(entries_of(kept[axis], full[i]), array, i)
            weight.assign(array)
        if isinstance(new, keras.layers.Normalization):
            new.finalize_state()  # It computes from copies of its weights.

    def _kept_in(self, call: Call) -> np.ndarray:
        return self._kept[self._graph.channels_of(call.inputs[0])]

    def _kept_out(self, call: Call) -> np.ndarray:
        return self._kept[self._graph.channels_of(call.outputs[0])]


def entries_of(channels: np.ndarray, size: int) -> np.ndarray:
    """What holds for each channel, for each entry of a weight's axis of that size.

    An axis may have several entries in a row for each channel, or, in a grouped
    convolution, entries for the channels of one group only, which all are alike.
    """
    return np.repeat(channels, max(1, size // len(channels)))[:size]


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
    return {
        name: keras.ops.convert_to_numpy(weight)
        for name, weight in named_weights(layer).items()
    }


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
