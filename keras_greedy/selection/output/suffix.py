"""The network behind one group, as a function of a mixture of its channels.

The part before the group's first consumer does not depend on the mixture: it is
computed once per batch. A consumer whose input lies there too is linear in the
weights, so a step towards one channel changes its output by a rank-one term, and
many candidates are evaluated as one batch without computing the consumer again
(`rank_one`).
Consumers further behind (of a residual stream) read a scaled input.
"""

from typing import Any

import numpy as np
from keras import ops

from keras_greedy.backend import Tensor, compiled, gradients_of_each
from keras_greedy.devices import gathered, split, summed
from keras_greedy.graph.calls import Call, one_by_one
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.outputs import outputs_of
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.moments.fisher import uniform_draws
from keras_greedy.selection.output.mixed_consumer import (
    MixedConsumer,
    gate_of,
    places_of,
    spread,
)
from keras_greedy.selection.output.rank_one import RankOne
from keras_greedy.training.losses import LossPerExample

CANDIDATES_AT_ONCE = 4
"""As many as are left of a race, so that none is evaluated to fill up a batch."""


class Suffix:
    """Evaluates mixtures of a group's channels by the output of the whole network.

    Args:
        graph: The traced model.
        group: One of its groups, of N channels.
        moments: Of the inputs of the group's consumers. The mean of what a mixture
            changes goes to their biases, as in `rescaled`.
        loss: Maps lists of outputs and of targets to `(n,)` loss per example.

    Attributes:
        channels: N.
        is_read: `(N,)` mask of the channels that a consumer has a weight for, not 0.
        kinds: The `Output` of each of the network's outputs.
        prefix: Maps the network's inputs to `live`, the list of the tensors that are
            made before the first consumer and needed from it on.
        outputs: Maps `live` and the mixture `(N,)`, or `(n, N)` mixtures, to the list
            of the network's outputs.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        group: ChannelGroup,
        moments: Moments,
        loss: LossPerExample,
    ):
        self._graph = graph
        self._loss = loss
        self.channels = group.size
        self.kinds = outputs_of(graph)
        self._first = group.first_reader
        self._before = graph.live_before(self._first)
        consumers = consumers_of(graph)
        self._consumers = {
            name: MixedConsumer(consumers[name], graph, group, moments.scatters[name])
            for name in group.consumer_names
        }
        reads = [consumer.is_read for consumer in self._consumers.values()]
        self.is_read: np.ndarray = np.any(reads, axis=0)
        self._normalizer_places = {
            call.index: places_of(graph, group, call) for call in group.normalizers
        }
        # Their input does not depend on the mixture.
        self._direct = [
            RankOne(call, self._consumers[call.name], graph, group)
            for call in group.consumers
            if call.inputs[0] in self._before and consumers[call.name].has_contributions
        ]
        self.prefix = compiled(self._run_prefix)
        self.outputs = compiled(self._run_outputs)
        self._compiled_total = compiled(self._run_total)
        self._compiled_slopes = compiled(self._run_slopes)
        self._compiled_bases = compiled(self._run_bases)
        self._compiled_trials = compiled(self._run_trials)

    def trials(
        self,
        live: list,
        targets: list,
        weights: np.ndarray,
        channels: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        """Returns the loss after each of some steps `a <- (1 - g) a + g e_i`.

        Args:
            live: From `prefix`, of n examples.
            targets: Compared with the outputs by `loss`, for n examples.
            weights: `(N,)` the mixture a.
            channels: `(K,)` the i of each step.
            sizes: `(K,)` the g of each step.

        Returns:
            `(K,)` loss, summed over the examples.
        """
        # Always the same number at once, so that the function is compiled once.
        missing = -len(channels) % CANDIDATES_AT_ONCE
        channels = np.pad(channels, (0, missing))
        channels = channels.reshape(-1, CANDIDATES_AT_ONCE)
        sizes = np.pad(sizes, (0, missing)).astype("float32")
        sizes = sizes.reshape(-1, CANDIDATES_AT_ONCE)
        mixture = weights.astype("float32")
        bases = self._compiled_bases(live, mixture) if self._direct else []
        parts = []
        for some_channels, some_sizes in zip(channels, sizes, strict=True):
            part = self._compiled_trials(
                live,
                bases,
                targets,
                mixture,
                some_channels,
                some_sizes,
            )
            parts.append(summed(part))
        losses = np.concatenate([ops.convert_to_numpy(part) for part in parts])
        return losses[: losses.size - missing].astype(float)

    def gram(self) -> np.ndarray:
        """Returns the `(N, N)` Gram matrix of the channels' contributions, summed."""
        grams = [consumer.gram() for consumer in self._consumers.values()]
        return np.sum(grams, axis=0)

    def loss(self, live: list, targets: list, weights: np.ndarray) -> float:
        """Returns the loss at the mixture, summed over the examples."""
        mixture = weights.astype("float32")
        return float(summed(self._compiled_total(live, targets, mixture)))

    def slopes(
        self,
        live: list,
        targets: list,
        weights: np.ndarray,
        rng: np.random.Generator,
    ) -> list[np.ndarray]:
        """Returns the first derivatives of each example at the mixture.

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
        examples = len(gathered(targets)[0])
        uniform = split(uniform_draws(self._graph, examples, rng))
        mixture = weights.astype("float32")
        found = gathered(self._compiled_slopes(live, targets, uniform, mixture))
        return [ops.convert_to_numpy(part).astype(float) for part in found]

    def _run_prefix(self, inputs: list) -> list:
        before = self._graph.calls[: self._first]
        values = self._graph.run(self._graph.feed(inputs), before, _apply)
        return [values[tensor] for tensor in self._before]

    def _run_outputs(self, live: list, weights: Tensor) -> list:
        # The mean-field scale: all channels alike, a_i = 1 / N, are the full network.
        scale = self.channels * ops.reshape(weights, (-1, self.channels))
        values = dict(zip(self._before, live, strict=True))
        return self._forward(values, {}, scale)

    def _run_total(self, live: list, targets: list, weights: Tensor) -> Tensor:
        return ops.sum(self._loss(self._run_outputs(live, weights), targets))

    def _run_slopes(
        self,
        live: list,
        targets: list,
        uniform: list,
        weights: Tensor,
    ) -> list[Tensor]:
        def totals(mixtures: Tensor) -> list[Tensor]:
            outputs = self._run_outputs(live, mixtures)
            along_draws = []
            for kind, output, u in zip(self.kinds, outputs, uniform, strict=True):
                # Its gradient is that of -log p: the draws are held fixed.
                draw = ops.stop_gradient(kind.sampled_gradient(output, u))
                along_draws.append(ops.sum(output * draw))
            return [ops.sum(self._loss(outputs, targets)), sum(along_draws)]

        # A mixture of its own for each example gives the derivatives of each.
        examples = ops.shape(targets[0])[0]
        row = ops.reshape(weights, (1, -1))
        mixtures = ops.tile(row, (examples, 1))
        return gradients_of_each(totals, mixtures)

    def _run_bases(self, live: list, weights: Tensor) -> list[list[Tensor]]:
        values = dict(zip(self._before, live, strict=True))
        scale = self.channels * weights
        return [own.bases(values[own.call.inputs[0]], scale) for own in self._direct]

    def _run_trials(
        self,
        live: list,
        bases: list[list[Tensor]],
        targets: list,
        weights: Tensor,
        channels: Tensor,
        sizes: Tensor,
    ) -> Tensor:
        """Returns the `(K,)` loss of K candidates, stacked as one batch of K n."""
        values = dict(zip(self._before, live, strict=True))
        examples = ops.shape(targets[0])[0]
        scale = self.channels * weights
        made = {}
        for own, own_bases in zip(self._direct, bases, strict=True):
            x = values[own.call.inputs[0]]
            made[own.call.index] = own.mixed(x, own_bases, channels, sizes)
        # `(K, N)` scales N ((1 - g) a + g e_i) of the candidates.
        picked = self.channels * ops.one_hot(channels, self.channels)
        g = sizes[:, None]
        scales = (1 - g) * scale + g * picked
        for tensor in values:
            if tensor not in self._read_once:
                values[tensor] = _tiled(values[tensor])
        scale_of_each = ops.repeat(scales, examples, axis=0)
        outputs = self._forward(values, made, scale_of_each)
        losses = self._loss(outputs, [_tiled(target) for target in targets])
        by_candidate = ops.reshape(losses, (CANDIDATES_AT_ONCE, -1))
        return ops.sum(by_candidate, axis=1)

    def _forward(self, values: dict, made: dict[int, Tensor], scale: Tensor) -> list:
        """Returns the network's outputs.

        Args:
            values: Tensor -> value, of those live before the first consumer.
            made: Index of a call -> the consumer's output before its activation, where
                it is there already. That of the layer behind, if it is pushed
                through one.
            scale: `(1 or n, N)` the scales of the channels.
        """

        behind = {own.behind.index for own in self._direct if own.behind is not None}

        def apply(call: Call, *args: Any, **kwargs: Any) -> Tensor:
            if call.index in self._normalizer_places:
                mask = ops.cast(scale != 0, "float32")
                gate = gate_of(mask, self._normalizer_places[call.index], args[0])
                assert call.rule is not None  # Only a rule makes a call a normalizer.
                mask = spread(gate, args[0], call.rule.read_axis)
                return call.rule.over_kept(call.operation, args[0], mask)
            if made and call.index in behind:
                return args[0]  # What it makes is what the consumer has made.
            if call.name not in self._consumers:
                return call.compute(*args, **kwargs)
            consumer = self._consumers[call.name]
            linear = made.get(call.index)
            read, *others = one_by_one(args)
            if linear is None:
                linear = consumer.linear(read, scale)
            return consumer.activate(linear, *others, **kwargs)

        rest = self._graph.calls[self._first :]
        values = self._graph.run(values, rest, apply)
        return [values[tensor] for tensor in self._graph.outputs]

    @property
    def _read_once(self) -> set:
        """The tensors that only the direct consumers read, who have read them."""
        direct = [own.call for own in self._direct]
        rest = self._graph.calls[self._first :]
        others = [call for call in rest if call not in direct]
        read_by_others = {tensor for call in others for tensor in call.inputs}
        return {call.inputs[0] for call in direct} - read_by_others


def _tiled(x: Tensor) -> Tensor:
    """Returns `(K n, ...)`: x once for each candidate."""
    once = [1] * (len(x.shape) - 1)
    return ops.tile(x, (CANDIDATES_AT_ONCE, *once))


def _apply(call: Call, *args: Any, **kwargs: Any) -> Any:
    return call.compute(*args, **kwargs)
