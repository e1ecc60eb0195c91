"""Policies: the groups of channels that may be pruned."""

import dataclasses
from collections.abc import Collection

import keras

from keras_greedy.graph.channels import ChannelGraph, ChannelGroup


class PruningPolicy:
    """Says for each group whether it may be pruned; as it stands, all may.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_greedy


    class HiddenOnly(keras_greedy.PruningPolicy):
        def allow_pruning(self, group):
            return group.name.startswith("hidden")


    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu", name="stem"),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    x = np.random.default_rng(0).random((32, 16))
    compact = keras_greedy.prune(model, x, 0.7, policy=HiddenOnly())
    print(compact.get_layer("stem").units, compact.get_layer("hidden").units)
    ```
    """

    def allow_pruning(self, group: ChannelGroup) -> bool:
        """Returns whether this group may be pruned.

        Args:
            group: A group of the model's graph.
        """
        return True

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises a ValueError when the policy makes no sense for this model.

        Args:
            model: The model to prune.
        """


class LeaveStemAndHead(PruningPolicy):
    """Leaves whole the groups at both ends of the model.

    Those are the groups made from the model's input, and those that the layers making
    its output read.

    Example:

    ```python
    import keras
    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, name="stem"),
            keras.layers.Dense(32, name="middle"),
            keras.layers.Dense(32, name="last"),
            keras.layers.Dense(10),
        ]
    )
    policy = keras_greedy.LeaveStemAndHead()
    for group in keras_greedy.trace(model).groups:
        print(group.name, policy.allow_pruning(group))
    ```
    """

    def allow_pruning(self, group: ChannelGroup) -> bool:
        """Returns whether the group is at neither end."""
        return not (group.is_stem or group.is_head)


class PruneForLatencyOnXNNPack(LeaveStemAndHead):
    """Prunes where XNNPACK, the CPU kernels of LiteRT, gets faster by it.

    Stem and head stay whole, and so do groups of less than 16 channels: widths are
    rounded to multiples of 8 (`Budget.round_to`), for which its kernels are made.
    The model must compute in float32.

    Attributes:
        least_size: The least number of channels of a group that may be pruned.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.Conv2D(32, 1, activation="relu", name="middle"),
            keras.layers.Conv2D(16, 1, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    images = np.random.default_rng(0).random((32, 8, 8, 3))
    policy = keras_greedy.PruneForLatencyOnXNNPack()
    compact = keras_greedy.prune(model, images, 0.8, policy=policy)
    print(compact.get_layer("middle").filters)
    ```
    """

    # Two widths at least to choose from, in multiples of 8.
    least_size = 16

    def allow_pruning(self, group: ChannelGroup) -> bool:
        """Returns whether the group is wide enough, and at neither end."""
        return super().allow_pruning(group) and group.size >= self.least_size

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises a ValueError unless all layers compute in float32."""
        others = {}
        for layer in model.layers:
            if layer.weights and layer.compute_dtype != "float32":
                others[layer.name] = layer.compute_dtype
        if others:
            raise ValueError(
                "Expected `model` to compute in float32 for PruneForLatencyOnXNNPack, "
                "as its `.tflite` does: set the layers' dtype, or take another "
                f"policy. Received: layers that compute in {others}"
            )


def allowed(graph: ChannelGraph, policy: PruningPolicy | None) -> ChannelGraph:
    """Returns the graph with the groups that a policy allows; all for `None`.

    Args:
        graph: The graph of the model to prune.
        policy: The value that the user gave.

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
    """Returns the graph with the groups of these names alone: all others stay whole.

    Args:
        graph: The graph of the whole model.
        names: The names to keep.
    """
    groups = [group for group in graph.groups if group.name in names]
    return dataclasses.replace(graph, groups=groups)


def check_has_groups(graph: ChannelGraph) -> None:
    """Raises a ValueError when there is nothing to prune."""
    if graph.groups:
        return
    reasons = [f"{layer}: {reason}" for layer, reason in graph.unprunable]
    kept_whole = f"Kept whole: {'; '.join(reasons)}" if reasons else ""
    raise ValueError(
        "Expected `model` to have channels that can be pruned: a layer whose "
        "channels only other layers read. Received: a model with none. " + kept_whole
    )
