"""Selection on second moments of what the consumers read."""

from keras_greedy.selection.moments.scatter import Moments, Scatter, observe

__all__ = ["Moments", "Scatter", "observe"]
