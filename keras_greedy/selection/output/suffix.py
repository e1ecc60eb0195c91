"""The network behind one group, as a function of a mixture of its channels.

What lies before the group's first consumer does not depend on the mixture: it is
computed once per batch. A consumer whose input lies there too is linear in the
weights, so a step towards one channel changes its output by a rank-one term, and
many candidates are evaluated as one batch without computing the consumer again.
Consumers further behind (of a residual stream) read a scaled input.
"""

from collections.abc import Callable

import numpy as np
from keras import ops

from keras_greedy.backend import compiled, float32, gradients
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.selection.consumers import Consumer, consumers_of
from keras_greedy.selection.moments import Moments, Scatter
from keras_greedy.selection.moments.mixture import gram

CANDIDATES_AT_ONCE = 8


class Suffix:
    """Evaluates mixtures of a group's channels by what the whole network makes.

    Args:
        graph: The traced model.
        group: One of its groups, of N channels.
        moments: Of what the group's consumers read. The mean of what a mixture
            changes goes to their biases, as in `rescaled`.
        loss: A function of lists of outputs and of targets: `(n,)` loss per example.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        group: ChannelGroup,
        moments: Moments,
        loss: Callable,
    ):
        self._graph, self._loss, self.channels = graph, loss, group.size
        self.kinds, self._first = outputs_of(graph), group.first_reader
        self._before = graph.live_before(self._first)
        reads = consumers_of(graph)
        self._consumers = {
            name: _MixedConsumer(reads[name], graph, group, moments.scatters[name])
            for name in group.consumer_names
        }
        self._norms = {c.index: _places(graph, group, c) for c in group.normalizers}
        self._direct = [
            call
            for call in group.consumers
            if call.inputs[0] in self._before and reads[call.name].has_contributions
        ]
        self.prefix = compiled(self._run_prefix)
        self.outputs = compiled(self._run_outputs)
        self._total = compiled(self._run_total)
        self._slopes = compiled(self._run_slopes)
        self._trials = compiled(self._run_trials)

    def trials(self, live, targets, weights, channels, sizes) -> np.ndarray:
        """The loss after each of some steps `a <- (1 - g) a + g e_i`.

        Args:
            live: From `prefix`, of n examples.
            targets: What `loss` compares the outputs with, for n examples.
            weights: `(N,)` the mixture a.
            channels: `(K,)` the i of each step.
            sizes: `(K,)` the g of each step.

        Returns:
            `(K,)` loss, summed over the examples.
        """
        # Always the same number at once, so that the function is compiled once.
        missing = -len(channels) % CANDIDATES_AT_ONCE
        channels = np.pad(channels, (0, missing)).reshape(-1, CANDIDATES_AT_ONCE)
        sizes = np.pad(sizes, (0, missing)).reshape(channels.shape).astype("float32")
        found = [
            self._trials(live, targets, weights.astype("float32"), i, g)
            for i, g in zip(channels, sizes, strict=True)
        ]
        losses = np.concatenate([ops.convert_to_numpy(part) for part in found])
        return losses[: losses.size - missing].astype(float)

    def gram(self) -> np.ndarray:
        """`(N, N)` Gram matrix of the channels' contributions to all consumers."""
        return sum(consumer.gram() for consumer in self._consumers.values())

    def loss(self, live, targets, weights) -> float:
        """The loss at the mixture, summed over the examples."""
        return float(self._total(live, targets, weights.astype("float32")))

    def slopes(self, live, targets, weights, rng: np.random.Generator):
        """The first derivatives of each example at the mixture.

        Args:
            live: From `prefix`, of n examples.
            targets: As for `trials`.
            weights: `(N,)` the mixture a.
            rng: Source of the drawn labels.

        Returns:
            `(n, N)` of the loss, and `(n, N)` of -log p of a label drawn from the
            network's own output: the mean of its square along a direction is the
            Fisher information, the second derivative of the divergence.
        """
        uniform = [
            rng.uniform(1e-6, 1 - 1e-6, (len(targets[0]), *tensor.shape[1:]))
            for tensor in self._graph.outputs
        ]
        uniform = [draws.astype("float32") for draws in uniform]
        found = self._slopes(live, targets, uniform, weights.astype("float32"))
        return [ops.convert_to_numpy(part).astype(float) for part in found]

    def _run_prefix(self, inputs):
        """What is made before the first consumer and needed from it on."""
        before = self._graph.calls[: self._first]
        values = self._graph.run(self._graph.feed(inputs), before, _call)
        return [values[tensor] for tensor in self._before]

    def _run_outputs(self, live, weights):
        """The outputs of the network for the mixture `(N,)`, or `(n, N)` mixtures."""
        scale = self.channels * ops.reshape(weights, (-1, self.channels))
        return self._forward(dict(zip(self._before, live, strict=True)), {}, scale)

    def _run_total(self, live, targets, weights):
        return ops.sum(self._loss(self._run_outputs(live, weights), targets))

    def _run_slopes(self, live, targets, uniform, weights):
        draws = [
            kind.sampled_gradient(output, u)
            for kind, output, u in zip(
                self.kinds, self._run_outputs(live, weights), uniform, strict=True
            )
        ]

        def total(mixtures):
            return self._run_total(live, targets, mixtures[0])

        def along_draws(mixtures):
            outputs = self._run_outputs(live, mixtures[0])
            pairs = zip(outputs, draws, strict=True)
            return sum(ops.sum(output * draw) for output, draw in pairs)

        shape = (ops.shape(targets[0])[0], 1)
        each = ops.tile(ops.reshape(weights, (1, -1)), shape)
        return [gradients(f, [each])[0] for f in (total, along_draws)]

    def _run_trials(self, live, targets, weights, channels, sizes):
        values, made = dict(zip(self._before, live, strict=True)), {}
        examples, scale = ops.shape(targets[0])[0], self.channels * weights
        for call in self._direct:
            consumer, x = self._consumers[call.name], values[call.inputs[0]]
            without = consumer.linear(x, ops.zeros((1, self.channels)))
            with_one = without + self.channels * consumer.contributions(x, channels)
            g = ops.reshape(sizes, (-1, *[1] * len(without.shape)))
            mixed = (1 - g) * consumer.linear(x, scale[None]) + g * with_one
            made[call.index] = ops.reshape(mixed, (-1, *without.shape[1:]))
        picked = self.channels * ops.one_hot(channels, self.channels)
        scales = (1 - sizes[:, None]) * scale + sizes[:, None] * picked
        values |= {k: _tiled(v) for k, v in values.items() if k not in self._read_once}
        outputs = self._forward(values, made, ops.repeat(scales, examples, axis=0))
        losses = self._loss(outputs, [_tiled(target) for target in targets])
        return ops.sum(ops.reshape(losses, (CANDIDATES_AT_ONCE, -1)), axis=1)

    def _forward(self, values, made, scale):
        """The outputs, with what consumers compute before bias where it is made."""

        def apply(call, *args, **kwargs):
            if call.index in self._norms:
                mask = ops.cast(scale != 0, "float32")
                mask = _spread(_gate(mask, self._norms[call.index], args[0]), args[0])
                return call.rule.over_kept(call.operation, args[0], mask)
            if call.name not in self._consumers:
                return call.operation(*args, **kwargs)
            consumer, linear = self._consumers[call.name], made.get(call.index)
            if linear is None:
                linear = consumer.linear(args[0], scale)
            return consumer.activate(linear)

        values = self._graph.run(values, self._graph.calls[self._first :], apply)
        return [values[tensor] for tensor in self._graph.outputs]

    @property
    def _read_once(self):
        """Ids of what only the direct consumers read, who have read it already."""
        return {
            key
            for key in (call.inputs[0] for call in self._direct)
            if all(
                call in self._direct
                for call in self._graph.calls[self._first :]
                if key in call.inputs
            )
        }


