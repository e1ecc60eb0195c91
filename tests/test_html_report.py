"""The report of a pruning as one HTML file."""

import html
import re
import shutil
import subprocess
from xml.etree import ElementTree

import keras
import numpy as np
import pytest

import keras_greedy
from keras_greedy import drawings
from keras_greedy.report import Change, Report
from tflite_export import Comparison, Latency

layers = keras.layers
MEASURED = {
    "as pruned": [(1.0, 0.98), (0.5, 0.91)],
    "trained <anew>": [(0.5, 0.94)],
}
LATENCIES = Comparison(
    (
        Latency("some/full.tflite", 14_000_000, 50, 1, 4.0, 5.0, 4.5, 0.1),
        Latency("some/compact.tflite", 7_000_000, 50, 1, 1.0, 1.5, 1.2, 0.1),
    )
)
COMMAND = "keras-greedy prune model.keras --data 'x<1>.npz'"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def paths():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(16, 3, activation="relu", name="first"),
            layers.Conv2D(
                24, 3, activation="relu", name="a_layer_with_a_long_name_" * 3
            ),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    images = np.random.default_rng(0).random((48, 12, 12, 1), "float32")
    return keras_greedy.search(model, images, objective="local", verbose=0)


@pytest.fixture(scope="module")
def report(paths):
    return paths.report(0.5)


@pytest.fixture(scope="module")
def file(paths, report, tmp_path_factory):
    return keras_greedy.write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        report,
        paths=paths,
        measured=MEASURED,
        latencies=LATENCIES,
        command=COMMAND,
        title="Half of <a> model",
    )


@pytest.fixture(scope="module")
def page(file):
    return file.read_text("utf-8")


def charts_of(page):
    return [ElementTree.fromstring(svg) for svg in re.findall("<svg.*?</svg>", page)]


def texts_of(chart):
    return [text.text for text in chart.iter("text")]


def bars_of(chart, color):
    return [each for each in chart.iter("rect") if each.get("class") == f"bar {color}"]


def test_the_page_needs_no_other_file_and_no_script(page):
    assert not re.search("https?:|src=|url\\(|@import|<script|<link", page)


def test_all_charts_have_a_description(page):
    charts = charts_of(page)
    assert len(charts) == 4
    for chart in charts:
        assert chart.get("role") == "img"
        assert chart.get("aria-label") == chart.find("title").text


def test_names_of_the_user_are_text_and_no_tags(page):
    for text in ("Half of <a> model", "trained <anew>", COMMAND):
        assert html.escape(text) in page
        assert text not in page


def test_the_table_has_the_widths_and_costs_of_the_report(page, report):
    rows = re.findall("<tr>.*?</tr>", page)
    cells = [re.findall(">([^<>]+)</t[hd]>", row) for row in rows]
    assert [*report.rows_of_costs()[0]] in cells
    for i, (name, *numbers) in enumerate(report.rows_of_widths()):
        assert [f"{i + 1}.\u00a0{name}", *numbers] in cells


def test_the_full_model_and_others_are_in_the_measured_chart(page):
    chart = charts_of(page)[1]
    assert "full model 98.0%" in texts_of(chart)
    titles = [circle.find("title").text for circle in chart.iter("circle")]
    assert titles == [
        "as pruned: top-1 91.0% at 50.0% of MACs",
        "as pruned: top-1 98.0% at 100.0% of MACs",
        "trained <anew>: top-1 94.0% at 50.0% of MACs",
    ]


def test_the_latencies_are_bars_with_their_numbers(page):
    chart = charts_of(page)[0]
    assert texts_of(chart) == [
        "full.tflite",
        "4 ms",
        "compact.tflite",
        "1 ms (0.25 ×)",
    ]
    (full,) = bars_of(chart, "full")
    (compact,) = bars_of(chart, "compact")
    assert float(full.get("width")) == pytest.approx(
        4 * float(compact.get("width")), 0.01
    )


def test_the_bars_of_the_widths_stand_on_one_line_and_are_as_high_as_wide(page, report):
    chart = charts_of(page)[3]
    for color, field in (("full", "before"), ("compact", "after")):
        heights = [float(bar.get("height")) for bar in bars_of(chart, color)]
        widths = [getattr(change, field) for change in report.widths.values()]
        unit = (drawings.BOTTOM - drawings.TOP) / 24
        np.testing.assert_allclose(heights, unit * np.array(widths), atol=0.06)


