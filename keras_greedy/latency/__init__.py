"""Latency as a cost: the blocks of a model timed at a few widths."""

from keras_greedy.latency.measure import LocalTimer, measure_latencies
from keras_greedy.latency.table import LatencyTable

__all__ = ["LatencyTable", "LocalTimer", "measure_latencies"]
