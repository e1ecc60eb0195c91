"""When the schedules select, and how much they leave."""

import keras
import pytest

from keras_greedy import ConstantWidth, LayerByLayer, PolynomialWidth


class Recorder:
    """Stands for a `Selector`; notes what is asked for."""

    def __init__(self):
        self.asked = []

    def to_macs(self, *arguments):
        self.asked.append(arguments)

    def one_group(self, *arguments):
        self.asked.append(arguments)


def asked(schedule, steps):
    """Step -> what is asked for then, of a training of so many steps."""
    found, done = {}, 0
    for step in range(steps):
        due, recorder = schedule.selections(step), Recorder()
        for index in range(done, due):
            schedule.select(recorder, index)
        done = due
        if recorder.asked:
            (found[step],) = recorder.asked
    return found


def test_constant_width_selects_once():
    assert asked(ConstantWidth(0.4, begin_step=3), 10) == {3: (0.4, 8)}


def test_polynomial_width_goes_from_full_to_target():
    schedule = PolynomialWidth(0.5, 10, 20, power=3, frequency=5, round_to=4)
    assert asked(schedule, 40) == {15: (0.5 + 0.5 / 8, 4), 20: (0.5, 4)}


def test_polynomial_width_ends_at_its_end_between_two_steps_of_its_frequency():
    found = asked(PolynomialWidth(0.2, 0, 10, power=1, frequency=4), 40)
    assert found == {
        4: (pytest.approx(0.68), 8),
        8: (pytest.approx(0.36), 8),
        10: (0.2, 8),
    }


def test_layer_by_layer_asks_for_one_group_after_the_other():
    found = asked(LayerByLayer(0.5, begin_step=1, frequency=3), 8)
    assert found == {1: (0, 0.5, 8), 4: (1, 0.5, 8), 7: (2, 0.5, 8)}


@pytest.mark.parametrize(
    "schedule",
    [
        ConstantWidth(0.4, 3, 4),
        PolynomialWidth(0.5, 10, 20, 2, 5, 4),
        LayerByLayer(0.5, 1, 3, 4),
    ],
)
def test_schedules_are_saved(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantWidth(0.0), "`macs` to be a share .* Received: macs=0.0"),
        (lambda: ConstantWidth("half"), "`macs` to be a share"),
        (lambda: ConstantWidth(True), "`macs` to be a share"),
        (lambda: ConstantWidth(0.5, 1.5), "`begin_step`"),
        (lambda: ConstantWidth(0.5, round_to=2.5), "`round_to`"),
        (lambda: PolynomialWidth(0.5, 0, 10, frequency=1.5), "`frequency`"),
        (lambda: PolynomialWidth(0.5, 0, 10, power="3"), "`power`"),
        (lambda: PolynomialWidth(0.5, 0, None), "`end_step`"),
        (lambda: ConstantWidth(2), "Received: macs=2"),
        (lambda: ConstantWidth(0.5, -1), "Received: begin_step=-1"),
        (lambda: LayerByLayer(0.5, round_to=0), "Received: round_to=0"),
        (lambda: LayerByLayer(0.5, frequency=0), "Received: frequency=0"),
        (lambda: PolynomialWidth(0.5, 5, 5), "Received: end_step=5"),
        (lambda: PolynomialWidth(0.5, 0, 5, power=0), "Received: power=0"),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
