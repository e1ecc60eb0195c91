"""Charts in SVG for the HTML report: no scripts, and no colours but those of classes.

The page that holds them says what colour the classes have, in light and in dark.
"""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from keras_greedy.plots import Measured, lowest_decade
from keras_greedy.report import Change

# The chart's own units. As wide as a telephone's screen, so that texts of 12 units
# can be read there; on larger ones it grows with its texts.
WIDTH = 400
HEIGHT = 250
LEFT = 44
RIGHT = 388
TOP = 26
BOTTOM = 211
# From an axis to its ticks' labels.
GAP = 5
FONT_SIZE = 12

# Most ticks of an axis.
TICKS = 6
# One tick of a round number, of which the power of ten is free.
ROUND_STEPS = (1, 2, 2.5, 5, 10)
# By series: colours, see the page.
COLORS = 5

BAR_HEIGHT = 18
ROW_HEIGHT = 46
LONGEST_BAR = 250
WIDEST_BAR = 40

# Place of a value on an axis, in units of the chart.
Place: TypeAlias = Callable[[float], float]
# Place of a point, and the text that shows when it is pointed at.
Mark: TypeAlias = tuple[float, float, str]


def accuracy_chart(measured: Measured, kept: float, lowest_share: float) -> str:
    """Draws measured accuracies against the share of MACs.

    Args:
        measured: Name of a series -> points `(share of MACs, top-1)`; not empty.
        kept: The share of MACs of the compact model, marked by a line.
        lowest_share: Where the axis of the shares begins.
    """
    scores = [score for points in measured.values() for _, score in points]
    step = _round_step((max(scores) - min(scores)) or 0.1)
    low = max(0.0, step * math.floor(min(scores) / step - 0.5))
    high = min(1.0, step * math.ceil(max(scores) / step + 0.5))
    place_x = _linear(lowest_share, 1.0, LEFT, RIGHT - 10)
    place_y = _linear(low, high, BOTTOM, TOP)
    ticks = {
        place_y(step * i): f"{100 * step * i:.3g}%"
        for i in range(round(low / step), round(high / step) + 1)
    }
    parts = [*_axes(place_x, lowest_share, ticks), _marker(place_x(kept))]
    full = [y for points in measured.values() for share, y in points if share == 1]
    if full:
        height = place_y(full[0])
        parts.append(_line(LEFT, height, RIGHT, height, "full dashed"))
    for i, (name, points) in enumerate(measured.items()):
        marks = []
        for share, score in sorted(points):
            title = f"{name}: top-1 {score:.1%} at {share:.1%} of MACs"
            marks.append((place_x(share), place_y(score), title))
        parts += _series(marks, f"series{i % COLORS}")
    # Above all lines, so that none crosses it out.
    if full:
        label = f"full model {full[0]:.1%}"
        parts.append(_text(RIGHT, place_y(full[0]) - GAP, label, "end"))
    return _svg(parts, HEIGHT, f"Top-1 against MACs kept, {', '.join(measured)}")


def divergence_chart(
    rows: Sequence[Mapping[str, float]],
    kept: float,
    lowest_share: float,
) -> str:
    """Draws the predicted divergence against the share of MACs.

    Args:
        rows: Those of `SelectionPaths.curve`.
        kept: The share of MACs of the compact model, marked by a line.
        lowest_share: Where the axis of the shares begins.
    """
    divergences = [row["divergence"] for row in rows]
    lowest = lowest_decade(divergences)
    decades = max(1, math.ceil(math.log10(max(*divergences, lowest) / lowest)))
    # A decade below the lowest, in which the axis is linear and reaches 0.
    unit = (BOTTOM - TOP) / (decades + 1)

    def place_y(divergence: float) -> float:
        if divergence <= lowest:
            return BOTTOM - unit * divergence / lowest
        return BOTTOM - unit * (1 + math.log10(divergence / lowest))

    ticks = {float(BOTTOM): "0"}
    every = math.ceil((decades + 1) / TICKS)
    for i in range(0, decades + 1, every):
        exponent = round(math.log10(lowest)) + i
        # There is room for five digits.
        label = f"{10.0**exponent:g}" if exponent > -4 else f"1e{exponent}"
        ticks[place_y(lowest * 10**i)] = label
    place_x = _linear(lowest_share, 1.0, LEFT, RIGHT - 10)
    marks = []
    for row in rows:
        title = f"divergence {row['divergence']:.3g} at {row['macs']:.1%} of MACs"
        marks.append((place_x(row["macs"]), place_y(row["divergence"]), title))
    parts = [
        *_axes(place_x, lowest_share, ticks),
        _marker(place_x(kept)),
        *_series(marks, "series0"),
        _text(RIGHT - 10 - 2 * GAP, BOTTOM - 2 * GAP, "full model", "end"),
    ]
    return _svg(parts, HEIGHT, "Predicted output divergence against MACs kept")


