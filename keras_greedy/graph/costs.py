"""Multiply-accumulates and parameters, of a model or of hypothetical widths."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import keras
import numpy as np
from keras import layers

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.rules.base import IN, OUT, Axes
from keras_greedy.graph.rules.elementwise import DEPTHWISE
from keras_greedy.graph.rules.linear import CONVOLUTIONS, SEPARABLE, TRANSPOSED
from keras_greedy.graph.trace import has_graph, trace_quietly

# The layers whose kernels make multiply-accumulates.
COUNTED = (layers.Dense, *CONVOLUTIONS, *TRANSPOSED, *DEPTHWISE, *SEPARABLE)

# The row of the counts that is 1 at all widths: the factor of an axis without channels.
ONE = 0

# Group name -> width, or an array of widths to try.
Widths: TypeAlias = Mapping[str, Any]
# An int, or an array where a width is an array.
Cost: TypeAlias = Any


def macs(model: keras.Model) -> int:
    """Returns the multiply-accumulates of one input through `model`.

    Convolutions and dense layers count, as is usual, those of a model inside the
    model too; per-channel work, recurrence and attention do not.

    Args:
        model: A built Functional or Sequential model with a fixed input size.

    Returns:
        The number of multiply-accumulates.

    Raises:
        ValueError: When `model` has no graph, or no fixed input size.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(4, 3, padding="same"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2),
        ]
    )
    # At 8 x 8 positions a kernel of 3 x 3 x 3 x 4, then a matrix of 4 x 2.
    assert keras_greedy.macs(model) == 8 * 8 * 3 * 3 * 3 * 4 + 4 * 2
    ```
    """
    return Costs(trace_quietly(model)).macs()


def count_params(model: keras.Model) -> int:
    """Returns the number of parameters of `model`, as Keras counts them.

    Args:
        model: A built model.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert keras_greedy.count_params(model) == 4 * 3 + 3
    ```
    """
    return model.count_params()


class Costs:
    """MACs and parameters as functions of the widths of a graph's groups.

    Each weight contributes `coefficient * n_first * n_second`, where the counts
    are of the channels along two of its axes. Each count is linear in the widths: a
    constant plus so many positions per channel of each group.

    Args:
        graph: The traced model.
    """

    def __init__(self, graph: ChannelGraph):
        self._sizes: dict[str, float] = {}
        for group in graph.groups:
            self._sizes[group.name] = float(group.size)
        rows = _CountRows(graph.groups)
        mac_terms: list[_Term] = []
        param_terms: list[_Term] = []
        seen: set[keras.Operation] = set()
        for call in graph.calls:
            if not call.is_layer:
                continue
            if has_graph(call.operation):
                # A model that is not seen through has all of its channels.
                mac_terms.append(_Term(macs(call.operation), ONE, ONE))
            counts = _axis_counts(graph, call, rows)
            for name, weight in call.weights.items():
                term = _term(call, name, weight.shape, counts)
                # Shared weights are there once, but work at every call.
                if call.operation not in seen:
                    param_terms.append(term)
                if isinstance(call.operation, COUNTED) and name.endswith("kernel"):
                    coefficient = term.coefficient * _positions(call)
                    mac_terms.append(term._replace(coefficient=coefficient))
            seen.add(call.operation)
        self._counts = rows.matrix()
        self._macs = _Terms.of(mac_terms)
        self._params = _Terms.of(param_terms)

    def macs(self, widths: Widths | None = None) -> Cost:
        """Returns the MACs when the named groups have these widths, the others all.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            An int, or an array when a width is one.
        """
        return self._total(self._macs, widths or {})

    def params(self, widths: Widths | None = None) -> Cost:
        """Returns the parameters, as `macs`.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            An int, or an array when a width is one.
        """
        return self._total(self._params, widths or {})

    def _total(self, terms: "_Terms", widths: Widths) -> Cost:
        chosen = []
        for name, size in self._sizes.items():
            chosen.append(widths.get(name, size))
        # (G + 1, ...): the widths of the G groups, and 1 for the constants. Arrays of
        # widths to try add their axes behind.
        columns = np.array(np.broadcast_arrays(*chosen, 1.0))
        # (K, G + 1) x (G + 1, ...) -> (K, ...): every count at these widths.
        counts = np.tensordot(self._counts, columns, axes=1)
        # (T, ...): of each of the T terms the entries of two of the weight's axes.
        products = counts[terms.first] * counts[terms.second]
        # (T,) x (T, ...) -> (...): the sum over the terms.
        total = np.tensordot(terms.coefficients, products, axes=1)
        # Costs are whole numbers; a group's share of a count need not be.
        if np.ndim(total) > 0:
            return np.rint(total)
        return round(float(total))


class _CountRows:
    """Counts of channels, each a row `(G + 1,)` that is linear in the G widths.

    The last entry is the constant. Row `ONE` counts 1 at all widths.
    """

    def __init__(self, groups: Sequence[ChannelGroup]):
        self._length = len(groups) + 1
        # Channel number -> its group, and the part of the group's width that it is.
        self._share_of: dict[int, tuple[int, float]] = {}
        for i, group in enumerate(groups):
            for channel in group.channels:
                self._share_of[channel] = (i, 1 / group.size)
        one = np.zeros(self._length)
        one[-1] = 1.0
        self._rows = [one]

    def add(self, channels: np.ndarray) -> int:
        """Adds the count of the positions `(C,)` with these channel numbers.

        Returns:
            The index of its row.
        """
        row = np.zeros(self._length)
        for channel in channels:
            # Channels of no group stay: they are part of the constant.
            group, share = self._share_of.get(channel, (-1, 1))
            row[group] += share
        self._rows.append(row)
        return len(self._rows) - 1

    def matrix(self) -> np.ndarray:
        """Returns the `(K, G + 1)` rows."""
        return np.array(self._rows)


class _Term(NamedTuple):
    """A weight's part of a cost: `coefficient * counts[first] * counts[second]`."""

    coefficient: float
    first: int
    second: int


