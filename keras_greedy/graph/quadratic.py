"""Costs as forms of the widths of groups, most of them quadratic.

Each weight costs `coefficient * n_first * n_second`, where the counts are of the
channels along two of its axes. Work at positions that are channels, too, has more
counts. Each count is linear in the widths: a constant plus so many positions per
channel of each group.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from keras_greedy.graph.branches import NEVER, Condition, holds
from keras_greedy.graph.channels import ChannelGroup

# The row of the counts that is 1 at all widths: the second count of a term of one.
ONE = 0
# More counts than that are no quadratic form.
QUADRATIC = 2


class CountRows:
    """Counts of channels, each a row `(G + 1,)` that is linear in the G widths.

    The last entry is the constant. Row `ONE` counts 1 at all widths.

    Args:
        groups: The groups.
        others: How many other numbers there are to choose, behind the widths.
    """

    def __init__(self, groups: Sequence[ChannelGroup], others: int = 0):
        self._length = len(groups) + others + 1
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

    def add_number(self, number: int) -> int:
        """Adds one of the widths or other numbers itself.

        Returns:
            The index of its row.
        """
        row = np.zeros(self._length)
        row[number] = 1.0
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
    """A weight's part of a cost: `coefficient` times the counts of all `rows`."""

    coefficient: float
    rows: tuple[int, ...] = ()


# What terms take to go -> those that go together.
TermsByCondition: TypeAlias = dict[Condition, list[Term]]


class Forms:
    """A cost as forms: that of the whole model, those of what may go.

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
                self._of_condition[condition] = Form(own, counts)
        self._of_all = Form(every, counts)

    def value(self, columns: np.ndarray, is_empty: Mapping[str, Any]) -> Any:
        """Returns the cost at some widths.

        Args:
            columns: `(G + 1, ...)` the widths, and a 1 behind.
            is_empty: Group name -> where it has no channels, of those that take what
                else goes with it, `(...)` each.

        Returns:
            `(...)`.
        """
        total = self._of_all.value(columns)
        for condition, form in self._of_condition.items():
            is_gone = holds(condition, is_empty)
            if np.any(is_gone):
                total = total - is_gone * form.value(columns)
        return total


class Form:
    """The sum of some terms as a function of the widths.

    Args:
        terms: Of a cost; there may be none.
        counts: `(K, G + 1)` the counts that they refer to.
    """

    def __init__(self, terms: Sequence[Term], counts: np.ndarray):
        self._quadratic = quadratic_form(terms, counts)
        others: dict[int, list[Term]] = collections.defaultdict(list)
        for term in terms:
            if len(term.rows) > QUADRATIC:
                others[len(term.rows)].append(term)
        # Of T terms of as many counts: `(T,)` coefficients, and `(T, counts, G + 1)`
        # what they are to be multiplied by.
        self._others = []
        for alike in others.values():
            coefficients = np.array([term.coefficient for term in alike])
            rows = np.array([term.rows for term in alike])
            self._others.append((coefficients, counts[rows]))

    def value(self, columns: np.ndarray) -> np.ndarray:
        """Returns the `(...)` value at `(G + 1, ...)` widths and a 1 behind."""
        # (G + 1, G + 1) x (G + 1, ...) -> (G + 1, ...): the form with the widths on
        # one side, and then on the other.
        products = columns * np.tensordot(self._quadratic, columns, axes=1)
        total = products.sum(axis=0)
        for coefficients, counts in self._others:
            # (T, counts, ...): each count at these widths.
            at_widths = np.tensordot(counts, columns, axes=1)
            total = total + np.tensordot(coefficients, at_widths.prod(axis=1), axes=1)
        return total


def quadratic_form(terms: Sequence[Term], counts: np.ndarray) -> np.ndarray:
    """Returns the sum of terms as a form of the widths w and a 1 behind: w' Q w.

    Args:
        terms: Of a cost; there may be none. Those of more than two counts are left out.
        counts: `(K, G + 1)` the counts that they refer to.

    Returns:
        `(G + 1, G + 1)` Q.
    """
    length = counts.shape[1]
    form = np.zeros((length, length))
    for term in terms:
        if len(term.rows) > QUADRATIC:
            continue
        first, second, *_ = [*term.rows, ONE, ONE]
        # Each count is linear in the widths: their product is a form of rank one.
        form += term.coefficient * np.outer(counts[first], counts[second])
    return form
