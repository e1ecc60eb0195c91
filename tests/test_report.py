"""Reports and pictures of the trade-off."""

import json
import sys

import keras
import models
import numpy as np
import pytest

import keras_greedy
from keras_greedy import plots
from keras_greedy.graph.rebuild import rebuild
from keras_greedy.graph.trace import trace

layers = keras.layers
PNG = b"\x89PNG\r\n"


def network():
    return keras.Sequential(
        [
            keras.Input((12, 12, 1)),
            layers.Conv2D(16, 3, activation="relu", name="first"),
            layers.Conv2D(24, 3, activation="relu", name="second"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return network()


@pytest.fixture(scope="module")
def paths(model):
    images = np.random.default_rng(0).random((48, 12, 12, 1), "float32")
    return keras_greedy.search(model, images, objective="local", verbose=0)


@pytest.fixture(scope="module")
def compact(paths):
    return paths.compact(0.5)


@pytest.fixture(scope="module")
def report(model, compact):
    return keras_greedy.compare(model, compact)


def test_a_report_has_the_widths_of_both_models(report, compact):
    assert report.widths == {
        "first": (16, compact.get_layer("first").filters),
        "second": (24, compact.get_layer("second").filters),
    }


def test_a_report_has_the_costs_of_both_models(report, model, compact):
    assert report.macs == (keras_greedy.macs(model), keras_greedy.macs(compact))
    assert report.params == (model.count_params(), compact.count_params())
    assert report.macs.kept == report.macs.after / report.macs.before <= 0.5


@pytest.mark.parametrize("name", models.TOPOLOGIES)
def test_every_topology_can_be_reported(name):
    graph = trace(models.shared(name))
    selection = models.random_selection(graph)
    report = keras_greedy.compare(graph.model, rebuild(graph, selection))
    kept = {name: (graph.widths[name], len(ids)) for name, ids in selection.items()}
    assert report.widths == kept


def test_a_model_is_the_same_as_itself(model):
    report = keras_greedy.compare(model, model)
    assert {change.kept for change in report.widths.values()} == {1.0}
    assert report.macs.kept == report.params.kept == 1.0


def test_comparing_does_not_warn_again_of_what_stays_whole():
    model = models.UNPRUNABLE[next(iter(models.UNPRUNABLE))][0]()
    keras_greedy.compare(model, model)


def test_a_model_that_was_not_pruned_from_the_first_is_refused(model):
    other = keras.Sequential(
        [keras.Input((4,)), layers.Dense(8, name="hidden"), layers.Dense(2)]
    )
    with pytest.raises(
        ValueError, match="Expected `compact` to be pruned from `model`"
    ):
        keras_greedy.compare(model, other)


def test_the_printed_report_is_an_aligned_table(report):
    lines = str(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines] == [
        "channels",
        "first",
        "second",
        "MACs",
        "parameters",
    ]
    assert lines[-2].split()[1:] == [
        f"{report.macs.before:,}",
        f"{report.macs.after:,}",
        f"{report.macs.kept:.1%}",
    ]


def test_the_markdown_table_has_the_cells_of_the_printed_one(report):
    header, rule, *rows = report.to_markdown().splitlines()
    assert header == "| channels of | before | after | kept |"
    assert rule == "| --- | ---: | ---: | ---: |"
    printed = [line.split() for line in str(report).splitlines()[1:]]
    assert [row.replace("|", " ").split() for row in rows] == printed


def test_a_report_as_json_gives_its_fields_back(report):
    fields = json.loads(report.to_json())
    for name, change in {"macs": report.macs, "params": report.params}.items():
        assert fields[name] == {
            "before": change.before,
            "after": change.after,
            "kept": change.kept,
        }
    assert fields["widths"]["second"]["after"] == report.widths["second"].after
    assert fields["widths"].keys() == report.widths.keys()


def test_notebooks_show_a_report_as_costs_with_the_widths_folded(report):
    costs, widths = report._repr_html_().split("<details>")
    assert f"{report.macs.before:,}" in costs
    assert "first" not in costs
    assert "first" in widths and "second" in widths


def test_notebooks_show_paths_in_a_line_with_the_groups_folded(paths):
    assert len(repr(paths)) < 100
    shown = paths._repr_html_()
    assert "<summary>&lt;SelectionPaths of 2 groups with 40 channels" in shown
    assert "first" in shown and "second" in shown


@pytest.mark.parametrize("budget", [1.0, 0.5, keras_greedy.Budget(params=0.6)])
def test_a_planned_report_is_that_of_the_model_once_built(paths, model, budget):
    built = keras_greedy.compare(model, paths.compact(budget))
    assert paths.report(budget) == built


@pytest.mark.parametrize(
    ("suffix", "start"), [("png", PNG), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_a_plot_is_a_picture_and_nothing_else_is_left(paths, tmp_path, suffix, start):
    path = tmp_path / f"tradeoff.{suffix}"
    paths.plot(path)
    assert path.read_bytes().startswith(start)
    assert [*tmp_path.iterdir()] == [path]


def test_a_plot_replaces_the_one_before(paths, tmp_path):
    path = tmp_path / "tradeoff.png"
    path.write_text("old")
    paths.plot(str(path))
    assert path.read_bytes().startswith(PNG)


def drawn(monkeypatch, rows, tmp_path, measured=None):
    """The figure that `plot_curve` wrote."""
    figures = []
    picture = plots.picture

    def kept(*args):
        figures.append(picture(*args))
        return figures[-1]

    monkeypatch.setattr(plots, "picture", kept)
    plots.plot_curve(rows, tmp_path / "x.png", measured)
    return figures[0]


def test_the_curve_drawn_is_the_one_predicted(paths, monkeypatch, tmp_path):
    rows = paths.curve(points=5)
    (axes,) = drawn(monkeypatch, rows, tmp_path).axes
    (line,) = axes.lines
    np.testing.assert_array_equal(
        line.get_xydata(), [(row["macs"], row["divergence"]) for row in rows]
    )
    assert axes.get_xlabel() == "MACs kept"
    assert axes.get_ylabel() == "output divergence"


def test_points_that_cost_nothing_are_in_the_picture(monkeypatch, tmp_path):
    rows = [
        {"macs": macs, "divergence": divergence}
        for macs, divergence in ((1.0, 0.0), (0.6, 0.0), (0.5, 3e-3), (0.1, 2.0))
    ]
    (axes,) = drawn(monkeypatch, rows, tmp_path).axes
    (line,) = axes.lines
    heights = axes.transData.transform(line.get_xydata())[:, 1]
    bottom, top = axes.bbox.get_points()[:, 1]
    assert np.isfinite(heights).all()
    np.testing.assert_allclose(heights[:2], bottom)
    assert bottom < heights[2] < heights[3] < top


@pytest.mark.parametrize(
    ("divergences", "decade"),
    [([0.0, 2e-3, 1.0], 1e-3), ([0.0, 1e-9, 0.5], 0.1), ([0.0], 1.0), ([1e-2], 1e-2)],
)
def test_the_axis_is_logarithmic_down_to_the_smallest_cost(divergences, decade):
    assert plots.lowest_decade(divergences) == pytest.approx(decade)


def test_measured_points_are_drawn_with_name_and_number(paths, monkeypatch, tmp_path):
    measured = {"as pruned": [(1.0, 0.99), (0.5, 0.9)], "tuned": [(0.5, 0.97)]}
    figure = drawn(monkeypatch, paths.curve(points=3), tmp_path, measured)
    above, _ = figure.axes
    assert [line.get_label() for line in above.lines] == ["as pruned", "tuned"]
    assert above.lines[0].get_xydata().tolist() == [[0.5, 0.9], [1.0, 0.99]]
    assert [text.get_text() for text in above.texts] == ["90.0%", "99.0%", "97.0%"]


def test_plots_do_without_pyplot(paths, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    paths.plot(tmp_path / "tradeoff.png")


@pytest.fixture
def no_work(monkeypatch):
    def curve(*_):
        pytest.fail("The curve was computed before the arguments were checked.")

    monkeypatch.setattr(keras_greedy.SelectionPaths, "curve", curve)


@pytest.mark.usefixtures("no_work")
def test_a_plot_into_a_missing_folder_is_refused_before_any_work(paths, tmp_path):
    with pytest.raises(
        FileNotFoundError, match="Expected `path` to be in an existing folder"
    ):
        paths.plot(tmp_path / "missing" / "tradeoff.png")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["tradeoff", "tradeoff.xyz"])
def test_a_plot_of_an_unknown_kind_is_refused_before_any_work(paths, tmp_path, name):
    with pytest.raises(ValueError, match=r"Expected `path` to end in one of .*png"):
        paths.plot(tmp_path / name)


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "measured",
    [3, [1, 2], {"a": 3}, {"a": [1]}, {"a": [("x", 0.5)]}, {"a": [(0.5, 76.0)]}],
    ids=str,
)
def test_measured_points_of_nonsense_are_refused_before_any_work(
    paths, tmp_path, measured
):
    with pytest.raises(ValueError, match="Expected `measured` to be a dict of lists"):
        paths.plot(tmp_path / "tradeoff.png", measured)
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("no_work")
def test_without_matplotlib_the_error_says_what_to_install(
    paths, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_greedy\[report\]'"):
        paths.plot(tmp_path / "tradeoff.png")
