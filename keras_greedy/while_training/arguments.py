"""Arguments written as an earlier version, or TF-MOT, has them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from tflite_export.user_warnings import warn_user

Init = TypeVar("Init", bound=Callable[..., None])

MOST_ROUND_TO = 64
"""By position: no kernel asks for wider multiples, but an end step is larger."""

OF_SCHEDULES = {
    "target_sparsity": "it is `macs`, the share that is kept",
    "final_sparsity": "it is `macs`, the share that is kept",
    "initial_sparsity": "a schedule begins with the full model",
    "end_step": "this schedule has no end: see PolynomialWidth",
    "frequency": "this schedule selects once: see PolynomialWidth",
}
"""Arguments of TF-MOT's schedules -> their counterpart here."""

OF_PRUNE = {
    "pruning_schedule": "it is `selection_schedule`",
    "pruning_policy": "it is `policy`",
    "schedule": "it is `selection_schedule`",
    "block_size": "whole channels are removed, not blocks of weights",
    "block_pooling_type": "whole channels are removed, not blocks of weights",
    "sparsity_m_by_n": "whole channels are removed, not single weights",
}
"""Arguments of TF-MOT's `prune_low_magnitude` -> their counterpart here."""


def refuse_others(function: str, arguments: dict[str, Any], known: dict) -> None:
    """Raises a TypeError for an argument that a function does not have.

    Args:
        function: The function's name.
        arguments: The keyword arguments that it was given too many.
        known: Names that others have -> their counterpart here.
    """
    for name in arguments:
        if name in known:
            raise TypeError(f"{function} has no `{name}`: {known[name]}")
        raise TypeError(f"{function}() got an unexpected keyword argument '{name}'")


def keywords_behind_macs(init: Init) -> Init:
    """Lets a schedule's constructor take arguments by position, with a warning.

    They stand where other libraries' schedules have arguments of another meaning.
    """
    parameters = inspect.signature(init).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    accepted = {"macs", *keywords}

    @functools.wraps(init)
    def checked(self: Any, *positional: Any, **named: Any) -> None:
        name = type(self).__name__
        # A subclass may take more than the base does, and checks that itself.
        if type(self).__init__ is checked:
            others = {key: named[key] for key in named if key not in accepted}
            refuse_others(name, others, OF_SCHEDULES)
        macs, extra = positional[:1], positional[1:]
        if len(extra) > len(keywords):
            raise TypeError(
                f"{name} takes up to {1 + len(keywords)} positional arguments, `macs` "
                f"and {', '.join(keywords)}. Received: {positional}"
            )
        for keyword, value in zip(keywords, extra, strict=False):
            if keyword in named:
                raise TypeError(f"{name} got multiple values for argument '{keyword}'")
            _warn_of_position(name, keyword, value)
            named[keyword] = value
        init(self, *macs, **named)

    return checked  # type: ignore[return-value]  # The same, but for positions.


def _warn_of_position(schedule: str, keyword: str, value: Any) -> None:
    """Warns of a positional argument; raises a TypeError for an end step."""
    if keyword == "round_to" and isinstance(value, int) and value > MOST_ROUND_TO:
        raise TypeError(
            f"Expected the positional argument behind the others of {schedule}, "
            "`round_to`, to be a multiple for widths, as 8: it is no end step. Give it "
            f"by its name. Received: {value!r}"
        )
    message = (
        f"Positional arguments of {schedule} behind `macs` will go: write "
        f"{keyword}={value!r}"
    )
    warn_user(DeprecationWarning(message))
