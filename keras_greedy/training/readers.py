"""The layers that read what was cut, in the full model and in the compact one."""

import dataclasses
import functools
from collections.abc import Sequence

import keras
import numpy as np
from keras import KerasTensor, ops

from keras_greedy.backend import Tensor, float32
from keras_greedy.graph.calls import Call, named_weights
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.fold import foldable_norms
from keras_greedy.graph.state import full_weights
from keras_greedy.selection.consumers import Consumer, consumer_of, consumers_of
from keras_greedy.selection.moments import Scatter


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """The other operand of the Add that the output of a layer goes into.

    Attributes:
        full: The tensor in the full model.
        compact: The tensor in the compact one.
        kept: Indices of the channels of `full` that `compact` has.
    """

    full: KerasTensor
    compact: KerasTensor
    kept: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a group that was cut.

    Attributes:
        full: The layer in the full model.
        compact: The layer in the compact one.
        full_norm: The BatchNorm behind it in the full model, if there is one.
        norm: That BatchNorm in the compact one.
        kept: Indices of the outputs of `full` that `compact` has.
        stream: What its output is added to, if it is.
    """

    full: Consumer
    compact: Consumer
    full_norm: keras.Layer | None
    norm: keras.Layer | None
    kept: np.ndarray
    stream: Stream | None

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.compact.call.name

    def target(self, x: Tensor, positions: Tensor) -> Tensor:
        """Returns what the full model makes, `(rows, outputs)`, behind the BatchNorm.

        Args:
            x: What the layer reads in the full model.
            positions: `(P,)` numbers of output positions.
        """
        kernel, scale, shift = self._in_full
        rows = rows_at(self.full.linear(x, kernel), positions)
        return ops.take(rows * scale + shift, self.kept, axis=1)

    def matrix(self, covariance: np.ndarray) -> np.ndarray:
        """Returns the `(F, outputs)` kernel, with the scale of the BatchNorm in it.

        Args:
            covariance: `(F, F)` of the rows, by which the BatchNorm normalises.
        """
        matrix = self.compact.matrix()
        if self.norm is None:
            return matrix
        variance = _variance(matrix, covariance)
        gamma = full_weights(self.norm)["gamma"]
        return matrix * gamma / np.sqrt(variance + self.norm.epsilon)

    def place(self, matrix: np.ndarray, bias: np.ndarray, scatter: Scatter) -> None:
        """Makes the layer and its BatchNorm compute `x @ matrix + bias`.

        Args:
            matrix: `(F, outputs)`.
            bias: `(outputs,)`.
            scatter: Moments of the rows x, first.
        """
        weights = named_weights(self.compact.call.operation)
        weights[self.compact.weight_name].assign(self.compact.kernel(matrix))
        if self.norm is None:
            weights["bias"].assign(bias)
            return
        if "bias" in weights:
            weights["bias"].assign(np.zeros_like(bias))
        features = len(matrix)
        mean = scatter.mean[0, :features] @ matrix
        variance = _variance(matrix, scatter.covariance()[:features, :features])
        # Whatever statistics it is given later, its outputs keep their size.
        self.norm.gamma.assign(np.sqrt(variance + self.norm.epsilon))
        self.norm.beta.assign(mean + bias)
        self.norm.moving_mean.assign(mean)
        self.norm.moving_variance.assign(variance)

    def weights(self) -> list[np.ndarray]:
        """Returns the values of the weights of the layer and its BatchNorm."""
        # Copies: some backends hand out the memory of the variable itself.
        return [np.array(ops.convert_to_numpy(own)) for own in self._variables()]

    def assign(self, weights: Sequence[np.ndarray]) -> None:
        """Sets the values that `weights` returned."""
        for variable, value in zip(self._variables(), weights, strict=True):
            variable.assign(value)

    @functools.cached_property
    def _in_full(self) -> tuple[Tensor, Tensor, Tensor]:
        """The full model's kernel, and the scale and shift `(outputs,)` behind it."""
        kernel = self.full.kernel(self.full.matrix())
        scale, shift = np.ones(1), self.full.bias()
        if self.full_norm is not None:
            norm = full_weights(self.full_norm)
            deviation = np.sqrt(norm["moving_variance"] + self.full_norm.epsilon)
            scale = norm["gamma"] / deviation
            shift = (shift - norm["moving_mean"]) * scale + norm["beta"]
        return float32(kernel), float32(scale), float32(shift)

    def _variables(self) -> list[keras.Variable]:
        layer = self.compact.call.operation
        if self.norm is None:
            return layer.variables
        return [*layer.variables, *self.norm.variables]


