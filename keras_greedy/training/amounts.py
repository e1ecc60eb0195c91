"""The layers to train, and how long, by the amount of data."""

import math
from collections.abc import Sequence

import keras
from keras import KerasTensor

from keras_greedy.graph.calls import Call
from keras_greedy.graph.channels import ChannelGraph

EXAMPLES_SEEN = 60_000
"""In all passes together, of a data set that is not larger."""

FEWEST_EPOCHS = 3
MOST_EPOCHS = 60


def epochs_for(examples: int) -> int:
    """Returns the passes over so many examples: the fewer they are, the more."""
    wanted = math.ceil(EXAMPLES_SEEN / examples)
    return min(max(wanted, FEWEST_EPOCHS), MOST_EPOCHS)


def layers_to_freeze(
    graph: ChannelGraph,
    taught: Sequence[KerasTensor],
    examples: float,
) -> list[keras.Layer]:
    """Returns the layers that are to keep their weights in a training.

    They are those that nothing would teach, and the last blocks of an image network, of
    many channels and few positions: a layer of more weights than there are positions,
    in all examples together, would learn them by heart. From the first such layer on,
    what has no more positions than it is frozen; if nothing would be left, none is.

    Args:
        graph: Of the model in training.
        taught: The tensors whose errors are the loss.
        examples: How many there are; infinite, to freeze only what nothing teaches.
    """
    positions = _positions_taught(graph, taught)
    learning = [layer for layer, own in positions.items() if own]
    trained = []
    fewest = 0.0
    for layer in learning:
        own = positions[layer]
        if not fewest and _size(layer) > examples * own:
            fewest = own
        if own > fewest:
            trained.append(layer)
    return [layer for layer in positions if layer not in (trained or learning)]


def _positions_taught(
    graph: ChannelGraph,
    taught: Sequence[KerasTensor],
) -> dict[keras.Layer, float]:
    """Returns of each layer with weights how many positions teach it, in an example."""
    wanted = {*taught}
    positions: dict[keras.Layer, float] = {}
    for call in reversed(graph.calls):
        is_taught = any(tensor in wanted for tensor in call.outputs)
        if is_taught:
            wanted.update(call.inputs)
        if call.weights:
            own = _positions(call) if is_taught else 0
            positions[call.operation] = positions.get(call.operation, 0) + own
    # In topological order again.
    return dict(reversed(positions.items()))


def _positions(call: Call) -> float:
    """Returns the positions of what a call makes; there is no end of unknown ones."""
    sizes = call.outputs[0].shape[1:-1]
    return math.inf if None in sizes else math.prod(sizes)


def _size(layer: keras.Layer) -> int:
    return sum(math.prod(weight.shape) for weight in layer.trainable_weights)
