"""From divergence curves and limits to widths: the cost of a compact model."""

from keras_greedy.budget.allocate import allocate, check_reachable, descent
from keras_greedy.budget.budget import Budget
from keras_greedy.budget.latency_fit import Allocation, allocate_and_measure
from keras_greedy.budget.reached import asked_and_kept

__all__ = [
    "Allocation",
    "Budget",
    "allocate",
    "allocate_and_measure",
    "asked_and_kept",
    "check_reachable",
    "descent",
]