class _MixedConsumer:
    """A consumer as a linear function of the scales of the group's channels."""

    def __init__(self, read: Consumer, graph, group: ChannelGroup, scatter: Scatter):
        self._read, self._scatter = read, scatter
        features = read.features_of(group.channels).reshape(group.size, -1)
        self._features, matrix = features, read.matrix()
        by_fold = matrix.reshape(len(matrix), read.folds, -1)
        means = np.einsum("pf,fpo->fo", scatter.mean, by_fold)
        self._kernel = float32(read.kernel(matrix))
        self._bias = float32(read.bias())
        self._entries = features[:, : features.shape[1] // read.taps]
        self._means = float32(means[features].sum(axis=1))
        self._places, self.activate = _places(graph, group, read.call), read.activate

    def gram(self):
        own = self._features.ravel()
        covariance = self._scatter.covariance()[np.ix_(own, own)]
        return gram(covariance, self._read.matrix()[own], len(self._features))

    def linear(self, x, scale):
        """What it computes before its activation, for `(1 or n, N)` scales."""
        gate = self._read.gate(_gate(scale, self._places, x))
        linear = self._read.linear(x * _spread(gate, x), self._kernel)
        shift = ops.matmul(1 - _for_rows(scale, x), self._means)
        return linear + self._bias + _spread(shift, linear)

    def contributions(self, x, channels):
        """`(K, n, ..., outputs)` what single channels add, but for their means."""
        means = ops.take(self._means, channels, axis=0)
        apart = sum(
            self._read.contributions(x, self._kernel, ops.take(entry, channels))
            for entry in self._entries.T
        )
        return apart - ops.reshape(
            means, (-1, *[1] * (len(apart.shape) - 2), means.shape[-1])
        )


def _places(graph, group: ChannelGroup, call) -> np.ndarray:
    """`(C,)` the place in the group of each channel a call reads, N for others."""
    place = {channel: i for i, channel in enumerate(group.channels)}
    channels = graph.channels_of(call.inputs[0])
    return np.array([place.get(channel, group.size) for channel in channels])


def _gate(scale, places, x):
    """`(n, C)` what each channel of `x` is multiplied by, 1 for other groups'."""
    scale = _for_rows(scale, x)
    others = ops.ones((ops.shape(scale)[0], 1))
    return ops.take(ops.concatenate([scale, others], axis=1), places, axis=1)


def _for_rows(scale, x):
    """The scales for each row of `x`: a reshape may make several of one example."""
    return ops.repeat(scale, ops.shape(x)[0] // ops.shape(scale)[0], axis=0)


def _spread(per_example, x):
    """`(n, C)` with axes of length 1 for the positions of `x`."""
    shape = (-1, *[1] * (len(x.shape) - 2), per_example.shape[-1])
    return ops.reshape(per_example, shape)


def _tiled(x):
    return ops.tile(x, (CANDIDATES_AT_ONCE, *[1] * (len(x.shape) - 1)))


def _call(call, *args, **kwargs):
    return call.operation(*args, **kwargs)
