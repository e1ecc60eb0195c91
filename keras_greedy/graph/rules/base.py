"""Channel rules: their interface, and the parts that several of them share.

A rule says which channels come out of a call, which axes of the layer's weights
belong to the channels going in or out, and how its config changes when some are
cut.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
from keras import KerasTensor

from keras_greedy.backend import Tensor
from keras_greedy.graph.axes import axes_of_any, join
from keras_greedy.graph.calls import Call
from keras_greedy.graph.kept import Kept
from keras_greedy.graph.probing import Mixing
from keras_greedy.graph.space import ByAxis, ChannelSpace

IN = "in"
OUT = "out"

# A layer's class, a function, or the name of a class that is not public.
RuleKey: TypeAlias = Callable[..., Any] | str
# For each axis of a weight `IN`, `OUT` or `None`.
Axes: TypeAlias = tuple[str | None, ...]

# All rules registered, see `register_rule`.
RULES: "dict[RuleKey, Rule]" = {}


class Unprunable(Exception):
    """Raised by a rule when a call's channels cannot be cut; says why."""


class Rule:
    """The way a layer carries channels, the entries of its tensors' last axis.

    As it stands, it is the rule of a layer that acts on each channel alone (a
    follower). Others say so by the attributes, and by the methods where those do not
    suffice.

    The axes before the last one have channels, too, where an earlier call has moved
    them there. A rule of the last axis alone says by `any_axis` that they pass; rules
    of all axes have `carry_axes`, `changes` and `arguments` in place of `carry`,
    `cut_config` and `cut_arguments`.

    Attributes:
        any_axis: Whether the axes before the last one come out as they are, so that
            channels on them pass. Without it they are positions, which stay.
        takes_parts: Whether it takes channels that a reshape has parted into several
            axes, which none of them has yet, see `graph.parted`.
        produces: Whether the call makes channels of its own.
        consumes: Whether it reads all channels of its input at once, so that a
            channel which is 0 there might as well be absent.
        normalizes: Whether it divides each channel by statistics over all of them, or
            makes a channel of such statistics; such a rule has `over_kept`.
        takes_several: Whether, reading all channels of its first input, it takes other
            tensors beside it, whose channels `carry` sees to.
        has_own_state: Whether the layer's weights and tables are of no channel: all
            are copied.
        width: Name of the layer's argument that is the number of channels coming
            out, if it has one.
        weight_axes: Weight name -> for each of its last axes the channels that it
            runs over: those going `IN`, those coming `OUT`, or `None` for neither.
            An axis may have several entries in a row for each channel.
        read_axis: The axis of the input, counted from the end, whose channels go `IN`,
            or are normalized.
        made_axis: The axis of the output whose channels come `OUT`.

    Example:

    ```python
    import keras

    import keras_greedy


    class Mixing(keras.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

        def get_config(self):
            return super().get_config() | {"units": self.units}


    @keras_greedy.register_rule(Mixing)
    class MixingRule(keras_greedy.Rule):
        produces = True
        consumes = True
        width = "units"
        weight_axes = {"kernel": (keras_greedy.IN, keras_greedy.OUT)}


    model = keras.Sequential(
        [keras.Input((8,)), Mixing(16, name="mixing"), keras.layers.Dense(3)],
    )
    assert keras_greedy.trace(model).widths == {"mixing": 16}
    ```
    """

    any_axis: bool = False
    takes_parts: bool = False
    produces: bool = False
    consumes: bool = False
    normalizes: bool = False
    takes_several: bool = False
    has_own_state: bool = False
    width: str | None = None
    weight_axes: dict[str, Axes] = {}
    read_axis: int = -1
    made_axis: int = -1

    def specialised(self, operation: keras.Operation) -> "Rule | None":
        """Returns the rule of one operation of the kind, where its settings matter.

        That may be none.
        """
        return self

    def of_call(self, call: Call) -> "Rule":
        """Returns the rule of one call of the kind, where its shapes matter."""
        return self

    def carry(
        self,
        call: Call,
        channels: Sequence[np.ndarray],
        space: ChannelSpace,
    ) -> np.ndarray | Sequence[np.ndarray]:
        """Returns the `(C,)` channel numbers of the call's output, of each of several.

        Args:
            call: The `Call`.
            channels: `(C,)` channel numbers of each of the call's inputs.
            space: The `ChannelSpace` to draw fresh numbers from, to declare numbers
                equal in, or to pin them.

        Raises:
            Unprunable: When the channels cannot be cut; says why.
        """
        require_channels_last(call)
        if self.produces:
            carried = space.fresh(call.outputs[0].shape[-1])
        else:
            carried = tie_inputs(call, channels, space, call.name)
        pin_mixed(call, carried, space)
        return carried

    def carry_axes(
        self,
        call: Call,
        channels: Sequence[ByAxis],
        space: ChannelSpace,
    ) -> Sequence[ByAxis]:
        """Returns the channel numbers on the axes of each of the call's outputs.

        Args:
            call: The `Call`.
            channels: Axis, counted from the end -> `(C,)` channel numbers, for each of
                the call's inputs.
            space: As for `carry`.

        Raises:
            Unprunable: When the channels cannot be cut; says why.
        """
        last = [by_axis[-1] for by_axis in channels]
        made = self.carry(call, last, space)
        outputs = [made] if isinstance(made, np.ndarray) else made
        others = [axis for axis in axes_of_any(channels) if axis != -1]
        passing = {}
        if self.any_axis:
            passing = join(call.channel_inputs, channels, others, space)
        else:
            pin_axes(call, channels, others, space)
        return [passing | {-1: ids} for ids in outputs]

    def tied(self, call: Call) -> list[KerasTensor]:
        """Returns the tensors whose channels are the same at every call of a layer."""
        return [*call.channel_inputs, *call.outputs]

    def positions_of(self, call: Call) -> Collection[int]:
        """Returns the axes, counted from the end, that must not have the channels.

        Channels that a reshape has parted into several axes get another one of them.
        """
        return ()

    def cut_config(
        self,
        call: Call,
        kept_in: np.ndarray,
        kept_out: np.ndarray,
    ) -> dict[str, Any]:
        """Returns the config entries that a cut changes.

        Args:
            call: The `Call`.
            kept_in: `(C,)` mask of the positions kept on the input's last axis.
            kept_out: The same of the output's.
        """
        if self.width is None:
            return {}
        return {self.width: int(kept_out.sum())}

    def nested(
        self,
        operation: keras.Operation,
        changes: dict[str, Any],
    ) -> dict[str, Any]:
        """Returns changes of a config as those of the layer around, of a wrapper."""
        return changes

    def cut_arguments(
        self,
        call: Call,
        args: tuple,
        kept_out: np.ndarray,
    ) -> tuple:
        """Returns the positional arguments with per-channel constants cut.

        Args:
            call: The `Call`.
            args: Its positional arguments.
            kept_out: `(C,)` mask of the positions kept on the output's last axis.
        """
        return args

    def changes(self, call: Call, kept: Kept) -> dict[str, Any]:
        """Returns the config entries that a cut changes, of whichever axis.

        Args:
            call: The `Call`.
            kept: What is kept of the axes of its tensors.
        """
        kept_in = kept(call.inputs[0])
        kept_out = kept(call.outputs[0])
        return self.cut_config(call, kept_in, kept_out)

    def arguments(
        self,
        call: Call,
        args: tuple,
        kept: Kept,
    ) -> tuple:
        """Returns the positional arguments with constants cut along whichever axis.

        Args:
            call: The `Call`.
            args: Its positional arguments.
            kept: What is kept of the axes of its tensors.
        """
        return self.cut_arguments(call, args, kept(call.outputs[0]))

    def left(
        self,
        call: Call,
        made: Any,
        kept: Kept,
    ) -> Any:
        """Returns what is left of the tensors made, where a cut call makes more.

        Args:
            call: The `Call`.
            made: What it makes of the arguments that are left.
            kept: What is kept of the axes of its tensors.
        """
        return made

    def with_bias(self, call: Call) -> dict[str, Any]:
        """Returns the config entries that give a layer without a bias one."""
        return {"use_bias": True}

    def over_kept(
        self,
        layer: keras.Layer,
        x: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Returns a normalizing layer's output with the statistics of some channels.

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

    def axes_of(self, weight_name: str, rank: int) -> Axes:
        """Returns the channels that each axis of a weight of this rank runs over."""
        axes = self.weight_axes[weight_name]
        leading = (None,) * (rank - len(axes))
        return leading + axes

    def is_cut(self, call: Call) -> bool:
        """Returns whether the operation itself is another one after a cut."""
        if self.weight_axes or self.width:
            return True
        if self._has_own("cut_config", "changes"):
            return True
        return self._has_own("cut_arguments", "arguments") and _has_arrays(call)

    def _has_own(self, *methods: str) -> bool:
        """Returns whether the class has one of these methods that is not `Rule`'s."""
        own, usual = type(self), Rule
        return any(getattr(own, name) is not getattr(usual, name) for name in methods)


def require_channels_last(call: Call) -> None:
    """Raises `Unprunable` for a layer whose channels are not its last axis."""
    if getattr(call.operation, "data_format", None) == "channels_first":
        raise Unprunable(
            "data_format='channels_first': only channels last is supported"
        )


def tie_inputs(
    call: Call,
    channels: Sequence[np.ndarray],
    space: ChannelSpace,
    layer: str | None,
) -> np.ndarray:
    """Declares the channels of all of a call's inputs equal, one by one.

    A tensor of one channel goes with all channels of the others, and has to stay.

    Args:
        call: The call.
        channels: `(C,)` channel numbers of each of its inputs.
        space: Where they are numbers of.
        layer: Name of the layer that a warning names for such a channel, if one is to.

    Returns:
        The `(C,)` numbers of the channels.

    Raises:
        Unprunable: When they have different numbers of channels.
    """
    widest = max(channels, key=len)
    for ids in channels:
        if len(ids) == len(widest):
            space.unify(widest, ids)
        elif len(ids) == 1:
            space.pin(ids, layer, "its channel goes with several others")
        else:
            widths = [len(ids) for ids in channels]
            raise Unprunable(f"its inputs have {widths} channels, which its rule mixes")
    return widest


def pin_axes(
    call: Call,
    channels: Iterable[ByAxis],
    axes: Iterable[int],
    space: ChannelSpace,
) -> None:
    """Forbids cutting the channels on axes that a call does not take for channels."""
    for by_axis in channels:
        for axis in axes:
            if axis not in by_axis:
                continue
            ids = np.ravel(by_axis[axis])
            # Of channels that are kept in any case there is nothing to say.
            if not space.is_whole(ids):
                reason = f"it takes the channels on axis {axis} for positions"
                space.pin(ids, call.name, reason)


def pin_mixed(
    call: Call,
    channels: np.ndarray,
    space: ChannelSpace,
) -> None:
    """Forbids cutting `(C,)` channels that the call's activation may mix."""
    activation = getattr(call.operation, "activation", None)
    if _is_per_channel(activation):
        return
    name = getattr(activation, "__name__", type(activation).__name__)
    reason = f"its activation {name} may mix the channels"
    if _has_rule(activation) or getattr(activation, "weights", None):
        space.pin(channels, call.name, reason)
        return
    try:
        space.probes.check_activation(activation, call.outputs[0])
        space.probes.trust(call.name, f"its activation {name}", channels)
    except Mixing as finding:
        space.pin(channels, call.name, f"{reason}, as a probe finds: {finding}")


def is_follower(key: RuleKey) -> bool:
    """Returns whether a layer's class or a function acts on each channel alone.

    That is, by its rule. One that looks closer may find that it mixes the channels, and
    weights of an activation inside a layer would not be cut.
    """
    rule = RULES.get(key)
    if rule is None or rule.produces or rule.consumes or rule.normalizes:
        return False
    return not rule._has_own("carry", "carry_axes") and not rule.weight_axes


def cut_constant(
    value: Any,
    kept: np.ndarray,
    axis: int = -1,
) -> Any:
    """Returns the kept channels of a constant that has a value for each.

    Args:
        value: The constant.
        kept: `(C,)` mask of the channels kept.
        axis: Of the channels, counted from the end.
    """
    if np.ndim(value) < -axis:
        return value
    # One value, or one for each position, is the same for all channels.
    size = np.shape(value)[axis]
    if size == 1 or size != len(kept):
        return value
    return np.compress(kept, np.asarray(value), axis)


def _has_arrays(call: Call) -> bool:
    """Returns whether a positional argument is an array, not a tensor of the graph."""
    for leaf in keras.tree.flatten(call.args):
        if not isinstance(leaf, KerasTensor) and np.ndim(leaf) > 0:
            return True
    return False


def _is_per_channel(activation: Any) -> bool:
    """Returns whether an activation, if there is one, acts on each channel alone."""
    if activation is None:
        return True
    if not is_follower(_key_of(activation)):
        return False
    is_layer = isinstance(activation, keras.Layer)
    return not is_layer or _is_per_channel(getattr(activation, "activation", None))


def _has_rule(activation: Any) -> bool:
    return _key_of(activation) in RULES


def _key_of(activation: Any) -> Any:
    return type(activation) if isinstance(activation, keras.Layer) else activation
