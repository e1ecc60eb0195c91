"""What a channel rule is, and which one each layer or operation has.

A rule says which channels come out of a call, which axes of the layer's weights
belong to the channels going in or out, and how its config changes when some are
cut. Raw operations are registered under their public `keras.ops` function,
activations under their function.
"""

import keras
import numpy as np

IN, OUT = "in", "out"

RULES: dict = {}


class Unprunable(Exception):
    """Raised by a rule when a call's channels cannot be cut; says why."""


class Rule:
    """A layer that acts on each channel alone (a follower); the base of all rules.

    Attributes:
        produces: Whether the call makes channels of its own.
        consumes: Whether it reads all channels of its input at once.
        weight_axes: Weight name -> what its last axes run over: the channels
            going `IN`, the channels coming `OUT`, or `None` for neither.
    """

    produces = False
    consumes = False
    weight_axes: dict[str, tuple] = {}

    def carry(self, call, channels, space):
        """Returns the `(C,)` channel numbers of the call's output."""
        require_channels_last(call)
        pin_mixed(call, channels[0], space)
        return channels[0]

    def cut_config(self, call, kept_in, kept_out) -> dict:
        """Returns the config entries that change; masks are over positions."""
        return {}

    def cut_arguments(self, call, args, kept_out):
        """Returns the positional arguments with per-channel constants cut."""
        return args

    def axes_of(self, weight_name: str, rank: int) -> tuple:
        """What each axis of a weight of this rank runs over."""
        axes = self.weight_axes[weight_name]
        return (None,) * (rank - len(axes)) + axes


def register_rule(*keys):
    """Class decorator: this rule is the one for these layers or operations.

    Example:

    ```python
    @register_rule(LayerScale)
    class LayerScaleRule(Rule):
        weight_axes = {"gamma": (OUT,)}
    ```
    """

    def register(rule):
        RULES.update(dict.fromkeys(keys, rule()))
        return rule

    return register


def require_channels_last(call):
    if getattr(call.operation, "data_format", None) == "channels_first":
        raise Unprunable(
            "data_format='channels_first': only channels last is supported"
        )


def pin_mixed(call, channels, space):
    """Forbids cutting channels that an activation may mix."""
    activation = getattr(call.operation, "activation", None)
    if not _is_per_channel(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        space.pin(channels, call.name, f"its activation {name} may mix the channels")


def cut_constant(value, kept):
    """The kept channels of a constant that has a value for each."""
    per_channel = np.ndim(value) and np.shape(value)[-1] == len(kept) > 1
    return np.asarray(value)[..., kept] if per_channel else value


def _is_per_channel(activation) -> bool:
    if activation is None:
        return True
    if not isinstance(activation, keras.Layer):
        return type(RULES.get(activation)) is Rule
    inner = getattr(activation, "activation", None)
    return type(RULES.get(type(activation))) is Rule and _is_per_channel(inner)
