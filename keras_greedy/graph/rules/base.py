"""What a channel rule is, and which one each layer or operation has.

A rule says which channels come out of a call, which axes of the layer's weights
belong to the channels going in or out, and how its config changes when some are
cut. Raw operations are registered under their public `keras.ops` function,
activations under their function, layers that `keras.applications` keeps to itself
under the name of their class.
"""

import keras
import numpy as np

IN, OUT = "in", "out"

RULES: dict = {}


class Unprunable(Exception):
    """Raised by a rule when a call's channels cannot be cut; says why."""


class Rule:
    """How a layer carries channels, the entries of its input's and output's last axis.

    As it stands, it is the rule of a layer that acts on each channel alone (a
    follower). Others say so by the attributes, and by the methods where those do not
    suffice.

    Attributes:
        produces: Whether the call makes channels of its own.
        consumes: Whether it reads all channels of its input at once, so that a
            channel which is 0 there might as well be absent.
        normalizes: Whether it divides each channel by statistics over all of them;
            such a rule has `over_kept`.
        width: Name of the layer's argument that is the number of channels coming
            out, if it has one.
        weight_axes: Weight name -> what its last axes run over: the channels
            going `IN`, the channels coming `OUT`, or `None` for neither. An axis may
            have several entries in a row for each channel.

    Example:

    ```python
    @keras_greedy.register_rule(MyDense)
    class MyDenseRule(keras_greedy.Rule):
        produces = consumes = True
        width = "units"
        weight_axes = {"kernel": (keras_greedy.IN, keras_greedy.OUT)}
    ```
    """

    produces = False
    consumes = False
    normalizes = False
    width: str | None = None
    weight_axes: dict[str, tuple] = {}

    def specialised(self, operation) -> "Rule":
        """The rule of one operation of the kind, where its settings matter."""
        return self

    def carry(self, call, channels, space):
        """Returns the `(C,)` channel numbers of the call's output.

        Args:
            call: The `Call`.
            channels: `(C,)` channel numbers of each of the call's inputs.
            space: The `ChannelSpace` to draw fresh numbers from, to declare numbers
                equal in, or to pin them.

        Raises:
            Unprunable: When the channels cannot be cut; says why.
        """
        require_channels_last(call)
        carried = channels[0]
        if self.produces:
            carried = space.fresh(call.outputs[0].shape[-1])
        pin_mixed(call, carried, space)
        return carried

    def cut_config(self, call, kept_in, kept_out) -> dict:
        """Returns the config entries that change; masks are over positions."""
        return {self.width: int(kept_out.sum())} if self.width else {}

    def cut_arguments(self, call, args, kept_out):
        """Returns the positional arguments with per-channel constants cut."""
        return args

    def over_kept(self, layer, x, mask):
        """What a layer that normalizes makes of `x` without some of the channels.

        Args:
            layer: The layer.
            x: Its input.
            mask: That broadcasts to `x`, `(..., C)`: 0 for the channels that are
                gone, 1 for the others.
        """
        raise NotImplementedError(
            f"Expected {type(self).__name__}, which normalizes, to have `over_kept`. "
            "Received: a rule without it"
        )

    def axes_of(self, weight_name: str, rank: int) -> tuple:
        """What each axis of a weight of this rank runs over."""
        axes = self.weight_axes[weight_name]
        return (None,) * (rank - len(axes)) + axes

    def is_cut(self, call) -> bool:
        """Whether the operation itself is another one after a cut."""
        cls = type(self)
        has_constants = cls.cut_arguments is not Rule.cut_arguments and any(
            np.ndim(leaf)
            for leaf in keras.tree.flatten(call.args)
            if not isinstance(leaf, keras.KerasTensor)
        )
        cuts_config = self.width or cls.cut_config is not Rule.cut_config
        return bool(self.weight_axes or cuts_config or has_constants)


def register_rule(*keys):
    """Class decorator: this rule is the one for these layers or operations.

    Channels that a layer without a rule touches are kept.

    Args:
        *keys: Layer classes; functions of `keras.ops`, of `keras.activations`, or of
            yours that serve as an activation.

    Example:

    ```python
    class ChannelScale(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            return x * self.factor

    @keras_greedy.register_rule(ChannelScale)
    class ChannelScaleRule(keras_greedy.Rule):
        weight_axes = {"factor": (keras_greedy.OUT,)}
    ```
    """

    def register(rule):
        if not (isinstance(rule, type) and issubclass(rule, Rule)):
            raise ValueError(
                "Expected `register_rule` to decorate a subclass of keras_greedy.Rule. "
                f"Received: {rule!r}"
            )
        RULES.update(dict.fromkeys(keys, rule()))
        return rule

    return register


def rule_for(key, operation) -> Rule | None:
    """The rule of an operation that is registered under `key`, if one is."""
    rule = RULES.get(key)
    return rule and rule.specialised(operation)


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
    is_layer = isinstance(activation, keras.Layer)
    rule = RULES.get(type(activation) if is_layer else activation)
    if rule is None or type(rule).carry is not Rule.carry or rule.weight_axes:
        return False
    return not is_layer or _is_per_channel(getattr(activation, "activation", None))
