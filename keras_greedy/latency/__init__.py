"""Latency as a cost: the blocks of a model timed at a few widths."""

from keras_greedy.latency.measure import measure_latencies
from keras_greedy.latency.table import LatencyTable
from keras_greedy.latency.timer import LocalTimer

__all__ = ["LatencyTable", "LocalTimer", "measure_latencies"]
