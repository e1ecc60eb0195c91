"""When the schedules select, and how much they leave."""

import warnings

import keras
import pytest

from keras_greedy import (
    ConstantWidth,
    LayerByLayer,
    PolynomialWidth,
    SelectionSchedule,
)


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
    schedule = PolynomialWidth(
        0.5, begin_step=10, end_step=20, power=3, frequency=5, round_to=4
    )
    assert asked(schedule, 40) == {15: (0.5 + 0.5 / 8, 4), 20: (0.5, 4)}


def test_polynomial_width_ends_at_its_end_between_two_steps_of_its_frequency():
    found = asked(
        PolynomialWidth(0.2, begin_step=0, end_step=10, power=1, frequency=4), 40
    )
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
        ConstantWidth(0.4, begin_step=3, round_to=4),
        PolynomialWidth(
            0.5, begin_step=10, end_step=20, power=2, frequency=5, round_to=4
        ),
        LayerByLayer(0.5, begin_step=1, frequency=3, round_to=4),
    ],
)
def test_schedules_are_saved(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    assert again == schedule and hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantWidth(0.0), "`macs` to be a share .* Received: macs=0.0"),
        (lambda: ConstantWidth("half"), "`macs` to be a share"),
        (lambda: ConstantWidth(True), "`macs` to be a share"),
        (lambda: ConstantWidth(0.5, begin_step=1.5), "`begin_step`"),
        (lambda: ConstantWidth(0.5, round_to=2.5), "`round_to`"),
        (
            lambda: PolynomialWidth(0.5, begin_step=0, end_step=10, frequency=1.5),
            "`frequency`",
        ),
        (lambda: PolynomialWidth(0.5, begin_step=0, end_step=10, power="3"), "`power`"),
        (lambda: PolynomialWidth(0.5, begin_step=0, end_step=None), "`end_step`"),
        (lambda: ConstantWidth(2), "Received: macs=2"),
        (lambda: ConstantWidth(0.5, begin_step=-1), "Received: begin_step=-1"),
        (lambda: LayerByLayer(0.5, round_to=0), "Received: round_to=0"),
        (lambda: LayerByLayer(0.5, frequency=0), "Received: frequency=0"),
        (
            lambda: PolynomialWidth(0.5, begin_step=5, end_step=5),
            "Received: end_step=5",
        ),
        (
            lambda: PolynomialWidth(0.5, begin_step=0, end_step=5, power=0),
            "Received: power=0",
        ),
    ],
)
def test_arguments_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_schedules_are_equal_by_class_and_arguments():
    assert ConstantWidth(0.5) == ConstantWidth(0.5, begin_step=0)
    assert ConstantWidth(0.5) != ConstantWidth(0.4)
    assert ConstantWidth(0.5) != LayerByLayer(0.5)
    assert ConstantWidth(1) == ConstantWidth(1.0)
    assert len({ConstantWidth(1), ConstantWidth(1.0), LayerByLayer(1)}) == 2


def test_a_schedule_is_shown_as_it_is_written():
    schedule = PolynomialWidth(0.5, begin_step=0, end_step=9)
    shown = "PolynomialWidth(macs=0.5, begin_step=0, round_to=8, end_step=9, power=3, "
    assert repr(schedule) == shown + "frequency=100)"
    assert eval(repr(schedule)) == schedule


@pytest.mark.parametrize(
    ("make", "same", "keyword"),
    [
        (
            lambda: ConstantWidth(0.5, 3),
            ConstantWidth(0.5, begin_step=3),
            "begin_step=3",
        ),
        (
            lambda: PolynomialWidth(0.5, begin_step=0, end_step=9),
            PolynomialWidth(0.5, begin_step=0, end_step=9),
            None,
        ),
        (
            lambda: PolynomialWidth(0.5, 0, end_step=9),
            PolynomialWidth(0.5, begin_step=0, end_step=9),
            "begin_step=0",
        ),
        (
            lambda: LayerByLayer(0.5, 1, 3, 4),
            LayerByLayer(0.5, begin_step=1, frequency=3, round_to=4),
            "round_to=4",
        ),
    ],
)
def test_positions_behind_macs_still_work_and_warn(make, same, keyword):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert make() == same
    said = [str(each.message) for each in caught]
    assert any(keyword in text for text in said) if keyword else not said
    assert {each.category for each in caught} <= {DeprecationWarning}
    assert {each.filename for each in caught} <= {__file__}


@pytest.mark.filterwarnings("ignore:Positional arguments:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConstantWidth(0.5, 0, 1000), "positional .*`round_to`.*no end step"),
        (lambda: LayerByLayer(0.5, 0, 100, 1000), "positional .*`round_to`"),
        (lambda: ConstantWidth(0.5, 0, 8, 100), "up to 3 positional arguments"),
        (lambda: ConstantWidth(0.5, 0, begin_step=0), "multiple values"),
        (lambda: ConstantWidth(), "'macs'"),
        (lambda: ConstantWidth(0.5, step=3), "unexpected keyword argument 'step'"),
        (lambda: ConstantWidth(target_sparsity=0.5), "it is `macs`, the share"),
        (lambda: ConstantWidth(0.5, end_step=9), "no `end_step`.*PolynomialWidth"),
        (
            lambda: PolynomialWidth(0.5, initial_sparsity=0, begin_step=0, end_step=9),
            "no `initial_sparsity`.*begins with the full model",
        ),
    ],
)
def test_arguments_of_other_meaning_are_refused(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_schedule_of_ones_own_may_take_more():
    class Own(SelectionSchedule):
        def __init__(self, macs, frequency, **kwargs):
            super().__init__(macs, **kwargs)
            self.frequency = frequency

        def get_config(self):
            return super().get_config() | {"frequency": self.frequency}

    own = Own(0.5, 7, begin_step=2)
    assert repr(own) == "Own(macs=0.5, begin_step=2, round_to=8, frequency=7)"
    assert own == Own.from_config(own.get_config()) != Own(0.5, 8, begin_step=2)
