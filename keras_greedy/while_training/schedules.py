"""When to select during training, and how much to leave."""

from numbers import Integral, Real

import keras


class SelectionSchedule:
    """Base of the schedules: selections come at certain training steps.

    Subclasses have a `get_config` and are registered with Keras, so that they are
    saved with the model.

    Args:
        macs: Share of the full model's multiply-accumulates to keep in the end.
        begin_step: The training step of the first selection.
        round_to: Widths are multiples of this.

    Raises:
        ValueError: When an argument is out of its range.
    """

    def __init__(self, macs: float, begin_step: int = 0, round_to: int = 8):
        is_share = _is_number(macs) and 0 < macs <= 1
        _check("macs", macs, "a share above 0 and up to 1", is_share)
        _check("begin_step", begin_step, "a step from 0 on", _is_count(begin_step, 0))
        _check("round_to", round_to, "a positive integer", _is_count(round_to, 1))
        self.macs, self.begin_step, self.round_to = macs, begin_step, round_to

    def selections(self, step: int) -> int:
        """How many selections are due up to a step, that one included."""
        raise NotImplementedError

    def select(self, selector, index: int) -> None:
        """Makes the selection of this index, counted from 0, by a `Selector`."""
        raise NotImplementedError

    def get_config(self):
        return {
            "macs": self.macs,
            "begin_step": self.begin_step,
            "round_to": self.round_to,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("keras_greedy")
class ConstantWidth(SelectionSchedule):
    """One selection of all groups, straight to the target.

    Args:
        macs: Share of the full model's multiply-accumulates to keep.
        begin_step: The training step it comes before.
        round_to: Widths are multiples of this.

    Example:

    ```python
    schedule = keras_greedy.ConstantWidth(0.5, begin_step=1000)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    ```
    """

    def selections(self, step):
        return int(step >= self.begin_step)

    def select(self, selector, index):
        selector.to_macs(self.macs, self.round_to)


@keras.saving.register_keras_serializable("keras_greedy")
class PolynomialWidth(SelectionSchedule):
    """From the full model to the target in many selections, first fast, then slowly.

    `macs + (1 - macs) (1 - progress)^power`, as the sparsity of TF-MOT's
    `PolynomialDecay` [Zhu and Gupta, 2017, arXiv 1710.01878].

    Args:
        macs: Share of the full model's multiply-accumulates to keep in the end.
        begin_step: The training step before the first selection.
        end_step: The training step of the last.
        power: Of the polynomial.
        frequency: Training steps from one selection to the next.
        round_to: Widths are multiples of this.

    Example:

    ```python
    schedule = keras_greedy.PolynomialWidth(0.5, 0, end_step=2000)
    wrapped = keras_greedy.prune_greedy(model, schedule)
    ```
    """

    def __init__(self, macs, begin_step, end_step, power=3, frequency=100, round_to=8):
        super().__init__(macs, begin_step, round_to)
        later = "a step behind `begin_step`"
        _check("end_step", end_step, later, _is_count(end_step, begin_step + 1))
        _check("power", power, "a positive number", _is_number(power) and power > 0)
        _check("frequency", frequency, "a positive integer", _is_count(frequency, 1))
        self.end_step, self.power, self.frequency = end_step, power, frequency

    def selections(self, step):
        steps = min(step, self.end_step) - self.begin_step
        # The last one comes at `end_step`, a multiple of the frequency or not.
        is_last = step >= self.end_step and steps % self.frequency != 0
        return max(0, steps // self.frequency + is_last)

    def select(self, selector, index):
        steps = (index + 1) * self.frequency
        left = max(0.0, 1 - steps / (self.end_step - self.begin_step))
        macs = self.macs + (1 - self.macs) * left**self.power
        selector.to_macs(macs, self.round_to)

    def get_config(self):
        return super().get_config() | {
            "end_step": self.end_step,
            "power": self.power,
            "frequency": self.frequency,
        }


@keras.saving.register_keras_serializable("keras_greedy")
class LayerByLayer(SelectionSchedule):
    """One group after the other, in the order the data flow, training in between.

    That is the procedure of Ye et al., ICML 2020, with `objective="loss"` and
    `step="uniform"`. Each group gets the width that a local imitation of all groups
    not selected yet allots to it.

    Args:
        macs: Share of the full model's multiply-accumulates to keep in the end.
        begin_step: The training step before the first group.
        frequency: Training steps from one group to the next.
        round_to: Widths are multiples of this.

    Example:

    ```python
    wrapped = keras_greedy.prune_greedy(
        model,
        keras_greedy.LayerByLayer(0.5, frequency=500),
        objective="loss",
        step="uniform",
    )
    ```
    """

    def __init__(self, macs, begin_step=0, frequency=100, round_to=8):
        super().__init__(macs, begin_step, round_to)
        _check("frequency", frequency, "a positive integer", _is_count(frequency, 1))
        self.frequency = frequency

    def selections(self, step):
        return max(0, (step - self.begin_step) // self.frequency + 1)

    def select(self, selector, index):
        selector.one_group(index, self.macs, self.round_to)

    def get_config(self):
        return super().get_config() | {"frequency": self.frequency}


def _is_number(value) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_count(value, least: int) -> bool:
    return _is_number(value) and isinstance(value, Integral) and value >= least


def _check(name, value, expected, holds):
    if not holds:
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={value!r}"
        )
