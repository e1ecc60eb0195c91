"""Examples for a model: digits that need no download, and those of the user."""

from keras_greedy.datasets.arrays import from_arrays
from keras_greedy.datasets.examples import Examples
from keras_greedy.datasets.folder import from_folder
from keras_greedy.datasets.handwritten import digits
from keras_greedy.datasets.named import from_tfds
from keras_greedy.datasets.preprocessing import guess_preprocessing, preprocess
from keras_greedy.datasets.sources import load

__all__ = [
    "Examples",
    "digits",
    "from_arrays",
    "from_folder",
    "from_tfds",
    "guess_preprocessing",
    "load",
    "preprocess",
]
