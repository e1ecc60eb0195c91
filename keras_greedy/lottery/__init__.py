"""Strong lottery tickets: random networks that compute a target by pruning alone.

Reference: Pensia, Rajput, Nagle, Vishwakarma, Papailiopoulos, Optimal Lottery Tickets
via SubsetSum: Logarithmic Over-Parameterization is Sufficient, NeurIPS 2020.
"""

from keras_greedy.lottery.find import find_ticket
from keras_greedy.lottery.layers import MaskedConv2D, MaskedDense, RandomNeurons
from keras_greedy.lottery.popup import (
    EdgePopup,
    PopupConv2D,
    PopupDense,
    PopupNeurons,
)
from keras_greedy.lottery.subset_sum import SubsetSum, subset_sum
from keras_greedy.lottery.ticket import Ticket

__all__ = [
    "EdgePopup",
    "MaskedConv2D",
    "MaskedDense",
    "PopupConv2D",
    "PopupDense",
    "PopupNeurons",
    "RandomNeurons",
    "SubsetSum",
    "Ticket",
    "find_ticket",
    "subset_sum",
]
