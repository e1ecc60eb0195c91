"""Structured pruning for Keras 3 by greedy forward selection."""
from keras_greedy.graph.costs import count_params, macs
from keras_greedy.graph.trace import trace

__version__ = "0.1.0"
