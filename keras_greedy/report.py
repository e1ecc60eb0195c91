"""What pruning changed: widths and costs as a table, the trade-off as a picture."""

import dataclasses
import json
from typing import NamedTuple

import keras

from keras_greedy.graph.costs import Costs
from keras_greedy.graph.trace import trace_quietly
from tflite_export.checks import check_folder
from tflite_export.files import replacing


class Change(NamedTuple):
    """A number before and after pruning."""

    before: float
    after: float

    @property
    def kept(self) -> float:
        """The share that is left."""
        return self.after / self.before

    def to_dict(self) -> dict:
        """Returns `before`, `after` and `kept`."""
        return {**self._asdict(), "kept": self.kept}


@dataclasses.dataclass(frozen=True)
class Report:
    """What pruning made of a model's size.

    `str()` gives an aligned table for a terminal.

    Attributes:
        widths: Group name -> its number of channels, `before` and `after`.
        macs: Multiply-accumulates of one input, `before` and `after`.
        params: Parameters, `before` and `after`.
        predicted_ms: Latency by the table of a latency budget, `before` and `after`.
        measured_ms: The same as then measured, if it was.

    Example:

    ```python
    report = keras_greedy.compare(model, compact)
    print(report)
    print(report.macs.before, report.macs.after, report.macs.kept)
    ```
    """

    widths: dict[str, Change]
    macs: Change
    params: Change
    predicted_ms: Change | None = None
    measured_ms: Change | None = None

    def to_json(self) -> str:
        """Returns the fields as a JSON string."""
        return json.dumps(
            {
                "macs": self.macs.to_dict(),
                "params": self.params.to_dict(),
                **{name: c.to_dict() for name, c in self._latencies().items()},
                "widths": {name: c.to_dict() for name, c in self.widths.items()},
            }
        )

    def to_markdown(self) -> str:
        """Returns the table in markdown."""
        return markdown(self._rows())

    def __str__(self):
        return aligned(self._rows())

    def _rows(self) -> list[tuple[str, ...]]:
        totals = {"MACs": self.macs, "parameters": self.params}
        return (
            [("channels of", "before", "after", "kept")]
            + [
                (name, f"{change.before:,}", f"{change.after:,}", f"{change.kept:.1%}")
                for name, change in [*self.widths.items(), *totals.items()]
            ]
            + [
                (
                    f"latency, {name.replace('_', ', ')}",
                    f"{change.before:.3g}",
                    f"{change.after:.3g}",
                    f"{change.kept:.1%}",
                )
                for name, change in self._latencies().items()
            ]
        )

    def _latencies(self) -> dict[str, Change]:
        both = {"predicted_ms": self.predicted_ms, "measured_ms": self.measured_ms}
        return {name: change for name, change in both.items() if change is not None}


def compare(model: keras.Model, compact: keras.Model) -> Report:
    """Says what is left of a model's channels, MACs and parameters.

    Args:
        model: The full model.
        compact: What pruning made of it.

    Returns:
        The `Report`.

    Raises:
        ValueError: When `compact` does not have the channel groups of `model`.

    Example:

    ```python
    compact = keras_greedy.prune(model, images, budget=0.5)
    print(keras_greedy.compare(model, compact))
    ```
    """
    full, small = trace_quietly(model), trace_quietly(compact)
    if full.widths.keys() != small.widths.keys():
        raise ValueError(
            "Expected `compact` to be pruned from `model`, with the same groups of "
            f"channels, {[*full.widths]}. Received: a model with {[*small.widths]}"
        )
    before, after = Costs(full), Costs(small)
    return Report(
        {n: Change(width, small.widths[n]) for n, width in full.widths.items()},
        Change(before.macs(), after.macs()),
        Change(before.params(), after.params()),
    )


def planned(costs: Costs, sizes: dict[str, int], widths: dict[str, int]) -> Report:
    """The report of a compact model that is not built.

    Args:
        costs: Of the full model.
        sizes: Group name -> its width in the full model.
        widths: Group name -> its width in the compact one.
    """
    return Report(
        {name: Change(size, widths[name]) for name, size in sizes.items()},
        Change(costs.macs(), costs.macs(widths)),
        Change(costs.params(), costs.params(widths)),
    )


def plot_curve(rows: list[dict], path, measured: dict | None = None) -> None:
    """Draws what `SelectionPaths.plot` promises.

    Args:
        rows: What `SelectionPaths.curve` gives.
        path: See there.
        measured: See there.
    """
    figure = picture(path, height=6.4 if measured else 3.8)
    *above, below = figure.subplots(2 if measured else 1, sharex=True, squeeze=False)
    cuts = [row for row in rows if row["divergence"] > 0]
    below[0].semilogy([r["macs"] for r in cuts], [r["divergence"] for r in cuts])
    below[0].set(xlabel="MACs kept", ylabel="output divergence", xlim=(None, 1.02))
    below[0].set_title("Predicted from cutting each group alone", loc="left")
    below[0].xaxis.set_major_formatter(_percent)
    if measured:
        _plot_measured(above[0][0], measured)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def picture(path, height: float = 4.0):
    """An empty `matplotlib.figure.Figure`, if it can be written to `path`."""
    path = check_folder(path)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which is not installed: "
            "pip install 'keras_greedy[report]'"
        ) from error
    figure = Figure(figsize=(6.4, height), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise ValueError(
            f"Expected `path` to end in one of {sorted(formats)}. "
            f"Received: path={str(path)!r}"
        )
    return figure


def _plot_measured(axes, measured):
    # The numbers of the first series stand where its curve does not run.
    for i, (name, points) in enumerate(measured.items()):
        points = sorted(points)
        axes.plot(*zip(*points, strict=True), marker="osDv^"[i % 5], label=name)
        for point in points:
            axes.annotate(
                f"{point[1]:.1%}",
                point,
                (4, 6 if i else -6),
                textcoords="offset points",
                ha="center" if i else "left",
                va="bottom" if i else "top",
            )
    axes.set(ylabel="top-1")
    axes.set_title("Measured", loc="left")
    axes.yaxis.set_major_formatter(_percent)
    axes.margins(y=0.2)
    axes.legend(loc="lower right", frameon=False)


def _percent(share, _):
    return f"{100 * share:.3g}%" if share < 1.001 else ""


def aligned(rows) -> str:
    """Rows of strings as a table for a terminal, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        padded = [n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]))
    return "\n".join(lines)


def markdown(rows) -> str:
    """Rows of strings as a table in markdown."""
    header, *body = rows
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *body])
