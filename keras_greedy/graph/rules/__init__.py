"""How each kind of layer carries channels: one small rule per kind.

Importing this package registers them all.
"""

from keras_greedy.graph.rules import (
    elementwise,
    linear,
    merging,
    normalization,
    reshaping,
)
from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    RULES,
    Rule,
    Unprunable,
    register_rule,
    rule_for,
)

__all__ = [
    "IN",
    "OUT",
    "RULES",
    "Rule",
    "Unprunable",
    "elementwise",
    "linear",
    "merging",
    "normalization",
    "register_rule",
    "reshaping",
    "rule_for",
]
