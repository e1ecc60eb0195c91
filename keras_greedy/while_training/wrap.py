"""Puts gates around the layers of a model, and takes them off again."""

from collections.abc import Sequence
from typing import Any, TypedDict, TypeVar

import keras
import numpy as np

from keras_greedy.graph.calls import Call, named_weights
from keras_greedy.graph.channels import ChannelGraph, ChannelGroup
from keras_greedy.graph.clone import Copier, remake
from keras_greedy.graph.model_kinds import check_has_graph
from keras_greedy.graph.rules import public_key, rule_for
from keras_greedy.graph.state import copy_weights, full_weights
from keras_greedy.graph.trace import trace
from keras_greedy.policies import PruningPolicy, allowed, check_has_groups, of_groups
from keras_greedy.processes import check_one_process
from keras_greedy.scopes import on_devices_of_model
from keras_greedy.selection.cut import without_bias
from keras_greedy.training.compiling import own_training
from keras_greedy.while_training.arguments import OF_PRUNE, refuse_others
from keras_greedy.while_training.gated_model import (
    GatedModel,
    can_be_gated,
    inner,
)
from keras_greedy.while_training.layers import (
    ChannelGate,
    GreedyChannels,
    reads_channels,
)
from keras_greedy.while_training.schedules import SelectionSchedule, checked_schedule
from tflite_export.user_warnings import warn_user

# What they make is not cut, or they read no channels.
IN_MODELS = (keras.layers.RNN, keras.layers.Bidirectional, keras.layers.Embedding)
PREPROCESSING = "keras.src.layers.preprocessing."
"""The module of the layers that prepare a model's input."""

ToPrune = TypeVar("ToPrune", keras.Model, keras.Layer, list[keras.Layer])


class Settings(TypedDict):
    """The settings that all wrappers of a model share."""

    selection_schedule: SelectionSchedule
    objective: str
    step: str


def prune_greedy(
    to_prune: ToPrune,
    selection_schedule: SelectionSchedule | None = None,
    *,
    policy: PruningPolicy | None = None,
    objective: str = "global",
    step: str = "corrective",
    **others: Any,
) -> ToPrune:
    """Prepares a model for being pruned while it trains.

    Each layer that reads channels gets a `GreedyChannels` around it, with one gate
    for each group of channels: it is the layers before it, which make the channels,
    that get narrower. A `GreedySelectionStep` among the callbacks of `fit`
    then closes gates as the schedule says, and `strip_pruning` makes the compact
    model. A layer that was wrapped before stays wrapped once, its gates as they are;
    in a model, all wrappers have the new settings.

    Args:
        to_prune: A built Functional or Sequential model, which is not changed; or a
            layer or a list of layers to build a model of. Of these, layers that read
            channels are wrapped, all others come back as they are, and groups with a
            reader that is not wrapped stay whole. A layer that no rule knows, or one
            for whole models only, such as an LSTM, is an error alone, and named by a
            warning in a list.
        selection_schedule: When to select and how much to keep: a `ConstantWidth`
            (half the MACs at the first step is the default), `PolynomialWidth` or
            `LayerByLayer`.
        policy: Of a model, which groups may be pruned; by default all.
        objective: The method by its name, as for `prune`.
        step: The rule for the weights of the channels, as for `prune`.
        **others: None; names that TF-MOT has are answered by the name here.

    Returns:
        A Sequential or Functional model, not compiled; a layer; or a list of layers.

    Raises:
        ValueError: When an argument is not as described.
        TypeError: For other arguments.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 10)), rng.integers(0, 3, 128)

    schedule = keras_greedy.PolynomialWidth(
        0.5, begin_step=0, end_step=6, frequency=2
    )
    wrapped = keras_greedy.prune_greedy(model, schedule)
    wrapped.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    callback = keras_greedy.GreedySelectionStep(x)
    wrapped.fit(x, y, epochs=2, callbacks=[callback])
    compact = keras_greedy.strip_pruning(wrapped)
    ```
    """
    refuse_others("prune_greedy", others, OF_PRUNE)
    settings = Settings(
        selection_schedule=checked_schedule(selection_schedule),
        objective=objective,
        step=step,
    )
    if isinstance(to_prune, keras.Model):
        return _wrapped_model(to_prune, policy, settings)
    is_single = isinstance(to_prune, keras.Layer)
    layers = [to_prune] if is_single else to_prune
    if not isinstance(layers, list | tuple) or not all(map(_is_layer, layers)):
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
    _say_unsupported(layers, is_single)
    wrapped = [
        GreedyChannels(layer, **settings) if _is_gated_alone(layer) else layer
        for layer in layers
    ]
    return wrapped[0] if is_single else wrapped


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, keras.Layer) and not isinstance(layer, keras.Model)


def _say_unsupported(layers: Sequence[keras.Layer], is_single: bool) -> None:
    """Raises a ValueError for a layer without a rule; in a list, warns of it."""
    unsupported = [layer for layer in layers if not _is_supported(layer)]
    if not unsupported:
        return
    if is_single:
        raise ValueError(
            "Expected `to_prune` to be a layer with a rule for its channels, as Dense, "
            "the convolutions and normalizations, or ReLU: leave any other as it is, "
            "give its class a rule by `keras_greedy.register_rule`, or give the model "
            "that it is part of. Received: "
            f"to_prune={unsupported[0]!r} of type {type(unsupported[0]).__name__}"
        )
    named = [f"'{layer.name}' ({type(layer).__name__})" for layer in unsupported]
    warn_user(
        "These layers have no rule for their channels, or one for whole models only. "
        "They come back as they are, and the channels of theirs may stay whole: "
        f"{', '.join(named)}. `keras_greedy.register_rule` gives a class of layers one"
    )


