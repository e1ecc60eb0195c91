"""The way each kind of layer carries channels: one small rule per kind.

Importing this package registers them all.
"""

from keras_greedy.graph.rules import (
    elementwise,
    linear,
    merging,
    moving,
    normalization,
    reducing,
    reshaping,
    slicing,
    splitting,
)
from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    RULES,
    Rule,
    RuleKey,
    Unprunable,
)
from keras_greedy.graph.rules.register import public_key, register_rule, rule_for

__all__ = [
    "IN",
    "OUT",
    "RULES",
    "Rule",
    "RuleKey",
    "Unprunable",
    "elementwise",
    "linear",
    "merging",
    "moving",
    "normalization",
    "public_key",
    "reducing",
    "register_rule",
    "reshaping",
    "rule_for",
    "slicing",
    "splitting",
]
