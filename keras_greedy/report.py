"""Reports: widths and costs before and after pruning, as tables and as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import keras

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace_quietly
from tflite_export.html_tables import html_table

# The cells of a table's row.
Row: TypeAlias = Sequence[str]

HEADINGS = ("before", "after", "kept")

_LATENCY_LABELS = {
    "predicted_ms": "latency, predicted, ms",
    "measured_ms": "latency, measured, ms",
}


class Change(NamedTuple):
    """A number before and after pruning."""

    before: float
    after: float

    @property
    def kept(self) -> float:
        """The share that is left."""
        return self.after / self.before

    def to_dict(self) -> dict[str, float]:
        """Returns `before`, `after` and `kept`."""
        return {
            "before": self.before,
            "after": self.after,
            "kept": self.kept,
        }


@dataclasses.dataclass(frozen=True)
class Report:
    """The size of a model before and after pruning.

    `str()` gives an aligned table for a terminal.

    Attributes:
        widths: Group name -> its number of channels, `before` and `after`.
        macs: Multiply-accumulates of one input, `before` and `after`.
        params: Parameters, `before` and `after`.
        predicted_ms: Latency by the table of a latency budget, `before` and `after`.
        measured_ms: The same as then measured, if it was.

    Example:

    ```python
    import keras
    import keras_greedy


    def network(width):
        return keras.Sequential(
            [
                keras.Input((16,)),
                keras.layers.Dense(width, name="hidden"),
                keras.layers.Dense(10, name="classes"),
            ]
        )


    report = keras_greedy.compare(network(64), network(24))
    print(report)
    print(report.macs.before, report.macs.after, report.macs.kept)
    ```
    """

    widths: dict[str, Change]
    macs: Change
    params: Change
    predicted_ms: Change | None = None
    measured_ms: Change | None = None

    def __repr__(self) -> str:
        return (
            f"<Report of {len(self.widths)} groups: {self.macs.kept:.1%} of MACs, "
            f"{self.params.kept:.1%} of parameters>"
        )

    def to_json(self) -> str:
        """Returns the fields as a JSON string."""
        return json.dumps(self.to_dict())

    def to_dict(self) -> dict[str, dict]:
        """Returns the fields as dicts of numbers."""
        fields: dict[str, dict] = {
            "macs": self.macs.to_dict(),
            "params": self.params.to_dict(),
        }
        for name, change in self._latencies().items():
            fields[name] = change.to_dict()
        widths = {}
        for name, change in self.widths.items():
            widths[name] = change.to_dict()
        fields["widths"] = widths
        return fields

    def to_markdown(self) -> str:
        """Returns the table in markdown."""
        return markdown(self._rows())

    def __str__(self) -> str:
        return aligned(self._rows())

    def _repr_html_(self) -> str:
        totals = html_table(("", *HEADINGS), self.rows_of_costs())
        widths = html_table(("channels of", *HEADINGS), self.rows_of_widths())
        # Folded: a network has dozens of groups.
        return (
            f"{totals}<details><summary>{len(self.widths)} groups of channels"
            f"</summary>{widths}</details>"
        )

    def _rows(self) -> list[Row]:
        header: Row = ("channels of", *HEADINGS)
        return [header, *self.rows_of_widths(), *self.rows_of_costs()]

    def rows_of_widths(self) -> list[Row]:
        """Returns a row of the table for each group: name, before, after, kept."""
        return [_row(name, change, ",") for name, change in self.widths.items()]

    def rows_of_costs(self) -> list[Row]:
        """Returns the rows of MACs, parameters, and the latencies that are known."""
        rows = [
            _row("MACs", self.macs, ","),
            _row("parameters", self.params, ","),
        ]
        for name, change in self._latencies().items():
            label = _LATENCY_LABELS[name]
            rows.append(_row(label, change, ".3g"))
        return rows

    def _latencies(self) -> dict[str, Change]:
        """Returns those of the latency's fields that are known."""
        latencies = {}
        if self.predicted_ms is not None:
            latencies["predicted_ms"] = self.predicted_ms
        if self.measured_ms is not None:
            latencies["measured_ms"] = self.measured_ms
        return latencies