def widths_chart(widths: Mapping[str, Change]) -> str:
    """Draws the channels of each group before and after, in the network's order.

    Args:
        widths: Group name -> its number of channels.
    """
    largest = max(change.before for change in widths.values())
    place_y = _linear(0, largest, BOTTOM, TOP)
    # Channels are whole numbers.
    step = math.ceil(_round_step(largest))
    ticks = {}
    for i in range(int(largest / step) + 1):
        ticks[place_y(step * i)] = f"{step * i:,}"
    parts = _y_axis(ticks)
    room = (RIGHT - LEFT) / len(widths)
    width = min(0.8 * room, WIDEST_BAR)
    # Two digits and a gap have to fit below each bar that gets a number.
    every = math.ceil(2 * FONT_SIZE / room)
    for i, (name, change) in enumerate(widths.items()):
        middle = LEFT + room * (i + 0.5)
        title = f"{i + 1}. {name}: {change.before:,} → {change.after:,} channels"
        bars = []
        for value, color in ((change.before, "full"), (change.after, "compact")):
            y = place_y(value)
            bars.append(_bar(middle - width / 2, y, width, BOTTOM - y, color))
        parts.append(f"<g><title>{html.escape(title)}</title>{''.join(bars)}</g>")
        if (i + 1) % every == 0 or every == 1:
            parts.append(_text(middle, BOTTOM + GAP + FONT_SIZE, str(i + 1), "middle"))
    parts.append(_x_label("groups of channels, from the input to the output"))
    before = sum(change.before for change in widths.values())
    after = sum(change.after for change in widths.values())
    title = f"Channels of {len(widths)} groups: {before:,} before, {after:,} after"
    return _svg(parts, HEIGHT, title)


def latency_chart(latencies: Sequence[tuple[str, float]]) -> str:
    """Draws times as bars, with their numbers.

    Args:
        latencies: Name and milliseconds of each; the first is the full model's.
    """
    _, reference = latencies[0]
    place = _linear(0, max(time for _, time in latencies), 0, LONGEST_BAR)
    parts = []
    for i, (name, time) in enumerate(latencies):
        y = ROW_HEIGHT * i
        parts.append(_text(0, y + FONT_SIZE, name, "start"))
        top = y + FONT_SIZE + GAP
        color = "compact" if i else "full"
        parts.append(_bar(0, top, place(time), BAR_HEIGHT, color))
        label = f"{time:.3g} ms"
        if i:
            label += f" ({time / reference:.2f} ×)"
        parts.append(_text(place(time) + GAP, top + BAR_HEIGHT - GAP, label, "start"))
    times = ", ".join(f"{name} {time:.3g} ms" for name, time in latencies)
    return _svg(parts, ROW_HEIGHT * len(latencies), f"Latency: {times}")


def _linear(start: float, end: float, first: float, last: float) -> Place:
    """Returns the map of `start` to `first` and of `end` to `last`."""
    scale = (last - first) / (end - start)
    return lambda value: first + scale * (value - start)


def _round_step(extent: float) -> float:
    """Returns the distance of ticks, a round number, for an axis of this length."""
    least = extent / (TICKS - 1)
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * step for step in ROUND_STEPS if power * step >= least * 0.999)


def _axes(place_x: Place, lowest_share: float, ticks: Mapping[float, str]) -> list[str]:
    parts = _y_axis(ticks)
    step = _round_step(1.0 - lowest_share)
    for i in range(math.ceil(lowest_share / step), round(1 / step) + 1):
        x = place_x(step * i)
        label = f"{100 * step * i:.3g}%"
        parts.append(_line(x, TOP, x, BOTTOM, "grid"))
        parts.append(_text(x, BOTTOM + GAP + FONT_SIZE, label, "middle"))
    parts.append(_x_label("MACs kept"))
    return parts


def _y_axis(ticks: Mapping[float, str]) -> list[str]:
    parts = []
    for y, label in ticks.items():
        parts.append(_line(LEFT, y, RIGHT, y, "grid"))
        parts.append(_text(LEFT - GAP, y + FONT_SIZE / 3, label, "end"))
    return parts


def _x_label(label: str) -> str:
    return _text((LEFT + RIGHT) / 2, HEIGHT - GAP, label, "middle")


def _marker(x: float) -> str:
    """Draws the line at the compact model's share."""
    # Half of the label has to fit between the line and the edge.
    middle = min(x, WIDTH - 3 * FONT_SIZE)
    label = _text(middle, TOP - 2 * GAP, "this model", "middle")
    return _line(x, TOP, x, BOTTOM, "compact dashed") + label


def _series(marks: Sequence[Mark], color: str) -> list[str]:
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in marks)
    parts = [f'<polyline class="line {color}" points="{line}"/>']
    for x, y, title in marks:
        parts.append(
            f'<circle class="point {color}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
            f"<title>{html.escape(title)}</title></circle>"
        )
    return parts


def _line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{name}" {ends}/>'


def _bar(x: float, y: float, width: float, height: float, color: str) -> str:
    size = f'width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="bar {color}" x="{x:.1f}" y="{y:.1f}" {size}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    start = f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
    return f"{start}{html.escape(text)}</text>"


def _svg(parts: Iterable[str], height: float, title: str) -> str:
    title = html.escape(title)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}" '
        f'font-size="{FONT_SIZE}"><title>{title}</title>{"".join(parts)}</svg>'
    )