class _Terms(NamedTuple):
    """All terms of a cost, `(T,)` each."""

    coefficients: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, terms: Sequence[_Term]) -> "_Terms":
        """Puts terms into arrays; a cost may have none."""
        coefficients = [term.coefficient for term in terms]
        first = [term.first for term in terms]
        second = [term.second for term in terms]
        return cls(
            np.array(coefficients, dtype=float),
            np.array(first, dtype=int),
            np.array(second, dtype=int),
        )


class _AxisCount(NamedTuple):
    """The channels that an axis runs over: how many in the whole model, and a row."""

    full: int
    row: int


def _axis_counts(
    graph: ChannelGraph,
    call: Call,
    rows: _CountRows,
) -> dict[str, _AxisCount]:
    """Returns the counts of the channels going `IN` and `OUT`; none without a rule."""
    if not call.rule:
        return {}
    tensors = {
        IN: call.inputs[0],
        OUT: call.outputs[0],
    }
    counts = {}
    for axis, tensor in tensors.items():
        channels = graph.channels_of(tensor)
        row = rows.add(channels)
        counts[axis] = _AxisCount(len(channels), row)
    return counts


def _term(
    call: Call,
    name: str,
    shape: tuple[int, ...],
    counts: dict[str, _AxisCount],
) -> _Term:
    """Returns the entries of a weight of this shape as a term."""
    axes: Axes = ()
    if call.rule:
        axes = call.rule.axes_of(name, len(shape))
    cut = [counts[axis] for axis in axes if axis]
    # All entries over those of the axes that are cut: an axis may have several entries
    # for each channel, or, in a grouped convolution, fewer.
    entries_cut = math.prod(count.full for count in cut)
    coefficient = math.prod(shape) / entries_cut
    rows = [count.row for count in cut]
    # A weight has two axes of channels at most; the others do not change.
    first, second, *_ = [*rows, ONE, ONE]
    return _Term(coefficient, first, second)


def _positions(call: Call) -> int:
    """Returns the number of positions that the kernel is applied at."""
    # A transposed convolution applies its kernel at each position of its input.
    tensor = call.outputs[0]
    if isinstance(call.operation, TRANSPOSED):
        tensor = call.inputs[0]
    shape = tensor.shape
    spatial = shape[1:-1]
    if getattr(call.operation, "data_format", "") == "channels_first":
        spatial = shape[2:]
    if None in spatial:
        raise ValueError(
            "Expected `model` to have a fixed input size, so that its MACs can be "
            "counted: build it with `keras.Input((height, width, channels))`. "
            f"Received: layer '{call.name}' on a tensor of shape {shape}"
        )
    return math.prod(spatial)
