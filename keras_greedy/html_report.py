"""The report of a pruning as one HTML file, which needs no other and no network."""

import html
import math
from collections.abc import Iterable
from pathlib import Path

from keras_greedy.drawings import (
    COLORS,
    accuracy_chart,
    divergence_chart,
    latency_chart,
    widths_chart,
)
from keras_greedy.paths import SelectionPaths
from keras_greedy.plots import Measured, checked_series
from keras_greedy.report import HEADINGS, Report
from tflite_export import Comparison
from tflite_export.checks import check_target, shown
from tflite_export.files import replacing
from tflite_export.html_tables import html_table

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fff; --text: #1c2430; --quiet: #5c6675; --grid: #dfe3e8; --code: #f3f5f7;
  --full: #aab3bf; --compact: #0b63c4; --series1: #c2520a; --series2: #1a7f4b;
  --series3: #8a3fc0; --series4: #b8243f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14181e; --text: #e3e8ee; --quiet: #9aa5b3; --grid: #2e3640;
    --code: #1f252d; --full: #5d6875; --compact: #5aa9f8; --series1: #f0944d;
    --series2: #4fc084; --series3: #c08bea; --series4: #f2768b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif;
}
main {
  max-width: 1180px; margin: auto; padding: 16px; columns: 2 440px; column-gap: 48px;
}
section { break-inside: avoid; padding-bottom: 16px; }
header, footer, .wide { column-span: all; }
.long { break-inside: auto; }
tr { break-inside: avoid; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 8px 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0; padding: 8px 0 4px; }
p, figcaption, footer { color: var(--quiet); font-size: 0.9rem; margin: 4px 0; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; fill: var(--text); }
text { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }
.series0, .compact { color: var(--compact); }
.full { color: var(--full); }
.series1 { color: var(--series1); }
.series2 { color: var(--series2); }
.series3 { color: var(--series3); }
.series4 { color: var(--series4); }
.line { fill: none; stroke: currentColor; stroke-width: 2; }
.bar, .point { fill: currentColor; }
.grid { stroke: var(--grid); }
.dashed { stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 5 4; }
.key { display: inline-block; margin-right: 1em; }
.key::before { content: "\\25cf\\00a0"; }
.key > span { color: var(--text); }
.scrolled { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; }
th, td { padding: 3px 8px 3px 0; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; }
.long td:first-child { overflow-wrap: anywhere; }
pre {
  background: var(--code); padding: 10px; border-radius: 6px; margin: 4px 0;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.85rem;
}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1></header>
{sections}
<footer>Made by keras_greedy.</footer>
</main>
</body>
</html>
"""


def write_report(
    path: str | Path,
    report: Report,
    *,
    paths: SelectionPaths | None = None,
    measured: Measured | None = None,
    latencies: Comparison | None = None,
    command: str | None = None,
    title: str = "Pruning report",
) -> Path:
    """Writes a report with pictures into one HTML file.

    It shows the widths of all groups before and after, and the trade-off, the
    accuracies and the latencies where they are given. The file needs no other one, no
    network and no scripts, and is made for telephones, too, in light and in dark.

    Args:
        path: A file name ending in `.html`; the folder must exist.
        report: Of the compact model, from `compare` or `SelectionPaths.report`.
        paths: The search that it comes from, for the predicted trade-off.
        measured: The accuracies that were measured, of the full model, compact ones,
            and others to compare them with: name of a series -> list of
            `(share of MACs, top-1)`, both from 0 to 1.
        latencies: Of the files of both, from `tflite_export.compare`, that of the full
            model first. By default those of the report, where a budget of latency
            made it.
        command: The command or the call that made the compact model.
        title: The page's heading.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: When the folder does not exist.
        ValueError: When an argument is not as described, before any work.

    Example:

    ```python
    import keras
    import numpy as np

    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(3),
        ]
    )
    data = np.random.default_rng(0).normal(size=(64, 10))
    paths = keras_greedy.search(model, data, verbose=0)
    keras_greedy.write_report(
        "report.html",
        paths.report(0.5),
        paths=paths,
        measured={"as pruned": [(1.0, 0.98), (0.5, 0.95)]},
        command="paths.compact(0.5)",
    )
    ```
    """
    path = check_target(path, ".html")
    _check_kind("report", report, Report, "a `Report`, as `compare` returns one")
    if paths is not None:
        _check_kind("paths", paths, SelectionPaths, "what `search` returned")
    if latencies is not None:
        expected = "a `Comparison`, as `tflite_export.compare` returns one"
        _check_kind("latencies", latencies, Comparison, expected)
    if command is not None:
        _check_kind("command", command, str, "a string")
    _check_kind("title", title, str, "a string")
    series = checked_series(measured)

    sections = [
        _costs(report),
        *_latencies(report, latencies),
        *_trade_off(report, paths, series),
        *_widths(report),
        *_files(latencies),
    ]
    if command is not None:
        content = f"<pre>{html.escape(command)}</pre>"
        sections.append(_section("Command", content, "wide"))
    page = PAGE.format(
        title=html.escape(title),
        style=STYLE,
        sections="\n".join(sections),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _check_kind(name: str, value: object, kind: type, expected: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(
            f"Expected `{name}` to be {expected}. Received: {name}={shown(value)}"
        )


def _costs(report: Report) -> str:
    table = html_table(("", *HEADINGS), report.rows_of_costs())
    return _section("Size", f'<div class="scrolled">{table}</div>')


def _trade_off(
    report: Report,
    paths: SelectionPaths | None,
    measured: Measured,
) -> Iterable[str]:
    rows = [] if paths is None else paths.curve()
    measured = {name: points for name, points in measured.items() if points}
    shares = [share for points in measured.values() for share, _ in points]
    shares += [row["macs"] for row in rows]
    kept = min(report.macs.kept, 1.0)
    # A tenth lower at most, and one axis for both charts.
    lowest = max(0, math.ceil(10 * min([kept, *shares])) - 1) / 10
    if measured:
        legend = ""
        for i, name in enumerate(measured):
            legend += _key(f"series{i % COLORS}", name)
        chart = _figure(accuracy_chart(measured, kept, lowest), legend)
        yield _section("Measured top-1", chart + _points(measured))
    if rows:
        caption = "Predicted from cutting each group alone; low for deep cuts."
        chart = _figure(divergence_chart(rows, kept, lowest), caption)
        yield _section("Predicted divergence of the output", chart)


def _points(measured: Measured) -> str:
    """Returns the table of a column per series, from the largest share down."""
    scores = {name: dict(points) for name, points in measured.items()}
    shares = {share for points in scores.values() for share in points}
    rows = []
    for share in sorted(shares, reverse=True):
        row = [f"{share:.1%}"]
        for points in scores.values():
            row.append(f"{points[share]:.1%}" if share in points else "–")
        rows.append(row)
    table = html_table(("MACs kept", *scores), rows)
    return f'<div class="scrolled">{table}</div>'


def _latencies(report: Report, latencies: Comparison | None) -> Iterable[str]:
    times = []
    heading = "Latency, median"
    if latencies is not None:
        for latency in latencies.latencies:
            time = latency.mean_ms if latency.p50_ms is None else latency.p50_ms
            times.append((Path(latency.path).name, time))
    elif report.measured_ms is not None:
        heading = "Latency, measured"
        times = [*zip(("full", "compact"), report.measured_ms, strict=True)]
    elif report.predicted_ms is not None:
        heading = "Latency, predicted"
        times = [*zip(("full", "compact"), report.predicted_ms, strict=True)]
    if times:
        caption = "In brackets: the share of the first one's time."
        yield _section(heading, _figure(latency_chart(times), caption))


def _widths(report: Report) -> Iterable[str]:
    if not report.widths:
        return
    legend = _key("full", "before") + _key("compact", "after")
    chart = _figure(widths_chart(report.widths), legend)
    yield _section("Channels along the network", chart)
    rows = []
    for i, (name, *cells) in enumerate(report.rows_of_widths()):
        # A space at which no line is broken, before what may break anywhere.
        rows.append((f"{i + 1}.\u00a0{name}", *cells))
    table = html_table(("channels of", *HEADINGS), rows)
    yield _section("Channels", table, "long")


def _files(latencies: Comparison | None) -> Iterable[str]:
    if latencies is not None:
        table = f'<div class="scrolled">{latencies._repr_html_()}</div>'
        yield _section("Files", table, "wide")


def _section(heading: str, content: str, kind: str = "") -> str:
    return f'<section class="{kind}"><h2>{heading}</h2>{content}</section>'


def _figure(chart: str, caption: str) -> str:
    return f"<figure>{chart}<figcaption>{caption}</figcaption></figure>"


def _key(color: str, name: str) -> str:
    return f'<span class="key {color}"><span>{html.escape(name)}</span></span>'
