"""A Keras model as a graph of channels: which ones live and die together.

Every position of every tensor's last axis carries the number of a channel.
Layers that make channels draw fresh numbers, layers that act per channel pass
them on, and joins declare numbers equal. In the end there are classes of equal
positions, which can only be removed together.
"""

import keras

from keras_greedy.graph.calls import config_of
from keras_greedy.graph.carry import Carrier
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.groups import find_groups
from keras_greedy.graph.layout import laid_out
from keras_greedy.graph.model_kinds import check_model, is_subclassed
from tflite_export.user_warnings import warn_user

# Names of layers that a message lists.
NAMES_SHOWN = 3


def trace(model: keras.Model, look_inside: bool = True) -> ChannelGraph:
    """Finds which channels of a model must be cut together.

    Layers without a rule keep all channels they touch, and one warning lists them. One
    without weights is probed on random inputs, as an activation without a rule is: if
    it acts on each channel alone, or reads all of them in a known way, they are cut,
    and another warning names it.

    Args:
        model: A built model, channels last. The layers of models inside it, and of
            layers made of layers, are traced too; a group's name then begins with that
            of the model or layer: `"backbone/conv1"`.
        look_inside: Whether to look into layers made of layers; else they stay whole.

    Returns:
        The `ChannelGraph`.

    Raises:
        ValueError: When `model` is of another kind, or not built.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(8, 3, name="first"),
            keras.layers.BatchNormalization(),
            keras.layers.Conv2D(12, 3, name="second"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5),
        ]
    )
    for group in keras_greedy.trace(model).groups:
        print(group.name, group.size)  # first 8, then second 12
    ```
    """
    graph = trace_quietly(model, look_inside)
    for call in graph.calls:
        config_of(call.operation)  # Raises when it cannot be made anew.
    if graph.unprunable:
        lines = [f"  {name}: {reason}" for name, reason in graph.unprunable]
        listed = "\n".join(lines)
        warn_user(
            f"Some channels of model '{model.name}' stay unpruned because of "
            f"these layers:\n{listed}"
        )
    if graph.probed:
        lines = [f"  {name}: {kind}" for name, kind in graph.probed]
        listed = "\n".join(lines)
        warn_user(
            f"These layers of model '{model.name}' are taken to do to channels what "
            "they do on random inputs. Register rules for the classes or functions to "
            "be sure, as `keras_greedy.register_rule(my_function)(keras_greedy.Rule)` "
            f"if each channel is on its own:\n{listed}"
        )
    return graph


def trace_quietly(model: keras.Model, look_inside: bool = True) -> ChannelGraph:
    """Traces without the warning, for copies of a model traced before."""
    functional = check_model(model)
    if is_subclassed(model):
        model = functional
    layout = laid_out(functional, look_inside)
    carrier = Carrier(functional.inputs, layout.not_laid_out)
    for call in layout.calls:
        carrier.carry(call)
    for one, other in layout.shared_inputs:
        carrier.tie(one, other)
    channels, pins = carrier.finish(layout.outputs)
    groups, unprunable = find_groups(carrier.calls, channels, pins)
    named = {name for name, _ in unprunable}
    for call in carrier.calls:
        reason = layout.not_laid_out.get(call.operation)
        if reason and call.weights and call.name not in named:
            # What it reads and makes stays in any case: what it holds could go.
            unprunable.append((call.name, reason))
            named.add(call.name)
    in_groups = {channel for group in groups for channel in group.channels}
    return ChannelGraph(
        model=model,
        functional=functional,
        calls=carrier.calls,
        outputs=layout.outputs,
        stand_ins=layout.stand_ins,
        inside=layout.inside,
        channels=channels,
        groups=groups,
        unprunable=unprunable,
        whole=carrier.whole,
        probed=carrier.followed_by_probe(in_groups),
    )


def check_channels_last(graph: ChannelGraph) -> None:
    """Raises a ValueError when the layers that make channels have them first."""
    first = []
    for call in graph.calls:
        is_first = getattr(call.operation, "data_format", None) == "channels_first"
        if is_first and call.weights and call.name not in first:
            first.append(call.name)
    if first:
        shown = ", ".join(first[:NAMES_SHOWN])
        more = len(first) - NAMES_SHOWN
        raise ValueError(
            "Expected `model` to have channels last: build it anew with "
            "`data_format='channels_last'` and give it the same weights. Received: a "
            f"model with data_format='channels_first' in the layers {shown}"
            + (f" and {more} more" if more > 0 else "")
        )
