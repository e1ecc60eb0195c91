"""The methods of selection, and the strings and options that stand for them.

A method is a value. `prune` and `search` take one, or the strings that stand for it.
"""

import dataclasses
from typing import Any, TypeAlias

from keras_greedy.selection.moments.imitation import IMITATED, Imitation
from keras_greedy.selection.output.methods import (
    DivergenceSearch,
    LossSearch,
    OutputSearch,
)
from tflite_export.checks import check_choice

Method: TypeAlias = Imitation | OutputSearch

OUTPUT_SEARCHES: dict[str, type[OutputSearch]] = {
    "loss": LossSearch,
    "divergence": DivergenceSearch,
}

OPTIONS = {
    "candidates": f"an objective of {[*OUTPUT_SEARCHES]}: the others evaluate all "
    "channels in closed form",
    "channels_per_step": f"an objective of {[*OUTPUT_SEARCHES]}: the others evaluate "
    "all channels in closed form",
    "finetune_per_layer": "an objective that prunes layer by layer, 'loss' or "
    "'divergence'",
    "tolerance": "objective='loss', which has the labels that top-1 is of",
}
"""Option of some methods -> where it belongs, for the error."""


def method_of(
    method: Method | str | None,
    objective: str = "global",
    step: str = "corrective",
    **options: Any,
) -> Method:
    """Returns the method that the arguments of `prune` stand for.

    Args:
        method: A method as it is, or its objective; `None` for that of the strings.
        objective: Of the method, if that is not given.
        step: Likewise.
        **options: Likewise, more attributes of an `OutputSearch`; `None` for the
            default.

    Raises:
        ValueError: When one is none of the choices, or they do not go together.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(method, Imitation | OutputSearch):
        _check_no_shorthand(method, objective, step, given)
        return method
    if isinstance(method, str) and objective == "global":
        objective, method = method, None
    if method is not None:
        raise ValueError(
            "Expected `method` to be a keras_greedy.Imitation, LossSearch or "
            "DivergenceSearch, or the name of an objective instead of `objective`. "
            f"Received: method={method!r} with objective={objective!r}"
        )
    check_choice("objective", objective, [*IMITATED, *OUTPUT_SEARCHES])
    if objective in OUTPUT_SEARCHES:
        search = OUTPUT_SEARCHES[objective]
        _check_options(search, objective, given)
        return search(step=step, **given)
    _check_options(Imitation, objective, given)
    return Imitation(objective, step)


def _check_no_shorthand(
    method: Method,
    objective: str,
    step: str,
    options: dict[str, Any],
) -> None:
    if (objective, step) != ("global", "corrective") or options:
        said = {"objective": objective, "step": step, **options}
        raise ValueError(
            "Expected either `method`, or the strings and options that stand for one. "
            f"Received: method={method!r} with {said}"
        )


def _check_options(
    kind: type[Imitation] | type[OutputSearch],
    objective: str,
    options: dict[str, Any],
) -> None:
    fields = {field.name for field in dataclasses.fields(kind)}
    for name, value in options.items():
        if name not in fields:
            raise ValueError(
                f"Expected `{name}` with {OPTIONS[name]}. Received: {name}={value!r} "
                f"with objective={objective!r}"
            )
