"""From a graph and the channels to keep, a smaller ordinary Keras model."""

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph, named_weights
from keras_greedy.graph.clone import Copier, copy_weights, full_weights, remake
from keras_greedy.graph.rules.base import IN, OUT


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


class Cutter(Copier):
    """Makes the new operation of each call, once, and fills in its weights.

    Args:
        graph: The traced model.
        kept: Boolean array over the graph's channel numbers.
        weights: As for `rebuild`.
    """

    def __init__(self, graph: ChannelGraph, kept: np.ndarray, weights: dict):
        super().__init__()
        self._graph, self._kept, self._weights = graph, kept, weights
        self._calls = {call.operation: call for call in graph.calls}
        self._makers = {call.outputs[0]: call for call in graph.calls}
        _check_names(graph, weights)

    def apply(self, call: Call, *args, **kwargs):
        """Makes a call of the graph with the new operation."""
        if call.rule:
            args = call.rule.cut_arguments(call, args, self._kept_out(call))
        return self.operation(call.operation)(*args, **kwargs)

    def new(self, operation):
        if operation in self._calls:
            return remake(operation, self._config_changes(self._calls[operation]))
        return self.model(operation)

    def copy_weights(self) -> None:
        for key, call in self._calls.items():
            if call.rule and call.is_layer:
                self._cut_weights(call, self._made[key])
            elif call.is_layer:
                copy_weights(call.operation, self._made[key])

    def entries_left(self, call: Call, name: str, shape) -> tuple[np.ndarray, ...]:
        """The index, as of `np.ix_`, of what is left of a weight of this full shape."""
        kept = {IN: self._kept_in(call), OUT: self._kept_out(call)}
        axes = zip(call.rule.axes_of(name, len(shape)), shape, strict=True)
        return np.ix_(
            *(entries_of(kept[a], n) if a else np.ones(n, bool) for a, n in axes)
        )

    def apply_own(self, own: Call, *args, **kwargs):
        if own.operation not in self._calls:
            return self.operation(own.operation)(*args, **kwargs)
        made = self._graph.stand_ins[own.outputs[0]]
        return self.apply(self._makers[made], *args, **kwargs)

    def input(self, tensor, layer):
        """The new input, which in a model inside may have been cut."""
        kept = self._kept[self._graph.channels_of(self._graph.stand_ins[tensor])]
        if kept.all() or tensor.shape[-1] is None:
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
        arrays = full_weights(call.operation) | self._weights.get(call.name, {})
        shapes = {name: tuple(weight.shape) for name, weight in call.weights.items()}
        for name, weight in named_weights(new).items():
            array, full = arrays[name], shapes.get(name, (len(self._kept_out(call)),))
            if np.shape(array) != full:
                raise ValueError(
                    f"Expected `weights[{call.name!r}][{name!r}]` to have the "
                    f"full shape {full}. Received: an array of shape {np.shape(array)}"
                )
            weight.assign(array[self.entries_left(call, name, full)])
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