def rows_at(x: Tensor, positions: Tensor) -> Tensor:
    """Returns the `(rows, C)` float32 channels of some positions of a batch.

    Args:
        x: `(n, ..., C)`.
        positions: `(P,)` their numbers.
    """
    examples, *_, channels = x.shape
    flat = ops.reshape(ops.cast(x, "float32"), (examples, -1, channels))
    return ops.reshape(ops.take(flat, positions, axis=1), (-1, channels))


def readers_of_cuts(
    graph: ChannelGraph,
    smaller: ChannelGraph,
    kept: np.ndarray,
) -> list[Reader]:
    """Returns the layers that can be fitted to what a cut left of their inputs.

    Args:
        graph: The full model.
        smaller: The compact one.
        kept: Boolean array over the channel numbers of `graph`.

    Returns:
        A `Reader` each, in the order of the network.
    """
    calls = _called_once(graph)
    smaller_calls = _called_once(smaller)
    norms = foldable_norms(graph)
    readers = []
    for name, full in consumers_of(graph).items():
        if name not in calls or name not in smaller_calls:
            continue
        call = smaller_calls[name]
        compact = consumer_of(call, smaller.channels_read(call).ravel())
        norm = norms.get(full.call.index)
        is_cut = not kept[full.features].all()
        if not is_cut or not _can_be_fitted(full, compact, norm):
            continue
        end, smaller_end = full.call, call
        if norm is not None:
            end, smaller_end = norm, smaller_calls[norm.name]
        reader = Reader(
            full=full,
            compact=compact,
            full_norm=None if norm is None else norm.operation,
            norm=None if norm is None else smaller_end.operation,
            kept=np.flatnonzero(kept[graph.channels_of(end.outputs[0])]),
            stream=_stream(graph, smaller, end, smaller_end, call, kept),
        )
        readers.append(reader)
    return readers


def _called_once(graph: ChannelGraph) -> dict[str, Call]:
    """Returns name -> call, of the operations that are called only once."""
    calls: dict[str, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(call.name, []).append(call)
    return {name: own[0] for name, own in calls.items() if len(own) == 1}


def _can_be_fitted(full: Consumer, compact: Consumer, norm: Call | None) -> bool:
    """Returns whether the weights are one matrix, with a place for the mean."""
    rule = compact.call.rule
    if rule is None or rule.made_axis != -1:
        return False
    is_matrix = type(compact).usable is Consumer.usable and compact.folds == 1
    if not is_matrix or type(compact) is not type(full):
        return False
    if norm is None:
        return "bias" in named_weights(compact.call.operation)
    return norm.operation.scale and norm.operation.center


def _stream(
    graph: ChannelGraph,
    smaller: ChannelGraph,
    end: Call,
    smaller_end: Call,
    reading: Call,
    kept: np.ndarray,
) -> Stream | None:
    """Returns what the output of a layer is added to, if that is there before it.

    Args:
        graph: As for `readers_of_cuts`, like `smaller` and `kept`.
        smaller: See there.
        end: The call that makes the output, in the full model.
        smaller_end: That in the compact one.
        reading: The call of the layer in the compact one.
        kept: See above.
    """
    full = _other_operand(graph, end)
    compact = _other_operand(smaller, smaller_end)
    if full is None or compact is None:
        return None
    if not any(compact is tensor for tensor in smaller.live_before(reading.index)):
        return None
    channels = np.flatnonzero(kept[graph.channels_of(full)])
    return Stream(full, compact, channels)


def _other_operand(graph: ChannelGraph, end: Call) -> KerasTensor | None:
    """Returns what an output is added to, if nothing else reads it."""
    (made,) = end.outputs
    reading = graph.calls_reading(made)
    if len(reading) != 1 or not isinstance(reading[0].operation, keras.layers.Add):
        return None
    others = [tensor for tensor in reading[0].inputs if tensor is not made]
    if len(others) != 1 or others[0].shape != made.shape:
        return None
    return others[0]


def _variance(matrix: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """Returns the `(outputs,)` variances of `x @ matrix`."""
    # The diagonal of W' C W.
    return np.einsum("fo,fo->o", matrix, covariance @ matrix)
