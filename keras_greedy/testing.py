"""Checks that a model, or a rule of one's own, is pruned right: compact == gated.

The gate points of a group are the inputs of its consumers. Everywhere else in
the group a BatchNorm beta or an activation with f(0) != 0 would leak a constant
behind the gate; at the consumers, multiplying by 0 equals removing. This holds
for residual streams as well: a gate at the input of every consumer is a gate on
every branch that adds into the stream.

A normalisation over the channels is another function of the kept ones: the compact
model takes its statistics over those alone, and so does the gated one.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.batches import Batches, Data
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.clone import replay_flat
from keras_greedy.graph.rebuild import Cutter, rebuild
from keras_greedy.graph.rules import Rule
from keras_greedy.graph.trace import trace
from tflite_export.checks import is_number


def assert_compact_equals_gated(
    model: keras.Model,
    data: Data,
    share: float = 0.5,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> keras.Model:
    """Raises unless a model without some channels computes as with them at 0.

    A share of each group's channels is drawn at random and removed from one copy of
    the model, and multiplied by 0 in another, at the inputs of the layers that read
    them. Both must give the same outputs: it is the law that a `Rule` has to keep.

    Args:
        model: A built Functional or Sequential model, channels last, with the layers
            to check. Give its weights values that no default has, biases and
            BatchNorm statistics too: zeros and ones hide mistakes.
        data: Inputs of the model, in any form that `prune` accepts; one batch is used.
        share: Of each group's channels to keep; one at least is kept.
        tolerance: The largest difference allowed, as a share of the largest output.
        seed: Of the channels drawn.

    Returns:
        The compact model.

    Raises:
        AssertionError: When the outputs differ; says by how much, and in which group
            where cutting it alone shows the difference.
        ValueError: When nothing can be pruned, or an argument is not as described.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy


    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(
                shape=(shape[-1],), initializer="random_normal", name="factor"
            )

        def call(self, x):
            return x * self.factor


    @keras_greedy.register_rule(Scale)
    class ScaleRule(keras_greedy.Rule):
        weight_axes = {"factor": (keras_greedy.OUT,)}


    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(16), Scale(), keras.layers.Dense(3)]
    )
    x = np.random.default_rng(0).normal(size=(4, 8))
    keras_greedy.testing.assert_compact_equals_gated(model, x)
    ```
    """
    if not is_number(share) or not 0 < share <= 1:
        raise ValueError(
            "Expected `share` to be the share of channels to keep, above 0 and up to "
            f"1. Received: share={share!r}"
        )
    graph = trace(model)
    if not graph.groups:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in graph.unprunable)
        raise ValueError(
            "Expected `model` to have channels that can be pruned. Received: a model "
            f"with none. Kept whole: {reasons or 'nothing'}"
        )
    inputs = Batches(data, graph.functional).first
    x = keras.tree.pack_sequence_as(graph.functional.input, inputs)
    selection = _random_selection(graph, share, np.random.default_rng(seed))
    compact = rebuild(graph, selection)
    error = _difference(compact, gated(graph, selection), x)
    if not error <= tolerance:
        alone = _differences_of_single_groups(graph, selection, x)
        culprits = {name: e for name, e in alone.items() if not e <= tolerance}
        raise AssertionError(
            "Expected the compact model to compute as the gated one, to a tolerance of "
            f"{tolerance:g}. Received: outputs that differ by {error:.2g} of the "
            f"largest. Groups that differ when cut alone: {culprits or 'none'}"
        )
    return compact


def gated(graph: ChannelGraph, selection: dict) -> keras.Model:
    """Builds the full-size model with the channels not selected gated to 0.

    It is the oracle of `rebuild`: both must compute the same function.

    Args:
        graph: The traced model, which is left as it is.
        selection: Group name -> indices of its kept channels.

    Returns:
        A functional model of the full size, with its own copy of the weights.
    """
    kept = graph.kept_mask(selection)
    whole = Cutter(graph, graph.kept_mask({}), {})

    def apply(call: Call, *args: Any, **kwargs: Any) -> Any:
        operation = whole.operation(call.operation)
        operation.name = f"call_{call.index}_{call.operation.name}"
        if call.rule and call.rule.normalizes:
            mask = kept[graph.channels_of(call.inputs[0])]
            return OverKept(call.rule, operation, mask)(args[0])
        if call.rule and call.rule.consumes:
            mask = kept[graph.channels_read(call)]
            gate = keras.layers.Rescaling(
                mask.astype(float).tolist(),
                name=f"gate_{call.index}",
                dtype=getattr(call.operation, "dtype_policy", call.inputs[0].dtype),
            )
            args = (gate(args[0]), *args[1:])
        return whole.apply(call, *args, **kwargs)

    model = replay_flat(graph, apply)
    whole.copy_weights()
    return model


class OverKept(keras.layers.Layer):
    """A layer or an operation whose statistics are over the kept channels only."""

    def __init__(self, rule: Rule, operation: keras.Operation, mask: np.ndarray):
        # A raw operation computes in the type that it is given.
        policy = getattr(operation, "dtype_policy", None)
        super().__init__(dtype=policy, autocast=policy is not None)
        self._rule = rule
        self._operation = operation
        self._mask = mask.astype("float32")
        self.supports_masking = getattr(operation, "supports_masking", False)

    def build(self, shape: tuple) -> None:
        is_built = getattr(self._operation, "built", True)
        if not is_built:
            self._operation.build(shape)

    def compute_output_spec(self, x: keras.KerasTensor) -> keras.KerasTensor:
        return self._operation.compute_output_spec(x)

    def call(self, x: Any) -> Any:
        mask = ops.cast(self._mask, x.dtype)
        return self._rule.over_kept(self._operation, x, mask)


def _random_selection(
    graph: ChannelGraph,
    share: float,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    selection = {}
    for group in graph.groups:
        width = max(1, round(share * group.size))
        drawn = rng.choice(group.size, width, replace=False)
        selection[group.name] = np.sort(drawn)
    return selection


def _differences_of_single_groups(
    graph: ChannelGraph,
    selection: dict,
    x: Any,
) -> dict[str, float]:
    """Returns group name -> the difference when that group alone is cut."""
    differences = {}
    for name, kept in selection.items():
        own = {name: kept}
        compact = rebuild(graph, own)
        differences[name] = _difference(compact, gated(graph, own), x)
    return differences


def _difference(compact: keras.Model, gated: keras.Model, x: Any) -> float:
    """Returns the largest difference of the outputs, as a share of the largest one."""
    worst = 0.0
    pairs = zip(_outputs(compact, x), _outputs(gated, x), strict=True)
    for found, expected in pairs:
        scale = np.abs(expected).max() + np.finfo("float32").tiny
        error = np.abs(found - expected).max() / scale
        if np.isnan(error):
            # NaN would compare as no difference at all.
            return np.inf
        worst = max(worst, float(error))
    return worst


def _outputs(model: keras.Model, x: Any) -> list[np.ndarray]:
    outputs = keras.tree.flatten(model(x, training=False))
    return [ops.convert_to_numpy(output).astype(float) for output in outputs]