def _row(name: str, change: Change, number_format: str) -> Row:
    before = format(change.before, number_format)
    after = format(change.after, number_format)
    return name, before, after, f"{change.kept:.1%}"


def compare(model: keras.Model, compact: keras.Model) -> Report:
    """Compares the channels, MACs and parameters of a model and its pruned form.

    Args:
        model: The full model.
        compact: The model that pruning made of it.

    Returns:
        The `Report`.

    Raises:
        ValueError: When `compact` does not have the channel groups of `model`.

    Example:

    ```python
    import keras
    import numpy as np
    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    images = np.random.default_rng(0).random((32, 8, 8, 3))
    compact = keras_greedy.prune(model, images, budget=0.5)
    print(keras_greedy.compare(model, compact))
    ```
    """
    full = trace_quietly(model)
    small = trace_quietly(compact)
    names = _names_left(full, small)
    unknown = small.widths.keys() - names.values()
    gone = full.widths.keys() - names.keys()
    if unknown or not gone <= full.branches.of_groups.keys():
        raise ValueError(
            "Expected `compact` to be pruned from `model`, with the same groups of "
            f"channels, {[*full.widths]}. Received: a model with {[*small.widths]}"
        )
    left = dict.fromkeys(gone, 0)
    for name, name_left in names.items():
        left[name] = small.widths[name_left]
    before = Costs(full)
    after = Costs(small)
    return Report(
        widths=_changes(full.widths, left),
        macs=Change(before.macs(), after.macs()),
        params=Change(before.params(), after.params()),
    )


def _names_left(full: ChannelGraph, small: ChannelGraph) -> dict[str, str]:
    """Returns name of a group -> its name in the compact model, if it is left there.

    That is another one where the layer that it is named after went with a branch.
    """
    names: dict[str, str] = {}
    for group in full.groups:
        for call in group.producers:
            is_of_other = call.name in full.widths and call.name != group.name
            if call.name in small.widths and not is_of_other:
                names.setdefault(group.name, call.name)
        if group.name in small.widths:
            names[group.name] = group.name
    return names


def planned(
    costs: Costs,
    sizes: dict[str, int],
    widths: dict[str, int],
) -> Report:
    """Returns the report of a compact model that is not built.

    Args:
        costs: The costs of the full model.
        sizes: Group name -> its width in the full model.
        widths: Group name -> its width in the compact one.
    """
    return Report(
        widths=_changes(sizes, widths),
        macs=Change(
            costs.macs(),
            costs.macs(widths),
        ),
        params=Change(
            costs.params(),
            costs.params(widths),
        ),
    )


def _changes(
    before: dict[str, int],
    after: dict[str, int],
) -> dict[str, Change]:
    changes = {}
    for name, width in before.items():
        changes[name] = Change(width, after[name])
    return changes


def aligned(rows: Sequence[Row]) -> str:
    """Returns a table for a terminal, with the numbers to the right.

    Args:
        rows: The header and the rows below it, each of a name and its numbers.
    """
    widths = []
    for column in zip(*rows, strict=True):
        widths.append(max(len(cell) for cell in column))
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0])]
        for number, width in zip(numbers, widths[1:], strict=True):
            # To the right, so that digits of the same value stand in one column.
            cells.append(number.rjust(width))
        lines.append("  ".join(cells))
    return "\n".join(lines)


def markdown(rows: Sequence[Row]) -> str:
    """Returns a table in markdown.

    Args:
        rows: The header and the rows below it, each of a name and its numbers.
    """
    header, *body = rows
    rule = ["---"]
    rule += ["---:"] * (len(header) - 1)
    lines = []
    for row in (header, rule, *body):
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)
