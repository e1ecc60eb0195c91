"""The compact model of some widths, its consumers making up for lost channels."""

from collections.abc import Mapping
from typing import TypeAlias

import keras
import numpy as np

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.fold import foldable_norms
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.state import full_weights
from keras_greedy.selection.consumers import Consumer, consumers_of
from keras_greedy.selection.four_bits import four_bit_layers
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.steps import STEP_RULES

NewWeights: TypeAlias = dict[str, dict[str, np.ndarray]]
"""Layer name -> weight name -> array of the full shape."""


def cut(
    graph: ChannelGraph,
    moments: Moments,
    paths: Mapping[str, SelectionPath],
    widths: Mapping[str, int],
    step: str,
) -> keras.Model:
    """Builds the model in which each group keeps the first channels of its path.

    Args:
        graph: The traced model, which is left as it is.
        moments: Of the inputs of its consumers.
        paths: Group name -> its selection path; groups not named stay whole.
        widths: Group name -> how many channels it keeps.
        step: Name of the step rule, which makes the consumers' new weights.

    Returns:
        The compact model, from `rebuild`.
    """
    selection, weights = reconstructed(graph, moments, paths, widths, step)
    return rebuild(graph, selection, weights)


def reconstructed(
    graph: ChannelGraph,
    moments: Moments,
    paths: Mapping[str, SelectionPath],
    widths: Mapping[str, int],
    step: str,
) -> tuple[dict[str, np.ndarray], NewWeights]:
    """Returns the kept channels of each group and the new weights, for `rebuild`.

    Args:
        graph: As for `cut`, like the others.
        moments: As for `cut`.
        paths: As for `cut`.
        widths: As for `cut`.
        step: As for `cut`.

    Returns:
        Group name -> indices of its kept channels, and layer name -> weight name ->
        array of the full shape.
    """
    selection = {}
    scales_of_groups = {}
    for name, path in paths.items():
        selection[name] = path.kept(widths[name])
        scales_of_groups[name] = path.scale(widths[name])

    scales = graph.scales(scales_of_groups)
    norms = foldable_norms(graph)
    weights: NewWeights = {}
    for name, consumer in consumers_of(graph).items():
        scale = scales[consumer.features]
        is_changed = (scale != 1).any()
        if consumer.reconstructs and is_changed:
            reconstruct = STEP_RULES[step].reconstruct
            kernel, bias = reconstruct(consumer, moments.scatters[name], scale)
            norm = norms.get(consumer.call.index)
            weights |= placed(consumer, norm, kernel, bias)
    return selection, weights


def without_bias(graph: ChannelGraph) -> list[Call]:
    """Returns the readers that need a bias, for the mean of what goes, and lack one."""
    norms = foldable_norms(graph)
    calls = []
    for consumer in consumers_of(graph).values():
        if consumer.needs_bias and consumer.call.index not in norms:
            calls.append(consumer.call)
    return calls


def costs_of_cuts(graph: ChannelGraph) -> Costs:
    """Returns the costs of what `cut` builds, with the biases that it adds."""
    return Costs(graph, without_bias(graph), [*four_bit_layers(graph)])


def placed(
    consumer: Consumer,
    norm: Call | None,
    kernel: np.ndarray,
    bias: np.ndarray,
) -> NewWeights:
    """Returns the weights that get the new kernel and the mean given back.

    The mean goes into the consumer's own bias. Without one, it goes into the moving
    mean of the BatchNorm that could be folded into the consumer: the compact model
    then has no weight that the full one lacks. Only else it makes a new bias.

    Args:
        consumer: The consumer.
        norm: The call of its foldable BatchNorm, if it has one.
        kernel: The new kernel.
        bias: The new bias.
    """
    name = consumer.call.name
    if norm is None or not consumer.needs_bias:
        return {name: consumer.weights(kernel, bias)}
    # A BatchNorm subtracts its moving mean: less of that is more of the output.
    moving_mean = full_weights(norm.operation)["moving_mean"] - bias
    return {
        name: {consumer.weight_name: kernel},
        norm.name: {"moving_mean": moving_mean},
    }
