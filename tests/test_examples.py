"""The examples of the documentation run.

Those of a docstring are whole programs: each begins with nothing, in an empty folder.
Those of a page (README.md and docs/) are one program, in which a page tells its story:
they begin with a model and data, see `prelude`.
"""

import ast
import importlib.util
import os
import re
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keras_greedy
import tflite_export

ROOT = Path(keras_greedy.__file__).parents[1]
PACKAGES = [Path(package.__file__).parent for package in (keras_greedy, tflite_export)]
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```[ ]*$", flags=re.MULTILINE)
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def examples_of(text, path, first_line=1):
    """The Python in a text, as code whose lines are numbered as those of the file."""
    found = []
    for fence in FENCE.finditer(text):
        if fence[2].strip() == "python":
            lines_before = first_line + text[: fence.start(3)].count("\n") - 1
            code = "\n" * lines_before + textwrap.dedent(fence[3])
            found.append(compile(code, path, "exec"))
    return found


def docstrings_of(path):
    """The name, the docstring and its first line, of all that has one in a module."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False):
            text = node.body[0].value
            yield getattr(node, "name", "the module"), text.value, text.lineno


def examples_in(path):
    """The name of what is documented, and each example of its docstring."""
    return [
        (name, example)
        for name, text, line in docstrings_of(path)
        for example in examples_of(text, path, line)
    ]


def prelude():
    """What the examples of a page may use: a compiled model, and data for it.

    x: Images, also by the name of `images`.
    y: A class of each, also by the name of `labels`.
    """
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(16, 3, strides=2, use_bias=False, name="stem"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(48, 1, activation="relu", name="expand"),
            layers.Conv2D(16, 3, activation="relu", name="project"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    images = rng.normal(size=(64, 16, 16, 3)).astype("float32")
    labels = rng.integers(0, 10, 64)
    return {
        "model": model,
        "images": images,
        "labels": labels,
        "x": images,
        "y": labels,
    }


IMPORTED = {
    "keras": keras,
    "np": np,
    "keras_greedy": keras_greedy,
    "tflite_export": tflite_export,
}


@pytest.fixture(autouse=True)
def as_it_was():
    """Puts back what an example may set for the process."""
    policy, random = keras.config.dtype_policy(), np.random.get_state()
    yield
    keras.config.set_dtype_policy(policy)
    np.random.set_state(random)


def title(path):
    return str(path.relative_to(ROOT))


def can_run(example):
    """Whether what an example needs is installed."""
    has_quantizer = importlib.util.find_spec("litert_quantizer") is not None
    return has_quantizer or "quantize" not in example.co_names


def module_of(path):
    """A module as a case of a test, and whether its examples take minutes."""
    # tests/test_demo.py runs the same on a small network.
    marks = [pytest.mark.slow] if path.name == "demo.py" else []
    return pytest.param(path, marks=marks, id=title(path))


WITH_EXAMPLES = [path for path in MODULES if examples_in(path)]
# Functions whose example is that of the function that makes what they take.
SHOWN_ELSEWHERE = {"first_divergence", "load_samples"}
EXPORTS = {
    name
    for name in tflite_export.__all__
    if name.islower() and callable(getattr(tflite_export, name))
}


@pytest.mark.parametrize("path", [module_of(path) for path in WITH_EXAMPLES])
def test_the_examples_of_the_docstrings_run(path, tmp_path, monkeypatch):
    for number, (name, example) in enumerate(examples_in(path)):
        if not can_run(example):
            pytest.skip("litert-quantizer is not installed")
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.chdir(folder)
        exec(example, {"__name__": "__main__"})
        if path.parent.name == "tflite_export" and name in EXPORTS:
            assert list(folder.glob("*.tflite")), name


def test_every_function_that_exports_has_an_example():
    shown = {name for path in WITH_EXAMPLES for name, _ in examples_in(path)}
    assert EXPORTS - shown == SHOWN_ELSEWHERE


@pytest.mark.parametrize("path", PAGES, ids=title)
def test_the_examples_of_a_page_run_in_their_order(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The first page says what to import, the others go on from there.
    names = prelude() if path.name == "README.md" else IMPORTED | prelude()
    names["__name__"] = "__main__"
    for example in examples_of(path.read_text("utf-8"), path):
        if can_run(example):
            exec(example, names)
    assert Path(os.getcwd()) == tmp_path


def texts_of(path):
    if path.suffix == ".md":
        return [path.read_text("utf-8")]
    return [text for _, text, _ in docstrings_of(path)]


def test_every_block_of_python_is_marked_as_such():
    for path in (*MODULES, *PAGES):
        for text in texts_of(path):
            fences = [*FENCE.finditer(text)]
            assert text.count("```") == 2 * len(fences), text
            for fence in fences:
                looks_so = re.search(r"^ *(import|from) \w+|_\w+\(", fence[3])
                assert fence[2].strip() == "python" or not looks_so, fence[0]
