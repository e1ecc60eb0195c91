"""The way each kind of layer carries channels: one small rule per kind.

Importing this package registers them all.
"""

from keras_greedy.graph.rules import (
    elementwise,
    linear,
    merging,
    normalization,
    recurrent,
    reshaping,
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
    "elementwise",
    "linear",
    "merging",
    "normalization",
    "public_key",
    "recurrent",
    "register_rule",
    "reshaping",
    "rule_for",
    "wrappers",
]
