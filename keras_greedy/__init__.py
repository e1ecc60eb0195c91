"""Structured pruning for Keras 3 by greedy forward selection."""

from keras_greedy.batch_norm import reestimate_batch_norm
from keras_greedy.finetune import FineTune
from keras_greedy.graph.costs import count_params, macs
from keras_greedy.graph.trace import ChannelGraph, ChannelGroup, trace
from keras_greedy.paths import SelectionPaths, load_paths
from keras_greedy.pipeline import prune, search
from keras_greedy.selection.allocate import Budget

__version__ = "0.1.0"

__all__ = [
    "Budget",
    "ChannelGraph",
    "ChannelGroup",
    "FineTune",
    "SelectionPaths",
    "count_params",
    "load_paths",
    "macs",
    "prune",
    "reestimate_batch_norm",
    "search",
    "trace",
]
