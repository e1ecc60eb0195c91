"""Selection on the second moments of the consumers' inputs."""

from keras_greedy.selection.moments.observe import observe, scatter_of
from keras_greedy.selection.moments.observed import Observed, half_unseen
from keras_greedy.selection.moments.scatter import Moments, Scatter

__all__ = ["Moments", "Observed", "Scatter", "half_unseen", "observe", "scatter_of"]
