"""Multiply-accumulates and parameters, of a model or of hypothetical widths."""

import math

import keras
import numpy as np
from keras import layers

from keras_greedy.graph.channels import Call, ChannelGraph
from keras_greedy.graph.rules.base import IN, OUT
from keras_greedy.graph.trace import has_graph, trace_quietly

TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
COUNTED = (
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, *TRANSPOSED),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)


def macs(model: keras.Model) -> int:
    """Multiply-accumulates of one input through `model`.

    Convolutions and dense layers count, as is usual, those of a model inside the
    model too; per-channel work, recurrence and attention do not.

    Args:
        model: A built Functional or Sequential model with a fixed input size.

    Returns:
        The number of multiply-accumulates.

    Example:

    ```python
    keras_greedy.macs(keras.applications.MobileNetV2(weights=None))  # 300774272
    ```
    """
    return Costs(trace_quietly(model)).macs()


def count_params(model: keras.Model) -> int:
    """Number of parameters of `model`, as Keras counts them."""
    return model.count_params()


class Costs:
    """MACs and parameters as functions of the widths of a graph's groups.

    Each weight contributes `coefficient * n_first * n_second`, where the counts
    are of the channels along two of its axes, and each count is linear in the
    widths: a constant plus so many positions per channel of each group.

    Args:
        graph: The traced model.
    """

    def __init__(self, graph: ChannelGraph):
        self._names = [group.name for group in graph.groups]
        self._full = np.array([group.size for group in graph.groups], float)
        self._group_of = {
            channel: (i, 1 / group.size)
            for i, group in enumerate(graph.groups)
            for channel in group.channels
        }
        self._counts: list[np.ndarray] = [self._constant(1)]
        self._macs, self._params = [], []
        seen = set()
        for call in graph.calls:
            if call.is_layer:
                self._add_call(graph, call, first_use=call.operation not in seen)
                seen.add(call.operation)
        self._counts = np.array(self._counts)
        self._macs, self._params = map(_columns, (self._macs, self._params))

    def macs(self, widths: dict | None = None):
        """MACs when the named groups have these widths, the others all.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            An int, or an array when a width is one.
        """
        return self._total(self._macs, widths or {})

    def params(self, widths: dict | None = None):
        """Parameters, as `macs`."""
        return self._total(self._params, widths or {})

    def _add_call(self, graph, call, first_use):
        channels = {}
        if call.rule:
            channels[IN] = graph.channels_of(call.inputs[0])
            channels[OUT] = graph.channels_of(call.outputs[0])
        counts = {axis: self._add_count(ids) for axis, ids in channels.items()}
        if has_graph(call.operation):
            self._macs.append((macs(call.operation), 0, 0))
        for name, weight in call.weights.items():
            none = (None,) * len(weight.shape)
            axes = call.rule.axes_of(name, len(none)) if call.rule else none
            cut = [axis for axis in axes if axis]
            widths = [len(channels[axis]) for axis in cut]
            coefficient = math.prod(weight.shape) / math.prod(widths)
            first, second = ([counts[axis] for axis in cut] + [0, 0])[:2]
            if first_use:
                self._params.append((coefficient, first, second))
            if isinstance(call.operation, COUNTED) and name.endswith("kernel"):
                self._macs.append((coefficient * _positions(call), first, second))

    def _add_count(self, channels) -> int:
        row = self._constant(0)
        for channel in channels:
            group, share = self._group_of.get(channel, (-1, 1))
            row[group] += share
        self._counts.append(row)
        return len(self._counts) - 1

    def _constant(self, value) -> np.ndarray:
        return np.array([0.0] * len(self._names) + [value])

    def _total(self, terms, widths):
        full = zip(self._names, self._full, strict=True)
        chosen = np.broadcast_arrays(*(widths.get(n, size) for n, size in full), 1.0)
        counts = np.tensordot(self._counts, np.array(chosen), axes=1)
        coefficients, first, second = terms
        total = np.tensordot(coefficients, counts[first] * counts[second], axes=1)
        return np.rint(total) if np.ndim(total) else round(float(total))


def _positions(call: Call) -> int:
    """How often the kernel is applied."""
    transposed = isinstance(call.operation, TRANSPOSED)
    shape = (call.inputs if transposed else call.outputs)[0].shape
    channels_first = getattr(call.operation, "data_format", "") == "channels_first"
    spatial = shape[2:] if channels_first else shape[1:-1]
    if None in spatial:
        raise ValueError(
            "Expected `model` to have a fixed input size, so that its MACs can be "
            "counted: build it with `keras.Input((height, width, channels))`. "
            f"Received: layer '{call.name}' on a tensor of shape {shape}"
        )
    return math.prod(spatial)


def _columns(terms):
    """`(coefficients, first, second)`, one array each."""
    coefficients, first, second = np.array(terms, dtype=float).reshape(-1, 3).T
    return coefficients, first.astype(int), second.astype(int)