def test_points_that_cost_nothing_lie_on_the_axis_and_others_above():
    rows = [
        {"macs": macs, "divergence": divergence}
        for macs, divergence in ((1.0, 0.0), (0.7, 0.0), (0.5, 2e-3), (0.1, 0.3))
    ]
    chart = ElementTree.fromstring(drawings.divergence_chart(rows, 0.5, 0.0))
    heights = [float(circle.get("cy")) for circle in chart.iter("circle")]
    assert heights[:2] == [drawings.BOTTOM] * 2
    assert drawings.BOTTOM > heights[2] > heights[3] >= drawings.TOP
    assert {"0", "0.001", "0.01", "0.1"} <= set(texts_of(chart))


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_networks_of_any_length_fit_into_the_chart(count):
    widths = {f"layer_{i}": Change(i + 1, i) for i in range(count)}
    chart = ElementTree.fromstring(drawings.widths_chart(widths))
    for bar in chart.iter("rect"):
        assert float(bar.get("x")) >= drawings.LEFT
        end = float(bar.get("x")) + float(bar.get("width"))
        assert end <= drawings.RIGHT + 0.1
    assert len(texts_of(chart)) < 50


@pytest.mark.parametrize("scores", [[0.0], [1.0], [0.5, 0.5001], [0.0, 1.0]])
def test_accuracies_of_any_range_fit_into_the_chart(scores):
    points = [(i / len(scores), score) for i, score in enumerate(scores)]
    chart = ElementTree.fromstring(drawings.accuracy_chart({"a": points}, 0.5, 0.0))
    heights = [float(circle.get("cy")) for circle in chart.iter("circle")]
    assert drawings.TOP <= min(heights) <= max(heights) <= drawings.BOTTOM
    labels = [text for text in texts_of(chart) if text.endswith("%")]
    assert not {"-", "110%"} & {*labels, *(label[0] for label in labels)}


def test_a_report_alone_is_enough(tmp_path):
    widths = {"first": Change(8, 0)}
    report = Report(widths, Change(100, 60), Change(50, 20), Change(3.0, 2.0))
    path = keras_greedy.write_report(str(tmp_path / "report.html"), report)
    page = path.read_text("utf-8")
    assert "Latency, predicted" in page
    assert len(charts_of(page)) == 2
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("report", {"macs": 3}),
        ("paths", "paths.npz"),
        ("measured", {"a": [(0.5, 76.0)]}),
        ("latencies", LATENCIES.latencies[0]),
        ("command", ["keras-greedy"]),
        ("title", None),
    ],
)
def test_nonsense_is_named_before_any_work(report, tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(keras_greedy.SelectionPaths, "curve", pytest.fail)
    arguments = {"report": report, name: value}
    with pytest.raises(
        ValueError, match=f"Expected `{name}` to be .*Received: {name}="
    ):
        keras_greedy.write_report(tmp_path / "report.html", **arguments)
    assert not [*tmp_path.iterdir()]


def test_a_path_that_is_no_page_is_refused(report, tmp_path):
    with pytest.raises(ValueError, match=r"Expected `path` .* ending in \.html"):
        keras_greedy.write_report(tmp_path / "report.pdf", report)
    with pytest.raises(FileNotFoundError, match="in an existing folder"):
        keras_greedy.write_report(tmp_path / "missing" / "report.html", report)


# --- in a browser

# The page in frames as wide as a telephone and a desk's screen: a window of a browser
# is 500 units wide at least.
FRAMES = """<!DOCTYPE html><body onload="
  for (const frame of document.querySelectorAll('iframe')) {
    const root = frame.contentDocument.documentElement;
    const colour = frame.contentWindow.getComputedStyle(root.querySelector('body'));
    frame.dataset.found = [root.clientWidth, root.scrollWidth, colour.backgroundColor];
  }">
<iframe src="report.html" width="390" height="800" style="border: 0"></iframe>
<iframe src="report.html" width="1280" height="800" style="border: 0"></iframe>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize(
    ("scheme", "background"), [(1, "rgb(255, 255, 255)"), (0, "rgb(20, 24, 30)")]
)
def test_a_browser_shows_it_in_full_width_in_light_and_dark(
    file, tmp_path, scheme, background
):
    frames = file.with_name("frames.html")
    frames.write_text(FRAMES)
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--allow-file-access-from-files",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1400,1000",
        "--dump-dom",
        frames.as_uri(),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    found = re.findall('data-found="(.*?)"', ended.stdout)
    assert found == [f"{width},{width},{background}" for width in (390, 1280)]
