"""From divergence curves and limits to widths: the cost of a compact model."""

from keras_greedy.budget.allocate import allocate, check_reachable, descent
from keras_greedy.budget.budget import Budget
from keras_greedy.budget.latency_fit import Allocation, allocate_and_measure

__all__ = [
    "Allocation",
    "Budget",
    "allocate",
    "allocate_and_measure",
    "check_reachable",
    "descent",
]
