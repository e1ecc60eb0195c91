"""Costs as quadratic forms of the widths of groups.

Each weight costs `coefficient * n_first * n_second`, where the counts are of the
channels along two of its axes. Each count is linear in the widths: a constant plus so
many positions per channel of each group.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from keras_greedy.graph.branches import NEVER, Condition, holds
from keras_greedy.graph.channels import ChannelGroup

# The row of the counts that is 1 at all widths: the factor of an axis without channels.
ONE = 0


class CountRows:
    """Counts of channels, each a row `(G + 1,)` that is linear in the G widths.

    The last entry is the constant. Row `ONE` counts 1 at all widths.
    """

    def __init__(self, groups: Sequence[ChannelGroup]):
        self._length = len(groups) + 1
        # Channel number -> its group, and the part of the group's width that it is.
        self._share_of: dict[int, tuple[int, float]] = {}
        for i, group in enumerate(groups):
            for channel in group.channels:
                self._share_of[channel] = (i, 1 / group.size)
        one = np.zeros(self._length)
        one[-1] = 1.0
        self._rows = [one]

    def add(self, channels: np.ndarray) -> int:
        """Adds the count of the positions `(C,)` with these channel numbers.

        Returns:
            The index of its row.
        """
        row = np.zeros(self._length)
        for channel in channels:
            # Channels of no group stay: they are part of the constant.
            group, share = self._share_of.get(channel, (-1, 1))
            row[group] += share
        self._rows.append(row)
        return len(self._rows) - 1

    def groups_of(self, channels: np.ndarray) -> list[int]:
        """Returns the numbers of the groups that some channel numbers belong to."""
        groups = {self._share_of[id_][0] for id_ in channels if id_ in self._share_of}
        return sorted(groups)

    def matrix(self) -> np.ndarray:
        """Returns the `(K, G + 1)` rows."""
        return np.array(self._rows)


class Term(NamedTuple):
    """A weight's part of a cost: `coefficient * counts[first] * counts[second]`."""

    coefficient: float
    first: int
    second: int


# What terms take to go -> those that go together.
TermsByCondition: TypeAlias = dict[Condition, list[Term]]


class Forms:
    """A cost as quadratic forms: that of the whole model, those of what may go.

    Args:
        terms: Of the cost.
        counts: `(K, G + 1)` the counts that they refer to.
    """

    def __init__(self, terms: TermsByCondition, counts: np.ndarray):
        every: list[Term] = []
        self._of_condition = {}
        for condition, own in terms.items():
            every += own
            if condition != NEVER:
                self._of_condition[condition] = quadratic_form(own, counts)
        self._of_all = quadratic_form(every, counts)

    def value(self, columns: np.ndarray, is_empty: Mapping[str, Any]) -> Any:
        """Returns the cost at some widths.

        Args:
            columns: `(G + 1, ...)` the widths, and a 1 behind.
            is_empty: Group name -> where it has no channels, of those that take what
                else goes with it, `(...)` each.

        Returns:
            `(...)`.
        """
        total = _value(self._of_all, columns)
        for condition, form in self._of_condition.items():
            is_gone = holds(condition, is_empty)
            if np.any(is_gone):
                total = total - is_gone * _value(form, columns)
        return total


def _value(form: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns the `(...)` value of a form at `(G + 1, ...)` widths and a 1 behind."""
    # (G + 1, G + 1) x (G + 1, ...) -> (G + 1, ...): the form with the widths on one
    # side, and then on the other.
    products = columns * np.tensordot(form, columns, axes=1)
    return products.sum(axis=0)


def quadratic_form(terms: Sequence[Term], counts: np.ndarray) -> np.ndarray:
    """Returns the sum of terms as a form of the widths w and a 1 behind: w' Q w.

    Args:
        terms: Of a cost; there may be none.
        counts: `(K, G + 1)` the counts that they refer to.

    Returns:
        `(G + 1, G + 1)` Q.
    """
    length = counts.shape[1]
    form = np.zeros((length, length))
    for term in terms:
        # Each count is linear in the widths: their product is a form of rank one.
        form += term.coefficient * np.outer(counts[term.first], counts[term.second])
    return form
