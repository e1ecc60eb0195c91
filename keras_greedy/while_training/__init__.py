"""Pruning while a model trains, in the way of TF-MOT: wrap, fit, strip."""

from keras_greedy.while_training.callbacks import (
    GreedySelectionStep,
    SelectionSummaries,
)
from keras_greedy.while_training.layers import GreedyChannels, prune_scope
from keras_greedy.while_training.schedules import (
    ConstantWidth,
    LayerByLayer,
    PolynomialWidth,
)
from keras_greedy.while_training.wrap import prune_greedy, strip_pruning

__all__ = [
    "ConstantWidth",
    "GreedyChannels",
    "GreedySelectionStep",
    "LayerByLayer",
    "PolynomialWidth",
    "SelectionSummaries",
    "prune_greedy",
    "prune_scope",
    "strip_pruning",
]
