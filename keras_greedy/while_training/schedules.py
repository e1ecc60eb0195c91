"""When to select during training, and how much to leave."""

from typing import Any, Protocol

import keras

from keras_greedy.while_training.arguments import keywords_behind_macs
from tflite_export.checks import check_number, is_count, is_number


class Narrows(Protocol):
    """The part of a `Selector` that a schedule calls."""

    def to_macs(self, share: float, round_to: int) -> None:
        """Narrows all groups until a share of the full model's MACs is left."""
        ...

    def one_group(self, index: int, share: float, round_to: int) -> None:
        """Narrows one group, as far as the groups behind it cannot spare it."""
        ...


class SelectionSchedule:
    """The base of the schedules: selections come at certain training steps.

    A schedule of your own has `selections` and `select`, a `get_config` if it has
    arguments of its own, and is registered with Keras, so that it is saved with the
    model. Schedules of one class with the same `get_config` are equal.

    Args:
        macs: Share of the full model's multiply-accumulates to keep in the end.
        begin_step: The training step of the first selection.
        round_to: Widths are multiples of this.

    Raises:
        ValueError: When an argument is out of its range.

    Example:

    ```python
    import keras

    import keras_greedy


    @keras.saving.register_keras_serializable("mine")
    class InTwoSteps(keras_greedy.SelectionSchedule):
        def selections(self, step):
            return (step >= self.begin_step) + (step >= self.begin_step + 100)

        def select(self, selector, index):
            share = (1 + self.macs) / 2 if index == 0 else self.macs
            selector.to_macs(share, self.round_to)


    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(16), keras.layers.Dense(3)]
    )
    wrapped = keras_greedy.prune_greedy(model, InTwoSteps(0.5, begin_step=50))
    ```
    """

    @keywords_behind_macs
    def __init__(self, macs: float, *, begin_step: int = 0, round_to: int = 8):
        is_share = is_number(macs) and 0 < macs <= 1
        check_number("macs", macs, "a share above 0 and up to 1", is_share)
        is_step = is_count(begin_step, minimum=0)
        check_number("begin_step", begin_step, "a step from 0 on", is_step)
        check_number("round_to", round_to, "a positive integer", is_count(round_to))
        self.macs = macs
        self.begin_step = begin_step
        self.round_to = round_to

    def selections(self, step: int) -> int:
        """Returns how many selections are due up to a step, that one included."""
        raise NotImplementedError

    def select(self, selector: Narrows, index: int) -> None:
        """Makes the selection of this index, counted from 0.

        Args:
            selector: The wrapped model: its `to_macs(share, round_to)` narrows all
                groups until this share of the full model's MACs is left, its
                `one_group(index, share, round_to)` one group.
            index: Of the selection.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        arguments = [f"{name}={value!r}" for name, value in self.get_config().items()]
        return f"{type(self).__name__}({', '.join(arguments)})"

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self.get_config() == other.get_config()

    def __hash__(self) -> int:
        # Equal configs may hold what has no hash, or 1 and 1.0.
        return hash(type(self))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "macs": self.macs,
            "begin_step": self.begin_step,
            "round_to": self.round_to,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SelectionSchedule":
        """Makes the schedule of such arguments."""
        return cls(**config)


@keras.saving.register_keras_serializable("keras_greedy")
class ConstantWidth(SelectionSchedule):
    """One selection of all groups, straight to the target.

    Args:
        macs: Share of the full model's multiply-accumulates to keep.
        begin_step: The training step it comes before.
        round_to: Widths are multiples of this.

    Raises:
        ValueError: When an argument is out of its range.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(16), keras.layers.Dense(3)]
    )
    schedule = keras_greedy.ConstantWidth(0.5, begin_step=1000)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    ```
    """

    def selections(self, step: int) -> int:
        return int(step >= self.begin_step)

    def select(self, selector: Narrows, index: int) -> None:
        selector.to_macs(self.macs, self.round_to)


@keras.saving.register_keras_serializable("keras_greedy")
class PolynomialWidth(SelectionSchedule):
    """From the full model to the target in many selections, first fast, then slowly.

    `macs + (1 - macs) (1 - progress)^power`, as the sparsity of TF-MOT's
    `PolynomialDecay`.

    Args:
        macs: Share of the full model's multiply-accumulates to keep in the end.
        begin_step: The training step before the first selection.
        end_step: The training step of the last.
        power: Of the polynomial.
        frequency: Training steps from one selection to the next.
        round_to: Widths are multiples of this.

    Raises:
        ValueError: When an argument is out of its range.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(16), keras.layers.Dense(3)]
    )
    schedule = keras_greedy.PolynomialWidth(0.5, begin_step=0, end_step=2000)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    ```

    Reference: Zhu and Gupta, To Prune or Not to Prune, 2017, arXiv 1710.01878.
    """

    @keywords_behind_macs
    def __init__(
        self,
        macs: float,
        *,
        begin_step: int,
        end_step: int,
        power: float = 3,
        frequency: int = 100,
        round_to: int = 8,
    ):
        super().__init__(macs, begin_step=begin_step, round_to=round_to)
        is_later = is_count(end_step, minimum=begin_step + 1)
        check_number("end_step", end_step, "a step behind `begin_step`", is_later)
        is_power = is_number(power) and power > 0
        check_number("power", power, "a positive number", is_power)
        check_number("frequency", frequency, "a positive integer", is_count(frequency))
        self.end_step = end_step
        self.power = power
        self.frequency = frequency

    def selections(self, step: int) -> int:
        steps = min(step, self.end_step) - self.begin_step
        # The last one comes at `end_step`, a multiple of the frequency or not.
        is_last = step >= self.end_step and steps % self.frequency != 0
        return max(0, steps // self.frequency + is_last)

    def select(self, selector: Narrows, index: int) -> None:
        steps = (index + 1) * self.frequency
        left = max(0.0, 1 - steps / (self.end_step - self.begin_step))
        macs = self.macs + (1 - self.macs) * left**self.power
        selector.to_macs(macs, self.round_to)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "end_step": self.end_step,
            "power": self.power,
            "frequency": self.frequency,
        }


@keras.saving.register_keras_serializable("keras_greedy")
class LayerByLayer(SelectionSchedule):
    """One group after the other, in the order the data flow, training in between.

    With `objective="loss"` and `step="uniform"` it is the procedure of the paper below.
    Each group gets the width that a local imitation of all groups not selected yet
    allots to it.

    Args:
        macs: Share of the full model's multiply-accumulates to keep in the end.
        begin_step: The training step before the first group.
        frequency: Training steps from one group to the next.
        round_to: Widths are multiples of this.

    Raises:
        ValueError: When an argument is out of its range.

    Example:

    ```python
    import keras

    import keras_greedy

    model = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(16), keras.layers.Dense(3)]
    )
    schedule = keras_greedy.LayerByLayer(0.5, frequency=500)
    wrapped = keras_greedy.prune_greedy(
        model, schedule, objective="loss", step="uniform"
    )
    ```

    Reference: Ye, Gong, Nie, Zhou, Klivans and Liu, Good Subnetworks Provably Exist:
    Pruning via Greedy Forward Selection, ICML 2020.
    """

    @keywords_behind_macs
    def __init__(
        self,
        macs: float,
        *,
        begin_step: int = 0,
        frequency: int = 100,
        round_to: int = 8,
    ):
        super().__init__(macs, begin_step=begin_step, round_to=round_to)
        check_number("frequency", frequency, "a positive integer", is_count(frequency))
        self.frequency = frequency

    def selections(self, step: int) -> int:
        return max(0, (step - self.begin_step) // self.frequency + 1)

    def select(self, selector: Narrows, index: int) -> None:
        selector.one_group(index, self.macs, self.round_to)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"frequency": self.frequency}


def checked_schedule(schedule: SelectionSchedule | None) -> SelectionSchedule:
    """Returns a schedule as it is; half the MACs at once for `None`."""
    if schedule is None:
        return ConstantWidth(0.5)
    if not isinstance(schedule, SelectionSchedule):
        raise ValueError(
            "Expected `selection_schedule` to be a keras_greedy.SelectionSchedule, as "
            "ConstantWidth, PolynomialWidth or LayerByLayer, or None. Received: "
            f"selection_schedule={schedule!r} of type {type(schedule).__name__}"
        )
    return schedule
