"""Pruning while a model trains, in the way of TF-MOT: wrap, fit, strip."""

from keras_greedy.while_training.callbacks import GreedySelectionStep
from keras_greedy.while_training.layers import GreedyChannels, prune_scope
from keras_greedy.while_training.schedules import (
    ConstantWidth,
    LayerByLayer,
    PolynomialWidth,
    SelectionSchedule,
)
from keras_greedy.while_training.strip import strip_pruning
from keras_greedy.while_training.summaries import SelectionSummaries
from keras_greedy.while_training.wrap import prune_greedy

__all__ = [
    "ConstantWidth",
    "GreedyChannels",
    "GreedySelectionStep",
    "LayerByLayer",
    "PolynomialWidth",
    "SelectionSchedule",
    "SelectionSummaries",
    "prune_greedy",
    "prune_scope",
    "strip_pruning",
]
