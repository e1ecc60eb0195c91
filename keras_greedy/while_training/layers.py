"""The layers of a model that is pruned while it trains: gates, and their wrappers."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_greedy.graph.rules import public_key, rule_for
from keras_greedy.selection.methods import method_of
from keras_greedy.while_training.schedules import SelectionSchedule, checked_schedule

NO_CALLBACK = (
    "Expected a `GreedySelectionStep` while a model with `GreedyChannels` layers "
    "trains: without it nothing is ever selected. Pass it to fit, "
    "`model.fit(..., callbacks=[keras_greedy.GreedySelectionStep(data)])`, or, in a "
    "training loop of your own, make one, call its `set_model(model)` and "
    "`on_train_begin()` before the loop, and `on_train_batch_begin(batch)` before each "
    "step. Received: a call of layer '{}' with training=True and no such callback"
)

PACKAGE = "keras_greedy"


@keras.saving.register_keras_serializable(PACKAGE)
class ChannelGate(keras.layers.Layer):
    """The gates of a group: which of its channels are kept.

    Args:
        size: How many channels there are.
        **kwargs: As for `keras.layers.Layer`.

    Attributes:
        kept: `(size,)` variable of ones and zeros.
        error: Scalar variable: the error of the selection, as a share of that of
            no channel at all.
    """

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**{"trainable": False} | kwargs)
        self.size = size
        self.kept = self.add_weight(
            (size,),
            "ones",
            name="kept",
            trainable=False,
            dtype="float32",
        )
        self.error = self.add_weight(
            (),
            "zeros",
            name="error",
            trainable=False,
            dtype="float32",
        )
        self.built = True
        # A model that was loaded may be of any time in a schedule.
        self.is_loaded = False

    def call(self, inputs: Any) -> Any:
        return inputs * self.kept

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self.is_loaded = True

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"size": self.size}


@keras.saving.register_keras_serializable(PACKAGE)
class GreedyChannels(keras.layers.Wrapper):
    """A layer that reads channels through gates.

    Made by `prune_greedy`. The input of the layer is multiplied by the gates; a
    normalisation over the channels takes its statistics over the kept ones. So it is
    not this layer that gets narrower, but those before it that make the channels.

    Args:
        layer: A layer that reads all channels of its input, or normalises over them.
        selection_schedule: When to select, and how much to keep.
        objective: As for `prune`.
        step: As for `prune`.
        gates: The `ChannelGate`s of the groups it reads; by default one of its own
            for all of its input, made when the layer is built.
        places: `(C,)` place of each channel of the input in the row of all gates,
            counted from 1; 0 for those without a gate.
        **kwargs: As for `keras.layers.Layer`.

    Attributes:
        macs_left: The share of the model's MACs that the last selection left; `None`
            before the first, and in a model that was loaded.

    Raises:
        ValueError: When `layer` is not as described.

    Example:

    ```python
    import keras

    import keras_greedy

    schedule = keras_greedy.ConstantWidth(0.5)
    wrapped = keras_greedy.GreedyChannels(keras.layers.Dense(10), schedule)
    model = keras.Sequential([keras.Input((32,)), keras.layers.Dense(16), wrapped])
    ```
    """

    def __init__(
        self,
        layer: keras.Layer,
        selection_schedule: SelectionSchedule | None = None,
        objective: str = "global",
        step: str = "corrective",
        gates: list[ChannelGate] | None = None,
        places: list[int] | None = None,
        **kwargs: Any,
    ):
        if not reads_channels(layer):
            raise ValueError(
                "Expected `layer` to be one whose rule says that it reads all channels "
                "of its input or normalises over them, as Conv2D, Dense and "
                f"LayerNormalization. Received: layer={layer!r}"
            )
        options = {
            "name": f"greedy_{layer.name}",
            "trainable": layer.trainable,
            "dtype": layer.dtype_policy,
        }
        super().__init__(layer, **options | kwargs)
        self.supports_masking = layer.supports_masking
        self.selection_schedule = checked_schedule(selection_schedule)
        method_of(None, objective, step)  # Raises when there is no such method.
        self.objective = objective
        self.step = step
        self.gates: list[ChannelGate] = []
        self.places = places or []
        self._hold(gates or [])
        self.macs_left: float | None = None
        self._is_running: Callable[[], bool] | None = None

    @property
    def has_callback(self) -> bool:
        """Returns whether a `GreedySelectionStep` takes care of the selection."""
        return self._is_running is not None and self._is_running()

    def follow(self, is_running: Callable[[], bool]) -> None:
        """Lets the wrapper be trained while a run with selections goes on.

        Args:
            is_running: Returns whether it does.
        """
        self._is_running = is_running

    def build(self, input_shape: tuple) -> None:
        super().build(input_shape)
        if not self.gates:
            channels = input_shape[-1]
            self._hold([ChannelGate(channels, name=f"gate_{self.layer.name}")])
            self.places = list(range(1, channels + 1))
        self.built = True

    def _hold(self, gates: list[ChannelGate]) -> None:
        self.gates = gates
        # `tf.train.Checkpoint` does not look into lists. These names are behind
        # "gates" in the alphabet: Keras' own files stay as they are.
        for index, gate in enumerate(gates):
            setattr(self, f"gates_{index}", gate)

    def call(self, inputs: Any, training: bool | None = None, **kwargs: Any) -> Any:
        if training and not self.has_callback:
            raise RuntimeError(NO_CALLBACK.format(self.name))
        gates = [ops.convert_to_tensor(gate.kept) for gate in self.gates]
        # Place 0, of channels without a gate, is always open.
        always_open = ops.ones((1,), gates[0].dtype)
        in_a_row = ops.concatenate([always_open, *gates])
        mask = ops.cast(ops.take(in_a_row, self.places), inputs.dtype)
        rule = rule_for(public_key(self.layer), self.layer)
        assert rule is not None  # The constructor refuses other layers.
        if rule.normalizes:
            return rule.over_kept(self.layer, inputs, mask)
        return self.layer(inputs * mask, **kwargs)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return self.layer.compute_output_shape(input_shape)

    def kept(self) -> np.ndarray:
        """Returns the `(C,)` mask of the kept channels of its input."""
        gates = [ops.convert_to_numpy(gate.kept) for gate in self.gates]
        return np.concatenate([[1.0], *gates])[self.places] != 0

    def errors(self) -> np.ndarray:
        """Returns the `(C,)` error of the last selection in each channel's group."""
        errors = []
        for gate in self.gates:
            error = ops.convert_to_numpy(gate.error)
            errors.append(np.full(gate.size, error))
        return np.concatenate([[0.0], *errors])[self.places]

    def keep(self, mask: np.ndarray, errors: np.ndarray) -> None:
        """Sets the gates.

        Args:
            mask: `(C,)` which channels of the input to keep.
            errors: `(C,)` the error of the selection in each channel's group.
        """
        size = 1 + sum(gate.size for gate in self.gates)
        kept_by_place = np.zeros(size)
        kept_by_place[self.places] = mask
        error_by_place = np.zeros(size)
        error_by_place[self.places] = errors
        start = 1
        for gate in self.gates:
            own = slice(start, start + gate.size)
            gate.kept.assign(kept_by_place[own])
            # All channels of a group have the error of one selection.
            gate.error.assign(error_by_place[start])
            start += gate.size

    def get_config(self) -> dict[str, Any]:
        serialize = keras.saving.serialize_keras_object
        return super().get_config() | {
            "selection_schedule": serialize(self.selection_schedule),
            "objective": self.objective,
            "step": self.step,
            "gates": [_serialize_shared(gate) for gate in self.gates] or None,
            "places": list(self.places) or None,
        }

    @classmethod
    def from_config(
        cls,
        config: dict[str, Any],
        custom_objects: dict[str, Callable] | None = None,
    ) -> "GreedyChannels":
        def revived(value: Any) -> Any:
            return keras.saving.deserialize_keras_object(value, custom_objects)

        config = dict(config)
        for name in ("layer", "selection_schedule"):
            config[name] = revived(config[name])
        if config["gates"]:
            config["gates"] = [revived(gate) for gate in config["gates"]]
        return cls(**config)


