"""A search that is kept in a folder as it goes, and goes on from there."""

from keras_greedy.checkpoints.checkpoint import checked_folder
from keras_greedy.checkpoints.kept import kept_in

__all__ = ["checked_folder", "kept_in"]
