"""The share of the model that a budget asked for, and the share that is kept."""

from keras_greedy.budget.budget import SHORT, Budget, Limit, Unit
from keras_greedy.graph.costs import Costs


def asked_and_kept(
    budget: Budget,
    costs: Costs,
    widths: dict[str, int],
) -> str | None:
    """Returns a line that tells both, with the reason where they are far apart.

    `None` for a budget of latency alone, of which the `Report` tells the milliseconds.

    Args:
        budget: The limits.
        costs: The costs of the graph.
        widths: Group name -> the width that it has got.
    """
    counted = [
        limit for limit in budget.limits(costs) if limit.unit is not Unit.MILLISECONDS
    ]
    if not counted:
        return None
    parts = [_share(limit, widths) for limit in counted]
    line = f"Kept {' and '.join(parts)}."
    unused = min(limit.unused(widths) for limit in counted)
    if unused <= SHORT or budget.limits_latency:
        return line
    line += f" Widths are multiples of round_to={budget.round_to}, and no"
    line += " others within the budget are predicted to be better"
    if budget.round_to > 1:
        finer = max(1, int(budget.round_to) // 2)
        line += f": `Budget(..., round_to={finer})` has more of them to choose from"
    return f"{line}."


def _share(limit: Limit, widths: dict[str, int]) -> str:
    full = limit.cost()
    asked = min(limit.most / full, 1)
    kept = limit.cost(widths) / full
    return f"{kept:.1%} of the {limit.unit.value}, where {asked:.1%} were asked for"
