"""Checks that a model, or a rule of one's own, is pruned right: compact == gated."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.batches import Batches, Data
from keras_greedy.exact_products import exact_products
from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.gated import first_difference, gated, relative_error
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.rule_faults import fault
from keras_greedy.graph.rules import IN, public_key, rule_for
from keras_greedy.graph.trace import trace

__all__ = ["assert_compact_equals_gated", "gated"]
from tflite_export.checks import is_number


@exact_products()
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
        model: A built model, channels last, with the layers
            to check. Give its weights values that no default has, biases and
            BatchNorm statistics too: zeros and ones hide mistakes.
        data: Inputs of the model, in any form that `prune` accepts; one batch is used.
        share: Of each group's channels to keep; one at least is kept.
        tolerance: The largest difference allowed, as a share of the largest output.
        seed: Of the channels drawn.

    Returns:
        The compact model.

    Raises:
        AssertionError: When the outputs differ; says by how much, in which group
            where cutting it alone shows the difference, and which layer is the first
            to differ.
        ValueError: When nothing can be pruned, when a rule does not fit its layer, or
            an argument is not as described.

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
    _check_rules(graph)
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
        first = first_difference(graph, selection, inputs, tolerance)
        raise AssertionError(
            "Expected the compact model to compute as the gated one, to a tolerance of "
            f"{tolerance:g}. Received: outputs that differ by {error:.2g} of the "
            f"largest. Groups that differ when cut alone: {culprits or 'none'}"
            f"{_advice(first)}"
        )
    return compact


def _check_rules(graph: ChannelGraph) -> None:
    """Raises a ValueError for a rule of the user's that does not fit its layer."""
    for call in graph.calls:
        registered = rule_for(public_key(call.operation), call.operation)
        is_own = not type(call.operation).__module__.startswith("keras.")
        if registered is None or not is_own:
            continue
        if call.rule is None:
            refused = dataclasses.replace(call, rule=registered)
            raise fault(
                refused,
                "to be one that it can be cut by: with `produces` where it makes "
                "channels of its own, and all of its weights in `weight_axes`",
                f"the layer stays whole, {graph.whole[call.operation]}",
            )
        axes = [axis for own in call.rule.weight_axes.values() for axis in own]
        if call.rule.produces and not call.rule.consumes and IN in axes:
            raise fault(
                call,
                "to say `consumes`, too: weights that run over the channels of the "
                "input, beside channels of its own, say that it reads them",
                "`produces` alone",
            )


def _advice(call: Call | None) -> str:
    """Returns what to do about the first call that differs."""
    if call is None or call.rule is None:
        return ""
    if call.rule.consumes:
        claim = (
            "`consumes`, by which a channel of zeros has to be as good as none: leave "
            "that out where it is not"
        )
    elif call.rule.normalizes:
        claim = (
            "`normalizes`, so that its `over_kept` has to compute what the layer makes "
            "of the kept channels alone"
        )
    else:
        claim = (
            "that it acts on each channel alone: where it reads the others, too, it "
            "has to say `consumes` or `normalizes`"
        )
    return (
        f". The first layer that differs is '{call.name}' of type "
        f"{type(call.operation).__name__}. Its rule, {type(call.rule).__name__}, says "
        f"{claim}. Or else its `weight_axes` are not right: {call.rule.weight_axes}"
    )


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
        worst = max(worst, relative_error(found, expected))
    return worst


def _outputs(model: keras.Model, x: Any) -> list[np.ndarray]:
    outputs = keras.tree.flatten(model(x, training=False))
    return [ops.convert_to_numpy(output).astype(float) for output in outputs]