def _serialize_shared(gate: ChannelGate) -> dict[str, Any]:
    """Returns the config of a gate, by which all its wrappers get one gate again."""
    # Keras marks as shared what it meets a second time, but not, in what is nested, the
    # first occurrence.
    keras.saving.serialize_keras_object(gate)
    return keras.saving.serialize_keras_object(gate)


def reads_channels(layer: keras.Operation) -> bool:
    """Returns whether it is a layer that a gate belongs in front of, by its rule."""
    if not isinstance(layer, keras.Layer):
        return False
    rule = rule_for(public_key(layer), layer)
    return bool(rule and (rule.consumes or rule.normalizes))


def wrappers_of(model: keras.Model) -> list[GreedyChannels]:
    """Returns the wrappers of a model, those of models inside it among them."""
    found: list[GreedyChannels] = []
    for layer in model.layers:
        if isinstance(layer, GreedyChannels):
            found.append(layer)
        elif isinstance(layer, keras.Model):
            found.extend(wrappers_of(layer))
    return list(dict.fromkeys(found))


def prune_scope() -> keras.saving.CustomObjectScope:
    """Returns a scope in which Keras knows the layers and schedules of wrapped models.

    Importing `keras_greedy` is enough to load a saved model; this is for those used
    to TF-MOT's `prune_scope`.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(16), keras.layers.Dense(3)]
    )
    keras_greedy.prune_greedy(model).save("wrapped.keras")
    with keras_greedy.prune_scope():
        wrapped = keras.models.load_model("wrapped.keras")
    ```
    """
    registered = keras.saving.get_custom_objects()
    own = {
        name: object_
        for name, object_ in registered.items()
        if name.startswith(f"{PACKAGE}>")
    }
    return keras.saving.custom_object_scope(own)
