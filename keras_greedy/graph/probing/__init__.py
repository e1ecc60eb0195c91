"""Probes of operations without a rule: which channels depend on which.

Some channels of random inputs are drawn anew, and the outputs that change depend on
them. Where each output depends on few, those are one channel from there on, if the same
operation on a part of the channels makes the same values of them.
"""

from keras_greedy.graph.probing.probes import Found, Probes, Trusted
from keras_greedy.graph.probing.readers import Reading
from keras_greedy.graph.probing.trial import Mixing, Subject, fitting_output_shape
from keras_greedy.graph.probing.weighted import Weighted, weighted

__all__ = [
    "Found",
    "Mixing",
    "Probes",
    "Reading",
    "Subject",
    "Trusted",
    "Weighted",
    "fitting_output_shape",
    "weighted",
]
