"""A consumer's input as rows of features, its kernel as a matrix.

A consumer's output at one position is `row @ matrix + bias`. For a k x k convolution
a row is a patch. A Dense layer behind a Flatten multiplies the channels of each
position by a part of its kernel of its own: these positions are its `folds`, and its
rows stay as short as there are channels.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.backend import Tensor
from keras_greedy.graph.calls import Call
from keras_greedy.graph.state import full_weights


class Consumer:
    """The input, kernel and bias of one consumer in a form that all of them share.

    As it stands, a row is the channels of one position.

    Args:
        call: The consumer.
        channels: `(C,)` channel numbers of its input.

    Attributes:
        call: The consumer.
        features: `(F,)` channel number of each feature of a row.
        folds: Positions a row stands for; 1 unless behind a Flatten.
        weight_name: Name of the weight that `matrix` holds.
        taps: How many features of a row stem from one entry of the input's last axis,
            in the way that `contributions` counts them: one for each tap of a kernel.
        reconstructs: Whether its weights can make up for lost channels.
        groups_read: Of how many groups it reads channels.
    """

    weight_name: str = "kernel"
    folds: int = 1
    taps: int = 1
    groups_read: int = 1
    reconstructs: bool = True

    def __init__(self, call: Call, channels: np.ndarray):
        self.call = call
        self.features = channels

    @property
    def has_contributions(self) -> bool:
        """Whether `contributions` can be computed."""
        return True

    def features_of(self, channels: np.ndarray) -> np.ndarray:
        """Returns the indices of the features of these channels, channel by channel.

        Args:
            channels: Channel numbers, in the order wanted.
        """
        place = {channel: i for i, channel in enumerate(channels)}
        places = np.full(len(self.features), -1)
        for feature, channel in enumerate(self.features):
            places[feature] = place.get(channel, -1)
        # The features of other channels, at -1, are sorted to the front.
        ordered = np.argsort(places, kind="stable")
        others = np.count_nonzero(places < 0)
        return ordered[others:]

    def matrix(self) -> np.ndarray:
        """Returns the kernel as `(F, folds * outputs)`, float64."""
        weights = full_weights(self.call.operation)
        kernel = weights[self.weight_name]
        return self.to_matrix(kernel.astype(float))

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel as `(F, folds * outputs)`."""
        return kernel.reshape(len(self.features), -1)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        """Returns a matrix as a kernel: the inverse of `to_matrix`."""
        weight = self.call.weights[self.weight_name]
        return matrix.reshape(weight.shape)

    def bias(self) -> np.ndarray:
        """Returns the `(outputs,)` bias, zeros where the layer has none."""
        weights = full_weights(self.call.operation)
        bias = weights.get("bias")
        if bias is None:
            return np.zeros(self._outputs)
        return bias.astype(float)

    @property
    def needs_bias(self) -> bool:
        """Whether a bias is to be added to the layer, for the mean of what goes."""
        return self.reconstructs and not self.call.operation.use_bias

    def weights(
        self,
        kernel: np.ndarray,
        bias: np.ndarray,
    ) -> dict[str, np.ndarray]:
        """Returns the layer's new weights by name, of a new kernel and bias."""
        return {self.weight_name: kernel, "bias": bias}

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        """Returns the `(n, folds, F)` features of the sampled positions of a batch.

        Args:
            x: The consumer's input, `(batch, ..., C)`.
            positions: `(P,)` numbers of output positions, from `positions`.
        """
        *size, channels = x.shape[1:]
        in_one_row = (-1, math.prod(size), channels)
        flat = ops.reshape(x, in_one_row)
        sampled = ops.take(flat, positions, axis=1)
        return ops.reshape(sampled, (-1, 1, channels))

    def positions(
        self,
        rng: np.random.Generator,
        limit: int,
    ) -> np.ndarray:
        """Returns the `(P,)` numbers of at most `limit` output positions, a sample."""
        return sample(self.call.outputs[0], rng, limit)

    def counted(
        self,
        x: Tensor,
        mask: Tensor,
        positions: Tensor,
    ) -> Tensor | None:
        """Returns which of the `rows` are of positions that are not masked.

        Args:
            x: The consumer's input, `(n, ..., C)`.
            mask: Booleans of its first axes, true for the positions to look at.
            positions: As for `rows`.

        Returns:
            `(rows,)` Booleans, or `None` where a row is no position.
        """
        if len(x.shape) == 2:
            return None
        ones = [1] * (len(x.shape) - 1 - len(mask.shape))
        mask = ops.reshape(mask, (*ops.shape(mask), *ones))
        everywhere = ops.ones_like(x[..., 0], dtype="bool")
        of_all = ops.logical_and(mask, everywhere)
        flat = ops.reshape(of_all, (-1, math.prod(x.shape[1:-1])))
        return ops.reshape(ops.take(flat, positions, axis=1), (-1,))

    def usable(
        self,
        count: int,
        mean: np.ndarray,
        scatter: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the part of the rows' moments that the consumer can make use of.

        Args:
            count: Number of rows.
            mean: `(folds, F)` mean of the rows.
            scatter: `(F, F)` centred scatter of the rows.

        Returns:
            `(mean, scatter)`, with zeros for features that no output reads together.
        """
        return mean, scatter

    def gate(self, scales: Tensor) -> Tensor:
        """Returns the factors that the input can be multiplied by.

        Args:
            scales: The factors that the channels should have.
        """
        return scales

    def linear(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Returns the consumer's output before bias and activation."""
        return ops.matmul(ops.cast(x, kernel.dtype), kernel)

    def activate(self, linear: Tensor, *others: Any, **kwargs: Any) -> Any:
        """Returns the consumer's output of `linear` with the bias added.

        Args:
            linear: From `linear`.
            *others: The arguments that the layer is called with behind its input.
            **kwargs: Likewise, as a mask.
        """
        return self.call.operation.activation(linear)

    def apply(
        self,
        x: Tensor,
        kernel: Tensor,
        bias: Tensor,
        *others: Any,
        **kwargs: Any,
    ) -> Any:
        """Returns the consumer's output with another kernel and bias."""
        linear = self.linear(x, kernel)
        return self.activate(linear + bias, *others, **kwargs)

    def contributions(
        self,
        x: Tensor,
        kernel: Tensor,
        at: Tensor,
    ) -> Tensor:
        """Returns the parts of the linear output that stem from single channels.

        Args:
            x: The consumer's input, `(n, ..., C)`.
            kernel: The consumer's kernel.
            at: `(K,)` the first feature of an entry of the last axis, for each
                channel: features F / taps apart are of the same entry.

        Returns:
            `(K, n, ..., outputs)`.
        """
        raise NotImplementedError

    @property
    def _outputs(self) -> int:
        return self.call.outputs[0].shape[-1]


class DenseConsumer(Consumer):
    """A Dense layer on a map: every position is a row."""

    def contributions(
        self,
        x: Tensor,
        kernel: Tensor,
        at: Tensor,
    ) -> Tensor:
        own = ops.take(x, at, axis=-1)
        weights = ops.take(kernel, at, axis=0)
        return outer(own, weights)


class FlattenedConsumer(Consumer):
    """A Dense layer on vectors, which a Flatten may have made of a map.

    Its kernel is `(folds * F, outputs)`: the positions one behind the other. As a
    matrix, `(F, folds * outputs)`, each fold has columns of its own.
    """

    def __init__(self, call: Call, channels: np.ndarray):
        self.folds = _repeats(channels)
        of_one_position = len(channels) // self.folds
        super().__init__(call, channels[:of_one_position])

    def to_matrix(self, kernel: np.ndarray) -> np.ndarray:
        features = len(self.features)
        by_fold = kernel.reshape(self.folds, features, -1)
        by_feature = by_fold.swapaxes(0, 1)
        return by_feature.reshape(features, -1)

    def kernel(self, matrix: np.ndarray) -> np.ndarray:
        features = len(self.features)
        by_feature = matrix.reshape(features, self.folds, self._outputs)
        by_fold = by_feature.swapaxes(0, 1)
        return super().kernel(by_fold)

    def rows(self, x: Tensor, positions: Tensor) -> Tensor:
        # A vector has one position; its folds all belong to the row.
        features = len(self.features)
        return ops.reshape(x, (-1, self.folds, features))

    def contributions(
        self,
        x: Tensor,
        kernel: Tensor,
        at: Tensor,
    ) -> Tensor:
        features = len(self.features)
        x = ops.reshape(x, (-1, self.folds, features))
        kernel = ops.reshape(kernel, (self.folds, features, -1))
        own = ops.take(x, at, axis=2)
        weights = ops.take(kernel, at, axis=1)
        # (n, folds, K) and (folds, K, outputs), summed over the folds alone.
        return ops.einsum("npk,pko->kno", own, weights)


def outer(own: Tensor, weights: Tensor) -> Tensor:
    """Returns the products of channels and their weights, each channel apart.

    Args:
        own: `(n, ..., K)` the values of K channels.
        weights: `(K, outputs)`.

    Returns:
        `(K, n, ..., outputs)`.
    """
    own = ops.moveaxis(own, -1, 0)
    own = ops.expand_dims(own, -1)
    channels, outputs = weights.shape
    # (K, 1, ..., outputs) goes with the (K, n, ..., 1) values.
    ones = [1] * (len(own.shape) - 2)
    weights = ops.reshape(weights, (channels, *ones, outputs))
    return own * weights


def sample(
    tensor: keras.KerasTensor,
    rng: np.random.Generator,
    limit: int,
) -> np.ndarray:
    """Returns the numbers of at most `limit` of a tensor's positions, increasing."""
    return sample_of(math.prod(tensor.shape[1:-1]), rng, limit)


def sample_of(
    positions: int,
    rng: np.random.Generator,
    limit: int,
) -> np.ndarray:
    """Returns at most `limit` of the numbers of so many positions, increasing."""
    if positions <= limit:
        return np.arange(positions)
    chosen = rng.choice(positions, limit, replace=False)
    return np.sort(chosen)


def _repeats(channels: np.ndarray) -> int:
    """Returns how often the channel axis is repeated, as a Flatten does, else 1."""
    length = len(channels)
    # A period can only begin where the first channel comes again.
    again = np.flatnonzero(channels == channels[0])
    for period in again[1:]:
        if length % period:
            continue
        repeats = int(length // period)
        repeated = np.tile(channels[:period], repeats)
        if np.array_equal(channels, repeated):
            return repeats
    return 1
