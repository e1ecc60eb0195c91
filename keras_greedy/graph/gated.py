"""The model of the full size with gates: what a compact one has to compute.

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

from keras_greedy.graph.calls import Call, Values, one_by_one
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.clone import replay_flat
from keras_greedy.graph.rebuild import Cutter
from keras_greedy.graph.rule_faults import blamed_on_rule


def gated(graph: ChannelGraph, selection: dict) -> keras.Model:
    """Builds the full-size model with the channels not selected gated to 0.

    It is the oracle of `rebuild`: both must compute the same function.

    Args:
        graph: The traced model, which is left as it is.
        selection: Group name -> indices of its kept channels.

    Returns:
        A functional model of the full size, with its own copy of the weights.
    """
    return _Gated(graph, graph.kept_mask(selection)).model()


def first_difference(
    graph: ChannelGraph,
    selection: dict,
    inputs: list,
    tolerance: float,
) -> Call | None:
    """Returns the first call whose kept channels the compact model has otherwise.

    Args:
        graph: The traced model.
        selection: Group name -> indices of its kept channels, one at least of each.
        inputs: One array per input of the model.
        tolerance: The largest difference allowed, as a share of the largest value.
    """
    kept = graph.kept_mask(selection)
    compact = _Flat(graph, kept).values(inputs)
    full = _Gated(graph, kept).values(inputs)
    for call in graph.calls:
        for tensor in call.outputs:
            left = kept[graph.channels_of(tensor)]
            expected = full[tensor]
            if len(left) == expected.shape[-1]:
                expected = expected[..., left]
            # Channels on other axes than the last are not looked at.
            is_alike = compact[tensor].shape == expected.shape
            if is_alike and not relative_error(compact[tensor], expected) <= tolerance:
                return call
    return None


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference as a share of the largest expected value."""
    scale = np.abs(expected).max() + np.finfo("float32").tiny
    error = float(np.abs(found - expected).max() / scale)
    # NaN would compare as no difference at all.
    return np.inf if np.isnan(error) else error


class _Flat:
    """A model made anew of the channels that are kept, with all of its calls in a row.

    Args:
        graph: The traced model.
        kept: Boolean array over its channel numbers.
    """

    def __init__(self, graph: ChannelGraph, kept: np.ndarray):
        self._graph = graph
        self._cutter = Cutter(graph, kept, {})

    def model(self) -> keras.Model:
        """Returns the model."""
        model = replay_flat(self._graph, self._apply)
        self._cutter.copy_weights()
        return model

    def values(self, inputs: list) -> dict[keras.KerasTensor, np.ndarray]:
        """Returns what each call makes of the model's inputs."""
        self.model()  # Makes the layers, and fills in their weights.
        tensors = [ops.convert_to_tensor(x) for x in inputs]
        found: Values = {}

        def apply(call: Call, *args: Any, **kwargs: Any) -> Any:
            made = self._apply(call, *args, **kwargs)
            for tensor, value in zip(
                call.outputs, keras.tree.flatten(made), strict=True
            ):
                found[tensor] = ops.convert_to_numpy(value).astype(float)
            return made

        self._graph.run_all(tensors, apply)
        return found

    def _apply(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        """Makes one call."""
        # Models inside the model may have layers of the same name.
        operation = self._cutter.operation(call.operation)
        operation.name = f"call_{call.index}_{call.operation.name}"
        return self._cutter.apply(call, *args, **kwargs)


class _Gated(_Flat):
    """The model of the full size, with gates.

    Args:
        graph: The traced model.
        kept: Boolean array over its channel numbers: the gates of the others are 0.
    """

    def __init__(self, graph: ChannelGraph, kept: np.ndarray):
        super().__init__(graph, graph.kept_mask({}))
        self._gates = kept

    def _apply(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        rule = call.rule
        if rule and rule.normalizes:
            operation = self._cutter.operation(call.operation)
            mask = self._gates[self._graph.channels_read(call)]
            return OverKept(call, operation, mask)(args[0])
        if rule and rule.consumes:
            mask = self._gates[self._graph.channels_read(call)]
            gate = keras.layers.Rescaling(
                mask.astype(float).tolist(),
                name=f"gate_{call.index}",
                dtype=getattr(call.operation, "dtype_policy", call.inputs[0].dtype),
            )
            read, *others = one_by_one(args)
            args = call.in_place(gate(read), others)
        return super()._apply(call, *args, **kwargs)


class OverKept(keras.layers.Layer):
    """A layer or an operation whose statistics are over the kept channels only."""

    def __init__(self, normalizing: Call, operation: keras.Operation, mask: np.ndarray):
        # A raw operation computes in the type that it is given.
        policy = getattr(operation, "dtype_policy", None)
        super().__init__(dtype=policy, autocast=policy is not None)
        self._normalizing = normalizing
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
        rule = self._normalizing.rule
        assert rule is not None  # Only a rule makes a call a normalizer.
        expected = "to have an `over_kept` that can be called"
        with blamed_on_rule(self._normalizing, expected):
            return rule.over_kept(self._operation, x, mask)
