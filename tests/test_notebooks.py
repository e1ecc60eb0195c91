"""The notebooks run, wherever they are opened, and show what they have found."""

import importlib.metadata
import re
from pathlib import Path

import pytest

NEEDED = "needs nbclient: pip install 'keras_greedy[test]'"
nbformat = pytest.importorskip("nbformat", reason=NEEDED)
ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
# Of each: the number of pictures it shows, and files that it writes.
RESULTS = {
    "01_quickstart": (
        3,
        {
            "quickstart_output/compact.tflite",
            "quickstart_output/compact_int8.tflite",
            "quickstart_output/report.html",
        },
    ),
    "02_your_images_and_tfds": (
        0,
        {
            "images_output/full_int8.tflite",
            "images_output/compact_int8.tflite",
            "images_output/report.html",
        },
    ),
    "03_papers": (3, set()),
    "04_while_training": (
        1,
        {
            "while_training_output/compact.tflite",
            "while_training_output/int8.tflite",
        },
    ),
    "05_tickets": (4, {"tickets_output/ticket.keras"}),
}
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def cells_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs_of(notebook):
    return [output for cell in cells_of(notebook) for output in cell.outputs]


def pictures_of(notebook):
    return [
        each for each in outputs_of(notebook) if "image/png" in each.get("data", ())
    ]


def run(notebook, folder):
    nbclient = pytest.importorskip("nbclient", reason=NEEDED)
    pytest.importorskip("ipykernel", reason=NEEDED)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()


def assert_results(path, notebook, folder):
    count, files = RESULTS[path.stem]
    assert len(pictures_of(notebook)) == count
    for name in files:
        assert (folder / name).stat().st_size


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of the notebook's own machinery.
@each_notebook
def test_the_notebook_runs_from_top_to_bottom(path, tmp_path):
    notebook = read(path)
    run(notebook, tmp_path)
    assert_results(path, notebook, tmp_path)


MOCKED = """
import tensorflow_datasets
mocked = tensorflow_datasets.testing.mock_data(num_examples=64)
mocked.__enter__()
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of the notebook's own machinery.
def test_the_notebook_of_images_takes_a_data_set_of_tfds(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith("02"))
    notebook = read(path)
    for cell in cells_of(notebook):
        cell.source = cell.source.replace('DATA = "digits"', 'DATA = "tfds:beans"')
        # The weights would be downloaded.
        cell.source = cell.source.replace('else "imagenet"', "else None")
    notebook.cells.insert(0, nbformat.v4.new_code_cell(MOCKED))
    run(notebook, tmp_path)
    assert_results(path, notebook, tmp_path)
    assert "healthy" in str(outputs_of(notebook))


TWO_DEVICES = """
def two_devices():
    cpu = tf.config.list_physical_devices("CPU")[0]
    two = [tf.config.LogicalDeviceConfiguration()] * 2
    tf.config.set_logical_device_configuration(cpu, two)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Of the notebook's own machinery.
def test_the_first_notebook_runs_on_the_devices_of_a_strategy(tmp_path):
    path = NOTEBOOKS[0]
    notebook = read(path)
    for cell in cells_of(notebook):
        cell.source = cell.source.replace(
            "strategy = tf.distribute.get_strategy()", "strategy = two_devices()"
        )
    notebook.cells.insert(0, nbformat.v4.new_code_cell(TWO_DEVICES))
    run(notebook, tmp_path)
    assert_results(path, notebook, tmp_path)
    assert "replicas: 2" in str(outputs_of(notebook))


@each_notebook
def test_the_notebook_keeps_its_outputs_without_errors_and_paths(path):
    notebook = read(path)
    count, _ = RESULTS[path.stem]
    assert len(pictures_of(notebook)) == count
    for output in outputs_of(notebook):
        assert output.output_type in ("stream", "display_data", "execute_result")
        assert output.get("name") != "stderr"
        # Short enough to be read.
        assert len(output.get("text") or output["data"]["text/plain"]) < 3000
    assert not re.search("/(tmp|home|root|work|Users)/", path.read_text("utf-8"))


# --- the first cell, which installs


def install(path, monkeypatch, folder, found=False, **changes):
    """Runs the first cell in a folder; returns what it gives to pip, if anything."""
    transformer = pytest.importorskip("IPython.core.inputtransformer2")
    source = cells_of(read(path))[0].source
    for name, value in changes.items():
        source = source.replace(f'{name} = ""', f"{name} = {value!r}")
    code = transformer.TransformerManager().transform_cell(source)

    def distribution(name):
        if not found:
            raise importlib.metadata.PackageNotFoundError(name)

    commands = []

    class Shell:
        def run_line_magic(self, magic, line):
            commands.append((magic, line))

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)
    monkeypatch.chdir(folder)
    names = {"get_ipython": Shell}
    exec(code, names)
    assert commands in ([], [("pip", 'install --quiet "{package}"')])
    return names["package"] if commands else None


@each_notebook
def test_what_is_installed_stays(path, monkeypatch, tmp_path):
    assert install(path, monkeypatch, tmp_path, found=True) is None


@each_notebook
def test_in_a_clone_the_clone_is_installed(path, monkeypatch):
    package = install(path, monkeypatch, path.parent)
    assert package == f"keras_greedy[demo,datasets] @ {ROOT.as_uri()}"


@each_notebook
def test_elsewhere_the_address_is_installed(path, monkeypatch, tmp_path):
    address = "https://example.com/keras_greedy"
    package = install(path, monkeypatch, tmp_path, REPOSITORY=address)
    assert package == f"keras_greedy[demo,datasets] @ git+{address}"


@each_notebook
def test_elsewhere_without_an_address_the_error_asks_for_it(
    path, monkeypatch, tmp_path
):
    with pytest.raises(
        ValueError, match="Expected `REPOSITORY` to be the https address"
    ):
        install(path, monkeypatch, tmp_path)
