"""The layers of a model that is pruned while it trains.

A `GreedyChannels` is put around each layer that reads channels, since a channel that
is 0 there is as good as gone (see `graph/gate.py`). The gates themselves, one for each
group of channels, are layers of their own that the wrappers share.
"""

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.rules import RULES, rule_for
from keras_greedy.selection.methods import method_of
from keras_greedy.while_training.schedules import ConstantWidth, SelectionSchedule

NO_CALLBACK = (
    "Expected a `GreedySelectionStep` while a model with `GreedyChannels` layers "
    "trains: without it nothing is ever selected. Pass it to fit, "
    "`model.fit(..., callbacks=[keras_greedy.GreedySelectionStep(data)])`, or, in a "
    "training loop of your own, make one, call its `set_model(model)` and "
    "`on_train_begin()` before the loop, and `on_train_batch_begin(batch)` before each "
    "step. Received: a call of layer '{}' with training=True and no such callback"
)


@keras.saving.register_keras_serializable("keras_greedy")
class ChannelGate(keras.layers.Layer):
    """Which channels of a group are kept.

    Args:
        size: How many channels there are.

    Attributes:
        kept: `(size,)` variable of ones and zeros.
        error: Scalar variable: the error of the selection, as a share of that of
            no channel at all.
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**{"trainable": False} | kwargs)
        self.size = size
        fixed = {"trainable": False, "dtype": "float32"}
        self.kept = self.add_weight((size,), "ones", name="kept", **fixed)
        self.error = self.add_weight((), "zeros", name="error", **fixed)
        self.built = True

    def call(self, inputs):
        return inputs * self.kept

    def get_config(self):
        return super().get_config() | {"size": self.size}


@keras.saving.register_keras_serializable("keras_greedy")
class GreedyChannels(keras.layers.Wrapper):
    """A layer that reads channels through gates.

    Made by `prune_greedy`. The input of the layer is multiplied by the gates; a
    normalisation over the channels takes its statistics over the kept ones.

    Args:
        layer: A layer that reads all channels of its input, or normalises over them.
        selection_schedule: When to select, and how much to keep.
        objective: As for `prune`.
        step: As for `prune`.
        gates: The `ChannelGate`s of the groups it reads; by default one of its own
            for all of its input.
        places: `(C,)` where each channel of the input is in the gates put one behind
            the other, counted from 1; 0 for those without a gate.

    Attributes:
        has_callback: Whether a `GreedySelectionStep` takes care of the selection.

    Raises:
        ValueError: When `layer` is not as described.
    """

    def __init__(
        self,
        layer: keras.Layer,
        selection_schedule: SelectionSchedule | None = None,
        objective: str = "global",
        step: str = "corrective",
        gates: list[ChannelGate] | None = None,
        places: list[int] | None = None,
        **kwargs,
    ):
        if not reads_channels(layer):
            raise ValueError(
                "Expected `layer` to be one whose rule says that it reads all channels "
                "of its input or normalises over them, as Conv2D, Dense and "
                f"LayerNormalization. Received: layer={layer!r}"
            )
        defaults = {"name": f"greedy_{layer.name}", "trainable": layer.trainable}
        super().__init__(layer, **defaults | {"dtype": layer.dtype_policy} | kwargs)
        self.selection_schedule = checked_schedule(selection_schedule)
        method_of(objective, step, None, 1, 0)  # Raises when there is no such method.
        self.objective, self.step = objective, step
        self.gates, self.places = gates, places
        self.has_callback = False

    def build(self, input_shape):
        super().build(input_shape)
        if self.gates is None:
            channels = input_shape[-1]
            self.gates = [ChannelGate(channels, name=f"gate_{self.layer.name}")]
            self.places = [*range(1, channels + 1)]
        self.built = True

    def call(self, inputs, training=None):
        if training and not self.has_callback:
            raise RuntimeError(NO_CALLBACK.format(self.name))
        kept = [ops.convert_to_tensor(gate.kept) for gate in self.gates]
        kept = ops.concatenate([ops.ones((1,), kept[0].dtype), *kept])
        mask = ops.cast(ops.take(kept, self.places), inputs.dtype)
        rule = rule_for(type(self.layer), self.layer)
        if rule.normalizes:
            return rule.over_kept(self.layer, inputs, mask)
        return self.layer(inputs * mask)

    def compute_output_shape(self, input_shape):
        return self.layer.compute_output_shape(input_shape)

    def kept(self) -> np.ndarray:
        """`(C,)` which channels of its input are kept, as booleans."""
        gates = [ops.convert_to_numpy(gate.kept) for gate in self.gates]
        return np.concatenate([[1.0], *gates])[self.places] != 0

    def errors(self) -> np.ndarray:
        """`(C,)` the error of the last selection in each channel's group."""
        errors = [
            np.full(gate.size, ops.convert_to_numpy(gate.error)) for gate in self.gates
        ]
        return np.concatenate([[0.0], *errors])[self.places]

    def keep(self, mask: np.ndarray, errors: np.ndarray) -> None:
        """Sets the gates.

        Args:
            mask: `(C,)` which channels of the input to keep.
            errors: `(C,)` the error of the selection in each channel's group.
        """
        flat = np.zeros((2, 1 + sum(gate.size for gate in self.gates)))
        flat[:, self.places] = mask, errors
        start = 1
        for gate in self.gates:
            kept, error = flat[:, start : start + gate.size]
            gate.kept.assign(kept)
            gate.error.assign(error[0])
            start += gate.size

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return super().get_config() | {
            "selection_schedule": serialize(self.selection_schedule),
            "objective": self.objective,
            "step": self.step,
            "gates": self.gates and [*map(_serialize_shared, self.gates)],
            "places": self.places and [*self.places],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        def revived(value):
            return keras.saving.deserialize_keras_object(value, custom_objects)

        config = dict(config)
        for name in ("layer", "selection_schedule"):
            config[name] = revived(config[name])
        config["gates"] = config["gates"] and [*map(revived, config["gates"])]
        return cls(**config)


def _serialize_shared(gate: ChannelGate) -> dict:
    """The config of a gate, by which all its wrappers get one gate again."""
    # Keras marks as shared what it meets a second time, but not, in what is nested, the
    # first occurrence.
    keras.saving.serialize_keras_object(gate)
    return keras.saving.serialize_keras_object(gate)


def reads_channels(layer) -> bool:
    """Whether a layer's rule says that a gate belongs in front of it."""
    rule = RULES.get(type(layer))
    return bool(rule and (rule.consumes or rule.normalizes))


def wrappers_of(model) -> list[GreedyChannels]:
    """The `GreedyChannels` of a model, those of models inside it among them."""
    found = []
    for layer in model.layers:
        if isinstance(layer, GreedyChannels):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found.extend(wrappers_of(layer))
    return list(dict.fromkeys(found))


def checked_schedule(schedule) -> SelectionSchedule:
    """A schedule as it is; half the MACs at once for `None`."""
    if schedule is None:
        return ConstantWidth(0.5)
    if not isinstance(schedule, SelectionSchedule):
        raise ValueError(
            "Expected `selection_schedule` to be a keras_greedy.ConstantWidth, "
            "PolynomialWidth or LayerByLayer, or None. Received: "
            f"selection_schedule={schedule!r} of type {type(schedule).__name__}"
        )
    return schedule


def prune_scope():
    """A scope in which Keras knows the layers and schedules of wrapped models.

    Importing `keras_greedy` is enough to load a saved model; this is for those used
    to TF-MOT's `prune_scope`.

    Example:

    ```python
    with keras_greedy.prune_scope():
        wrapped = keras.models.load_model("wrapped.keras")
    ```
    """
    registered = keras.saving.get_custom_objects()
    return keras.saving.custom_object_scope(
        {name: o for name, o in registered.items() if name.startswith("keras_greedy>")}
    )
