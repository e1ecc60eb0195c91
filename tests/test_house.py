"""How the code is laid out: imports run one way, and public names are documented."""

import ast
import graphlib
import importlib
import inspect
import os
import re
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import keras
import models
import numpy as np
import pytest

import keras_greedy
import tflite_export

ROOT = Path(keras_greedy.__file__).parents[1]
PACKAGES = ("keras_greedy", "tflite_export")


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def is_inside(module, package):
    """Whether a module is in a package, or is the package itself."""
    return f"{module}.".startswith(f"{package}.")


# --- imports


def for_type_checkers(node):
    condition = node.test if isinstance(node, ast.If) else None
    return "TYPE_CHECKING" in (
        getattr(condition, "id", None),
        getattr(condition, "attr", None),
    )


def nodes_run_at_import(node):
    """The nodes below one that are run, not only defined, when it is."""
    children = node.orelse if for_type_checkers(node) else ast.iter_child_nodes(node)
    for child in children:
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from nodes_run_at_import(child)


def imported_by(nodes):
    """The modules that import statements name, and the names they take from each."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "an import relative to its module"
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in FILES:
                    yield submodule, None
                else:
                    yield node.module, alias.name


def import_graph():
    """Our modules, and those of ours that each needs to be imported itself."""
    graph = {}
    for name, tree in TREES.items():
        graph[name] = {
            module
            for module, _ in imported_by(nodes_run_at_import(tree))
            if module in FILES
        }
    return graph


def test_no_imports_run_in_a_circle():
    graph = import_graph()
    assert len(graph) > 50 and "keras_greedy.pipeline" in graph["keras_greedy"]
    graphlib.TopologicalSorter(graph).prepare()


# They use the public names, as users do, and no module imports them.
PROGRAMS = {"keras_greedy.demo", "tflite_export.__main__"}


def test_a_module_imports_nothing_from_the_packages_it_is_in():
    graph = import_graph()
    for name, imported in graph.items():
        assert not imported & PROGRAMS, name
        around = {module for module in imported if is_inside(name, module)}
        assert not around or name in PROGRAMS, f"{name} imports from {around}"


def test_no_module_imports_a_private_name_of_another():
    for name, tree in TREES.items():
        for module, taken in imported_by(ast.walk(tree)):
            private = re.search(r"(^|\.)_(?!_)", f"{module}.{taken}")
            ours = module.split(".")[0] in PACKAGES
            assert not (ours and private), f"{name} imports {taken} from {module}"


def test_the_export_does_not_need_the_pruning():
    for name, tree in TREES.items():
        if is_inside(name, "tflite_export"):
            for module, _ in imported_by(ast.walk(tree)):
                assert not is_inside(module, "keras_greedy"), name


# These alone look into Keras, and tell where it must be looked for anew.
LOOK_INTO_KERAS = {
    "keras_greedy.graph.layout",
    "keras_greedy.graph.masks",
    "keras_greedy.graph.model_kinds",
    "keras_greedy.graph.nodes",
    "keras_greedy.interop.legacy",
}


def private_api_of_keras(tree):
    """The private modules that are imported, and the attributes that are read."""
    for module, _ in imported_by(ast.walk(tree)):
        if is_inside(module, "keras.src") or is_inside(module, "tf_keras.src"):
            yield module
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = getattr(node.value, "id", None) == "self"
            if node.attr in ("_functional", "_nodes_by_depth") and not is_own:
                yield node.attr


def test_few_modules_touch_the_private_api_of_keras():
    touching = {name for name, tree in TREES.items() if [*private_api_of_keras(tree)]}
    assert "keras_greedy.graph.nodes" in touching
    assert touching <= LOOK_INTO_KERAS


# --- documentation


def docstrings():
    """Of every module, class and function: where it is, and its docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, documented) and ast.get_docstring(node):
                where = f"{module}.{getattr(node, 'name', '')}"
                yield where, ast.get_docstring(node)


def test_every_module_has_a_docstring():
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_docstring_begins_with_a_question():
    questions = re.compile(r"(What|Which|How)\b")
    found = [where for where, text in docstrings() if questions.match(text)]
    assert found == []


PUBLIC_PACKAGES = (
    "keras_greedy",
    "keras_greedy.datasets",
    "keras_greedy.lottery",
    "keras_greedy.interop",
    "tflite_export",
    "tflite_export.android",
)


def public_names(package):
    module = importlib.import_module(package)
    own = [
        name
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == package and name[0] != "_"
    ]
    return [(name, getattr(module, name)) for name in getattr(module, "__all__", own)]


def is_ours(value):
    return getattr(value, "__module__", "").split(".")[0] in PACKAGES


def methods_of(cls):
    """The constructor, public methods and properties that a class of ours has."""
    methods = {}
    for base in reversed(cls.__mro__):
        if is_ours(base):
            methods |= vars(base)
    for name, value in methods.items():
        value = getattr(value, "__func__", value)
        is_public = name == "__init__" or name[0] != "_"
        if is_public and (inspect.isfunction(value) or isinstance(value, property)):
            yield name, value


def public_callables():
    """The functions, classes and methods that users call, by their full names."""
    found = {}
    for package in PUBLIC_PACKAGES:
        for name, value in public_names(package):
            if not callable(value) or not is_ours(value):
                continue
            found[f"{package}.{name}"] = value
            if inspect.isclass(value):
                for method, function in methods_of(value):
                    found[f"{package}.{name}.{method}"] = function
    return found


PUBLIC = public_callables()


