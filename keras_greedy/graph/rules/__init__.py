"""The way each kind of layer carries channels: one small rule per kind.

Importing this package registers them all.
"""

from keras_greedy.graph.rules import (
    elementwise,
    images,
    linear,
    merging,
    normalization,
    reshaping,
    statistics,
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
    "images",
    "linear",
    "merging",
    "normalization",
    "public_key",
    "register_rule",
    "reshaping",
    "rule_for",
    "statistics",
]
