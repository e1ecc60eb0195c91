"""The register of channel rules: which one a layer or an operation has.

Raw operations are registered under their public `keras.ops` function, activations
under their function, layers that `keras.applications` keeps to itself under the name
of their class.
"""

import sys
from collections.abc import Callable
from typing import TypeVar

import keras

from keras_greedy.graph.rules.base import IN, OUT, RULES, Rule, RuleKey
from tflite_export.checks import shown

# Where `keras.applications` keeps the layers of its own, which have no public name.
APPLICATIONS = "keras.src.applications."

RuleClass = TypeVar("RuleClass", bound=type[Rule])


def register_rule(*keys: RuleKey) -> Callable[[RuleClass], RuleClass]:
    """Decorates a class: this rule is the one for these layers or operations.

    Channels that a layer without a rule touches are kept, unless it has no weights and
    a probe on random inputs finds what it does to them.

    Args:
        *keys: Layer classes; functions of `keras.ops`, of `keras.activations`, or of
            yours that serve as an activation or in a Lambda.

    Returns:
        The decorator, which gives the class back as it is.

    Raises:
        ValueError: When a key is none of these, the decorated class is no
            `keras_greedy.Rule`, or its `weight_axes` are no axes.

    Example:

    ```python
    import keras

    import keras_greedy


    class ChannelScale(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            return x * self.factor


    @keras_greedy.register_rule(ChannelScale)
    class ChannelScaleRule(keras_greedy.Rule):
        weight_axes = {"factor": (keras_greedy.OUT,)}


    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16, name="hidden"),
            ChannelScale(),
            keras.layers.Dense(3),
        ]
    )
    assert keras_greedy.trace(model).widths == {"hidden": 16}
    ```
    """
    if not keys or not all(map(_is_key, keys)):
        raise ValueError(
            "Expected `register_rule` to be given layer classes or functions, as in "
            "`@register_rule(MyLayer)`. "
            f"Received: {', '.join(map(shown, keys)) or 'nothing'}"
        )

    def register(rule: RuleClass) -> RuleClass:
        if not (isinstance(rule, type) and issubclass(rule, Rule)):
            raise ValueError(
                "Expected `register_rule` to decorate a subclass of keras_greedy.Rule. "
                f"Received: {rule!r}"
            )
        instance = rule()
        _check_axes(instance)
        for key in keys:
            RULES[key] = instance
        return rule

    return register


def _check_axes(rule: Rule) -> None:
    """Raises a ValueError unless each weight of a rule has a tuple of axes."""
    axes = rule.weight_axes
    are_axes = isinstance(axes, dict)
    if are_axes:
        for own in axes.values():
            are_axes &= isinstance(own, tuple) and all(
                a in (IN, OUT, None) for a in own
            )
    if not are_axes:
        raise ValueError(
            f"Expected the `weight_axes` of {type(rule).__name__} to be a dict of "
            'tuples of IN, OUT and None, as in {"bias": (keras_greedy.OUT,)}. '
            f"Received: {shown(axes)}"
        )


def _is_key(key: object) -> bool:
    # Without parentheses the decorator gets the rule itself.
    if isinstance(key, type):
        return not issubclass(key, Rule)
    return callable(key) or isinstance(key, str)


def rule_for(
    key: RuleKey,
    operation: keras.Operation,
) -> Rule | None:
    """Returns the rule of an operation, if one is registered under `key`."""
    rule = RULES.get(key)
    return rule.specialised(operation) if rule else None


def public_key(operation: keras.Operation) -> RuleKey:
    """Returns the key that rules and targets know an operation by.

    That is a layer's class, for a raw operation its public `keras.ops` function, and
    for a layer that `keras.applications` keeps to itself the name of its class.
    """
    cls = type(operation)
    if cls.__module__.startswith(APPLICATIONS):
        return cls.__name__
    if isinstance(operation, keras.Layer) or not cls.__module__.startswith("keras."):
        return cls
    # `GetItem` is the operation behind `get_item`, in the same module.
    words = [f"_{c.lower()}" if c.isupper() else c for c in cls.__name__]
    name = "".join(words).lstrip("_")
    return getattr(sys.modules[cls.__module__], name, cls)
