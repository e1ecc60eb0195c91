"""Puts the gates around the layers of a model, and takes them off again."""

import warnings

import keras
import numpy as np

from keras_greedy.graph.channels import Call, ChannelGraph, named_weights
from keras_greedy.graph.clone import Copier, copy_weights, full_weights, remake
from keras_greedy.graph.trace import trace
from keras_greedy.pipeline import check_has_groups
from keras_greedy.policies import PruningPolicy, allowed, of_groups
from keras_greedy.while_training.gated_model import (
    GatedModel,
    can_be_gated,
    inner,
    without_bias,
)
from keras_greedy.while_training.layers import (
    ChannelGate,
    GreedyChannels,
    checked_schedule,
    reads_channels,
)


def prune_greedy(
    to_prune,
    selection_schedule=None,
    *,
    policy: PruningPolicy | None = None,
    objective: str = "global",
    step: str = "corrective",
):
    """Prepares a model for being pruned while it trains.

    Each layer that reads channels gets a `GreedyChannels` around it, with one gate
    for each group of channels. A `GreedySelectionStep` among the callbacks of `fit`
    then closes gates as the schedule says, and `strip_pruning` makes the compact
    model. A layer that was wrapped before stays wrapped once, its gates as they are;
    in a model, all wrappers have the new settings.

    Args:
        to_prune: A built Functional or Sequential model, which is not changed; or a
            layer or a list of layers to build a model of. Of these, layers that read
            channels are wrapped, all others come back as they are, and groups with a
            reader that is not wrapped stay whole.
        selection_schedule: When to select and how much to keep: a `ConstantWidth`
            (half the MACs at the first step is the default), `PolynomialWidth` or
            `LayerByLayer`.
        policy: Of a model, which groups may be pruned; by default all.
        objective: What a channel is to help with, as for `prune`.
        step: What weights the channels get, as for `prune`.

    Returns:
        A Sequential or Functional model, not compiled; a layer; or a list of layers.

    Raises:
        ValueError: When an argument is not as described.

    Example:

    ```python
    schedule = keras_greedy.PolynomialWidth(0.5, begin_step=0, end_step=2000)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    wrapped.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    callback = keras_greedy.GreedySelectionStep(images)
    wrapped.fit(images, labels, epochs=10, callbacks=[callback])
    compact = keras_greedy.strip_pruning(wrapped)
    ```
    """
    schedule = checked_schedule(selection_schedule)
    settings = {"selection_schedule": schedule, "objective": objective, "step": step}
    if isinstance(to_prune, keras.Model):
        return _wrapped_model(to_prune, policy, settings)
    layers = [to_prune] if isinstance(to_prune, keras.Layer) else to_prune
    if not isinstance(layers, (list, tuple)) or not all(map(_is_layer, layers)):
        raise ValueError(
            "Expected `to_prune` to be a layer, a list of layers, a Sequential or a "
            f"Functional model. Received: to_prune={to_prune!r} of type "
            f"{type(to_prune).__name__}"
        )
    if policy is not None:
        raise ValueError(
            "Expected `policy` with a model: single layers are not in groups yet. "
            f"Received: policy={policy!r} with to_prune={to_prune!r}"
        )
    wrapped = [
        GreedyChannels(layer, **settings) if reads_channels(layer) else layer
        for layer in layers
    ]
    return wrapped[0] if isinstance(to_prune, keras.Layer) else wrapped


def strip_pruning(wrapped: keras.Model) -> keras.Model:
    """Makes the compact model of a wrapped one: plain Keras, without closed channels.

    Args:
        wrapped: A model with `GreedyChannels` layers; it is not changed.

    Returns:
        A Sequential for a Sequential, else a functional `keras.Model`, not compiled;
        it predicts what `wrapped` does.

    Raises:
        ValueError: When `wrapped` is not a Functional or Sequential model.

    Example:

    ```python
    compact = keras_greedy.strip_pruning(wrapped)
    compact.save("compact.keras")
    ```
    """
    return GatedModel(wrapped).compact()


def _is_layer(layer) -> bool:
    return isinstance(layer, keras.Layer) and not isinstance(layer, keras.Model)


def _wrapped_model(model, policy, settings):
    if type(model).train_step is not keras.Model.train_step:
        warnings.warn(
            f"The wrapped model is a plain one: the `train_step` of "
            f"{type(model).__name__} stays behind. Train it in a loop of your own",
            stacklevel=3,
        )
    before = GatedModel(model)
    sizes, kept = before.graph.widths, before.kept()
    narrowed = {name: own for name, own in kept.items() if len(own) < sizes[name]}
    whole = trace(before.whole.model)
    check_has_groups(whole)
    graph = of_groups(whole, {*allowed(whole, policy).widths, *narrowed})
    groups = [group for group in graph.groups if can_be_gated(graph, group)]
    gates = {
        group.name: ChannelGate(
            group.size, name=f"gate_of_{group.name.replace('/', '.')}"
        )
        for group in groups
    }
    readers = {call.operation: call for g in groups for call in g.readers}
    missing = {call.operation for call in without_bias(of_groups(graph, gates))}

    def make(operation):
        if operation not in readers:
            return remake(operation)
        changes = {"use_bias": True} if operation in missing else {}
        own = _gates_of(graph, groups, gates, readers[operation])
        return GreedyChannels(remake(operation, changes), **settings, **own)

    copier = Copier(make)
    wrapped = copier.model(graph.model)
    for old, new in copier.copies:
        if old in missing:
            _copy_biased(old, inner(new))
        elif isinstance(old, keras.Layer):
            copy_weights(old, inner(new))
    if narrowed:
        GatedModel(wrapped).keep(narrowed, {}, before.errors())
    return wrapped


def _gates_of(graph: ChannelGraph, groups, gates, call: Call) -> dict:
    """The gates that a call reads, and where in them each channel of its input is."""
    ids = graph.channels_of(call.inputs[0])
    own = [group for group in groups if call in group.readers]
    numbered = np.concatenate([group.channels for group in own])
    number = {channel: i for i, channel in enumerate(numbered, 1)}
    return {
        "gates": [gates[group.name] for group in own],
        "places": [number.get(channel, 0) for channel in ids],
    }


def _copy_biased(layer, new) -> None:
    """`copy_weights` to a layer that has a bias more, of zeros."""
    own = full_weights(layer)
    for name, weight in named_weights(new).items():
        if name in own:
            weight.assign(own[name])