def _is_gated_alone(layer: keras.Layer) -> bool:
    return reads_channels(layer) and not isinstance(layer, IN_MODELS)


def _is_supported(layer: keras.Layer) -> bool:
    """Returns whether it can be gated, or needs no gate to be in a pruned model."""
    is_known = rule_for(public_key(layer), layer) is not None
    is_known = is_known and not isinstance(layer, IN_MODELS)
    # The layers in front of a model: its inputs' channels stay in any case.
    is_at_the_input = isinstance(layer, keras.layers.InputLayer) or (
        type(layer).__module__.startswith(PREPROCESSING)
    )
    return is_known or is_at_the_input or isinstance(layer, GreedyChannels)


@on_devices_of_model
def _wrapped_model(
    model: keras.Model,
    policy: PruningPolicy | None,
    settings: Settings,
) -> keras.Model:
    check_has_graph(model)
    check_one_process("pruning while training")
    _warn_of_own_training(model)
    before = GatedModel(model)
    narrowed = _narrowed(before)
    whole = trace(before.whole.model, look_inside=False)
    check_has_groups(whole)
    # Groups that were narrowed before keep their gates, whatever the policy says now.
    graph = of_groups(whole, {*allowed(whole, policy).widths, *narrowed})
    _warn_of_ungated(graph)
    groups = [group for group in graph.groups if can_be_gated(graph, group)]
    gates = {group.name: _gate_of(group) for group in groups}
    readers = {call.operation: call for group in groups for call in group.readers}
    needs_bias = {call.operation for call in without_bias(of_groups(graph, gates))}

    def make(operation: keras.Operation) -> keras.Operation:
        if operation not in readers:
            return remake(operation)
        call = readers[operation]
        assert call.rule is not None  # Only a rule makes a call a reader.
        changes = {}
        if operation in needs_bias:
            changes = call.rule.nested(operation, {"use_bias": True})
        layer = remake(operation, changes)
        own = [group for group in groups if call in group.readers]
        return GreedyChannels(
            layer,
            **settings,
            gates=[gates[group.name] for group in own],
            places=_places(graph, own, call),
        )

    copier = Copier(make)
    wrapped = copier.model(graph.model)
    for old, new in copier.copies:
        if old in needs_bias:
            _copy_biased(old, inner(new))
        elif isinstance(old, keras.Layer):
            copy_weights(old, inner(new))
    if narrowed:
        GatedModel(wrapped).keep(narrowed, {}, before.errors())
    return wrapped


def _warn_of_own_training(model: keras.Model) -> None:
    own = own_training(model)
    if own:
        methods = ", ".join(f"`{name}`" for name in own)
        warn_user(
            f"The wrapped model is a plain one: the {methods} of "
            f"{type(model).__name__} stays behind. Train it in a loop of your own"
        )


def _warn_of_ungated(graph: ChannelGraph) -> None:
    """Warns of groups that are read by what cannot be wrapped."""
    lines = []
    for group in graph.groups:
        if not can_be_gated(graph, group):
            readers = dict.fromkeys(call.name for call in group.readers)
            lines.append(f"  {group.name}: {', '.join(readers)}")
    if lines:
        listed = "\n".join(lines)
        warn_user(
            "These groups of channels stay whole while the model trains, as no layer "
            "with a gate can take the place of all that reads them. It can not of "
            "operations and attention, nor of a layer that is called on several "
            f"tensors, with a mask, or on other channels again:\n{listed}"
        )


def _narrowed(before: GatedModel) -> dict[str, np.ndarray]:
    """Returns the kept channels of the groups that some are closed of, by name."""
    narrowed = {}
    for name, kept in before.kept().items():
        if len(kept) < before.graph.widths[name]:
            narrowed[name] = kept
    return narrowed


def _gate_of(group: ChannelGroup) -> ChannelGate:
    # Names of layers in nested models have slashes, which names of layers may not, and
    # torch refuses dots in the names of weights.
    name = f"gate_of_{group.name.replace('/', '_')}"
    return ChannelGate(group.size, name=name)


def _places(graph: ChannelGraph, groups: list[ChannelGroup], call: Call) -> list[int]:
    """Returns where each channel of the call's input is in the row of gates.

    Places are counted from 1; that of channels of other groups is 0.
    """
    in_a_row = np.concatenate([group.channels for group in groups])
    place = {channel: i for i, channel in enumerate(in_a_row, 1)}
    channels = graph.channels_of(call.inputs[0])
    return [place.get(channel, 0) for channel in channels]


def _copy_biased(layer: keras.Layer, new: keras.Layer) -> None:
    """Copies the weights to a layer that has a bias more, of zeros."""
    own = full_weights(layer)
    for name, weight in named_weights(new).items():
        if name in own:
            weight.assign(own[name])
