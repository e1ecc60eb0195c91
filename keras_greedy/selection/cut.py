"""The compact model of some widths, its consumers making up for what is gone."""

import keras

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.clone import full_weights
from keras_greedy.graph.fold import foldable_norms
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.moments import Moments
from keras_greedy.selection.path import SelectionPath
from keras_greedy.selection.steps import STEP_RULES


def cut(
    graph: ChannelGraph,
    moments: Moments,
    paths: dict[str, SelectionPath],
    widths: dict[str, int],
    step: str,
) -> keras.Model:
    """Builds the model in which each group keeps the first channels of its path.

    Args:
        graph: The traced model, which is left as it is.
        moments: What its consumers read.
        paths: Group name -> its selection path; groups not named stay whole.
        widths: Group name -> how many channels it keeps.
        step: Name of the step rule, which says what weights the consumers get.

    Returns:
        What `rebuild` returns.
    """
    return rebuild(graph, *reconstructed(graph, moments, paths, widths, step))


def reconstructed(graph, moments, paths, widths, step) -> tuple[dict, dict]:
    """The kept channels of each group and the new weights, as `rebuild` takes them.

    Arguments are those of `cut`.
    """
    selection = {name: path.kept(widths[name]) for name, path in paths.items()}
    scales = {name: path.scale(widths[name]) for name, path in paths.items()}
    scales, norms = graph.scales(scales), foldable_norms(graph)
    weights = {}
    for name, read in consumers_of(graph).items():
        own = scales[read.features]
        if read.reconstructs and (own != 1).any():
            new = STEP_RULES[step].reconstruct(read, moments.scatters[name], own)
            norm = norms.get(read.call.index)
            weights |= _replacing(read, norm, *new)
    return selection, weights


def _replacing(read, norm, kernel, bias) -> dict[str, dict]:
    """Where the new kernel and the given-back mean go.

    Into the consumer's own bias; without one, into the moving mean of the BatchNorm
    that could be folded into the consumer, and only else into a new bias.
    """
    name, new = read.call.name, {read.weight_name: kernel}
    if read.call.operation.use_bias or norm is None:
        return {name: new | {"bias": bias}}
    moving_mean = full_weights(norm.operation)["moving_mean"] - bias
    return {name: new, norm.name: {"moving_mean": moving_mean}}
