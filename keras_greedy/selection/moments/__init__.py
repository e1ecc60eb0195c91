"""Selection on the second moments of the consumers' inputs."""

from keras_greedy.selection.moments.observed import Observed, half_unseen
from keras_greedy.selection.moments.scatter import Moments, Scatter, observe, scatter_of

__all__ = ["Moments", "Observed", "Scatter", "half_unseen", "observe", "scatter_of"]
