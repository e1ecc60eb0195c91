"""How each kind of layer carries channels: one small rule per kind.

Importing this package registers them all.
"""

from keras_greedy.graph.registry import (
    IN,
    OUT,
    RULES,
    Rule,
    Unprunable,
    register_rule,
    rule_for,
)
from keras_greedy.graph.rules import followers, joins, linear, normalization, shapes

__all__ = [
    "IN",
    "OUT",
    "RULES",
    "Rule",
    "Unprunable",
    "followers",
    "joins",
    "linear",
    "normalization",
    "register_rule",
    "rule_for",
    "shapes",
]
