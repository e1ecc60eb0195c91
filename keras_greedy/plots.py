"""The trade-off between cost and accuracy as a picture, drawn by matplotlib."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from keras_greedy.selection.divergence import FREE
from tflite_export.checks import check_folder, is_number, shown
from tflite_export.files import replacing

if TYPE_CHECKING:
    # Optional, and slow to import: at run time only where something is drawn.
    from matplotlib.figure import Figure

# Name of a series -> its points, `(share of MACs, top-1)`.
Measured: TypeAlias = Mapping[str, Iterable[tuple[float, float]]]

# Inches.
WIDTH = 6.4
HEIGHT = 3.8
HEIGHT_WITH_MEASURED = 6.4
DPI = 150
# Room at the right of the full model's point, which stands at 1.
RIGHT_END = 1.02
# A tick above 1 is in that room, and no share; the rest is for rounding.
LAST_TICK = 1.001
# By series: circle, square, diamond, triangles down and up.
MARKERS = "osDv^"


def plot_curve(
    rows: Sequence[Mapping[str, float]],
    path: str | Path,
    measured: Measured | None = None,
) -> None:
    """Draws the picture that `SelectionPaths.plot` promises.

    Args:
        rows: The rows of `SelectionPaths.curve`.
        path: See there.
        measured: See there.
    """
    figure = picture(path, HEIGHT_WITH_MEASURED if measured else HEIGHT)
    panels = figure.subplots(2 if measured else 1, sharex=True, squeeze=False)
    # The predicted curve comes first: it sets the range of the shared axis.
    _plot_predicted(panels[-1, 0], rows)
    if measured:
        _plot_measured(panels[0, 0], measured)
    for axes in figure.axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def checked_series(measured: Measured | None) -> Measured:
    """Returns the points to draw, as lists.

    Args:
        measured: See `SelectionPaths.plot`.

    Raises:
        ValueError: When it is not as described there.
    """
    series = {}
    try:
        for name, points in dict({} if measured is None else measured).items():
            series[name] = _checked_points(points)
    except (TypeError, ValueError):
        raise ValueError(
            "Expected `measured` to be a dict of lists of pairs (share of MACs, top-1),"
            f" numbers from 0 to 1. Received: measured={shown(measured)}"
        ) from None
    return series


def _checked_points(points: Iterable) -> list[tuple[float, float]]:
    pairs = []
    for share, score in points:
        for value in (share, score):
            if not is_number(value) or not 0 <= value <= 1:
                raise ValueError(value)
        pairs.append((share, score))
    return pairs


def picture(path: str | Path, height: float = 4.0) -> "Figure":
    """Returns an empty figure, if it can be written to `path`.

    Args:
        path: The file to write later.
        height: In inches.

    Raises:
        FileNotFoundError: When the folder does not exist.
        ImportError: When matplotlib is missing.
        ValueError: When the file's name does not end in a format of pictures.
    """
    path = check_folder(path)
    try:
        # Not pyplot, which would look for a screen and keep the figure alive.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which is not installed: "
            "pip install 'keras_greedy[report]'"
        ) from error
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:] not in formats:
        raise ValueError(
            f"Expected `path` to end in one of {sorted(formats)}. "
            f"Received: path={str(path)!r}"
        )
    return figure


def lowest_decade(divergences: Iterable[float]) -> float:
    """Returns the power of ten at or below all divergences that are not free.

    A logarithmic axis has no 0: below this number it has to be a linear one.

    Args:
        divergences: None below 0.
    """
    costly = [divergence for divergence in divergences if divergence > FREE]
    return 10.0 ** math.floor(math.log10(min(costly))) if costly else 1.0


def _plot_predicted(axes: Any, rows: Sequence[Mapping[str, float]]) -> None:
    divergences = [row["divergence"] for row in rows]
    shares = [row["macs"] for row in rows]
    # Not clipped: the points at 0 lie on the axis.
    axes.plot(shares, divergences, marker=".", clip_on=False)
    # Linear up to the threshold, so that there is a place for what costs nothing.
    axes.set_yscale("symlog", linthresh=lowest_decade(divergences))
    axes.set_ylim(bottom=0)
    axes.set(xlabel="MACs kept", ylabel="output divergence", xlim=(None, RIGHT_END))
    axes.set_title("Predicted from cutting each group alone", loc="left")
    axes.xaxis.set_major_formatter(_percent)


def _plot_measured(axes: Any, measured: Measured) -> None:
    for i, (name, points) in enumerate(measured.items()):
        # By share of MACs, so that the line does not turn back.
        points = sorted(points)
        (line,) = axes.plot(
            [share for share, _ in points],
            [score for _, score in points],
            marker=MARKERS[i % len(MARKERS)],
            label=name,
        )
        # Points of two series are often close, either above the other. The numbers of
        # the first stand to the lower right, where its own curve does not run; all
        # others to the upper left.
        if i == 0:
            placing = {"xytext": (4, -6), "ha": "left", "va": "top"}
        else:
            placing = {"xytext": (-4, 4), "ha": "right", "va": "bottom"}
        for share, score in points:
            axes.annotate(
                f"{score:.1%}",
                (share, score),
                textcoords="offset points",
                color=line.get_color(),
                **placing,
            )
    axes.set(ylabel="top-1")
    axes.set_title("Measured", loc="left")
    axes.yaxis.set_major_formatter(_percent)
    axes.margins(y=0.2)
    axes.legend(loc="lower right", frameon=False)


def _percent(share: float, _: int | None) -> str:
    """Formats a tick; matplotlib gives its position too."""
    return f"{100 * share:.3g}%" if share < LAST_TICK else ""
