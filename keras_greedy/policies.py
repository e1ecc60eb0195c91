"""Which groups of channels may be pruned."""

import dataclasses
from collections.abc import Collection

import keras

from keras_greedy.graph.channels import ChannelGraph, ChannelGroup


class PruningPolicy:
    """Says which groups may be pruned; as it stands, all.

    Example:

    ```python
    class ExpansionsOnly(keras_greedy.PruningPolicy):
        def allow_pruning(self, group):
            return group.name.endswith("expand")

    keras_greedy.prune(model, images, 0.7, policy=ExpansionsOnly())
    ```
    """

    def allow_pruning(self, group: ChannelGroup) -> bool:
        """Whether this group may be pruned."""
        return True

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises a ValueError when the policy makes no sense for this model."""


class LeaveStemAndHead(PruningPolicy):
    """Leaves whole what the layers at both ends of the model make and read.

    That is the groups made from the model's input, and those that the layers making
    its output read.
    """

    def allow_pruning(self, group):
        return not (group.is_stem or group.is_head)


class PruneForLatencyOnXNNPack(LeaveStemAndHead):
    """Prunes where XNNPACK, the CPU kernels of LiteRT, gets faster by it.

    Stem and head stay whole, and so do groups of less than 16 channels: widths are
    rounded to multiples of 8 (`Budget.round_to`), for which its kernels are made.
    The model must compute in float32.

    Example:

    ```python
    policy = keras_greedy.PruneForLatencyOnXNNPack()
    compact = keras_greedy.prune(model, images, 0.7, policy=policy)
    ```
    """

    least_size = 16

    def allow_pruning(self, group):
        return super().allow_pruning(group) and group.size >= self.least_size

    def ensure_model_supports_pruning(self, model):
        others = {
            layer.name: layer.compute_dtype
            for layer in model.layers
            if layer.weights and layer.compute_dtype != "float32"
        }
        if others:
            raise ValueError(
                "Expected `model` to compute in float32 for PruneForLatencyOnXNNPack, "
                "as its `.tflite` does: set the layers' dtype, or take another "
                f"policy. Received: layers that compute in {others}"
            )


def allowed(graph: ChannelGraph, policy: PruningPolicy | None) -> ChannelGraph:
    """The graph with the groups that a policy allows; all for `None`.

    Raises:
        ValueError: When `policy` is none, does not fit the model, or allows nothing.
    """
    if policy is None:
        return graph
    if not isinstance(policy, PruningPolicy):
        raise ValueError(
            "Expected `policy` to be a keras_greedy.PruningPolicy or None. "
            f"Received: policy={policy!r} of type {type(policy).__name__}"
        )
    policy.ensure_model_supports_pruning(graph.model)
    names = [group.name for group in graph.groups if policy.allow_pruning(group)]
    if graph.groups and not names:
        raise ValueError(
            "Expected `policy` to allow one of the groups at least: "
            f"{', '.join(graph.widths)}. Received: policy={policy!r}, which allows none"
        )
    return of_groups(graph, names)


def of_groups(graph: ChannelGraph, names: Collection[str]) -> ChannelGraph:
    """The graph with none but the groups of these names: all others stay whole."""
    groups = [group for group in graph.groups if group.name in names]
    return dataclasses.replace(graph, groups=groups)