def parameters_without_annotation(function):
    parameters = inspect.signature(function).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.annotation is parameter.empty
        and parameter.name not in ("self", "cls")
    ]


@pytest.mark.parametrize("package", PUBLIC_PACKAGES)
def test_every_public_name_is_documented(package):
    names = public_names(package)
    assert names
    for name, value in names:
        assert inspect.getdoc(value), name


@pytest.mark.parametrize("name", PUBLIC)
def test_what_users_call_is_documented_with_the_types_of_its_parameters(name):
    value = PUBLIC[name]
    owner, _, method = name.rpartition(".")
    if method == "__init__":
        # A class says itself what it is made of.
        assert inspect.getdoc(PUBLIC[owner])
    elif owner in PUBLIC:
        # A method that Keras asks for does as Keras says.
        is_one_of_keras = any(
            hasattr(base, method)
            for base in (keras.Layer, keras.Model, keras.callbacks.Callback)
            if issubclass(PUBLIC[owner], base)
        )
        assert is_one_of_keras or inspect.getdoc(getattr(PUBLIC[owner], method))
    else:
        assert value.__doc__
    if inspect.isfunction(value):
        assert parameters_without_annotation(value) == []


# --- processes of their own


def run_alone(code, *arguments, folder=ROOT):
    """Runs code in a process of its own, which finds our packages."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


WITHOUT = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in sys.argv[1:]:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
"""

IMPORTING = """
    try:
        import keras_greedy
    except ImportError as error:
        print(error)
"""

BACKENDS = ("tensorflow", "jax", "torch", "openvino")


@pytest.mark.parametrize("absent", [("keras",), ("scipy",), BACKENDS], ids=str)
def test_without_what_pruning_needs_the_error_says_what_to_install(absent):
    message = run_alone(WITHOUT + IMPORTING, *absent)
    assert f"{absent[0]} is not installed" in message
    assert "pip install 'keras_greedy[tensorflow]', or [jax] or [torch]" in message
    assert "KERAS_BACKEND" in message


COMMANDS_ALONE = """
    import keras_greedy_cli
    from tflite_export import __main__ as device

    assert keras_greedy_cli.main(["inspect", "model.keras"]) == 2
    assert keras_greedy_cli.main(["benchmark", "gone.tflite"]) == 2
    assert device.main(["benchmark", "gone.tflite"]) == 2
"""


def test_with_numpy_alone_the_commands_say_what_is_missing():
    """Those of devices need no Keras, the others name the packages."""
    absent = ("keras", "scipy", *BACKENDS)
    code = f"{WITHOUT}\n    sys.stderr = sys.stdout{COMMANDS_ALONE}"
    pruning, *timing = run_alone(code, *absent).splitlines()
    assert "keras is not installed: pip install 'keras_greedy[tensorflow]'" in pruning
    assert len(timing) == 2
    assert all("an existing .tflite file" in line for line in timing)


def requirements(extra):
    """The names of the packages that an extra of pyproject.toml installs."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["dependencies"] if extra is None else []
    listed = listed or project["optional-dependencies"][extra]
    return {re.match(r"[\w.-]+", each)[0] for each in listed}


def test_a_device_gets_neither_keras_nor_scipy():
    assert requirements(None) == {"numpy"}
    assert requirements("edge") == {"ai-edge-litert", "flatbuffers"}
    for backend in ("tensorflow", "jax", "torch"):
        assert {"keras", "scipy", backend} <= requirements(backend)


DEEP_MODULES_FIRST = """
    import sys
    import keras_greedy.selection.moments
    import keras_greedy.testing
    import keras_greedy.while_training.layers

    keras_greedy.interop.to_tf_keras
    assert "tf_keras" not in sys.modules

    import importlib.util
    assert importlib.util.find_spec("keras")

    import keras
    keras.models.load_model(sys.argv[1])
    keras.saving.load_model(sys.argv[2])
"""


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory):
    """The file of a model that is being pruned while it trains."""
    path = tmp_path_factory.mktemp("wrapped") / "wrapped.keras"
    keras_greedy.prune_greedy(models.sequential()).save(path)
    return path


@pytest.fixture(scope="module")
def ticket(tmp_path_factory):
    """The file of a ticket."""
    dense = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(0.1))
    target = keras.Sequential([keras.Input((3,)), dense])
    path = tmp_path_factory.mktemp("ticket") / "ticket.keras"
    keras_greedy.lottery.find_ticket(target, verbose=0).save(path)
    return path


def test_our_files_load_whichever_module_of_ours_is_imported_first(wrapped, ticket):
    run_alone(DEEP_MODULES_FIRST, wrapped, ticket)


def test_two_threads_that_save_paths_to_one_file_leave_a_whole_one(tmp_path):
    model = models.randomize(models.sequential())
    paths = keras_greedy.search(model, models.inputs_of(model, 16), verbose=0)
    path, errors = tmp_path / "paths.npz", []

    def save():
        for _ in range(30):
            try:
                paths.save(path)
            except Exception as error:
                errors.append(error)

    paths.save(path)
    threads = [threading.Thread(target=save) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
    assert errors == []
    assert [*tmp_path.iterdir()] == [path]
    loaded = keras_greedy.load_paths(path, model)
    assert loaded.paths.keys() == paths.paths.keys()
    for name, found in paths.paths.items():
        np.testing.assert_array_equal(loaded.paths[name].errors, found.errors)


def test_the_modules_under_test_are_those_of_this_folder():
    assert Path(tflite_export.__file__).parents[1] == ROOT
    assert keras.backend.backend() == "tensorflow"
