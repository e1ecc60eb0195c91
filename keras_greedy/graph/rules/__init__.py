"""The way each kind of layer carries channels: one small rule per kind.

Importing this package registers them all.
"""

from keras_greedy.graph.rules import (
    contraction,
    elementwise,
    images,
    linear,
    merging,
    moving,
    normalization,
    recurrent,
    reducing,
    reshaping,
    slicing,
    splitting,
    statistics,
    wrappers,
)
from keras_greedy.graph.rules.base import (
    IN,
    OUT,
    RULES,
    Rule,
    RuleKey,
    Unprunable,
)
from keras_greedy.graph.rules.merging import JoinRule
from keras_greedy.graph.rules.register import public_key, register_rule, rule_for

__all__ = [
    "IN",
    "OUT",
    "RULES",
    "JoinRule",
    "Rule",
    "RuleKey",
    "Unprunable",
    "contraction",
    "elementwise",
    "images",
    "linear",
    "merging",
    "moving",
    "normalization",
    "public_key",
    "recurrent",
    "reducing",
    "register_rule",
    "reshaping",
    "rule_for",
    "slicing",
    "splitting",
    "statistics",
    "wrappers",
]
