"""The file of a search: arrays without pickle, one for each field."""

import dataclasses
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from keras_greedy.graph.channels import ChannelGraph
from keras_greedy.selection.consumers import consumers_of
from keras_greedy.selection.divergence import FREE, Divergence
from keras_greedy.selection.moments import Moments, Scatter
from keras_greedy.selection.path import MixturePath, SelectionPath
from keras_greedy.selection.steps import STEP_RULES
from tflite_export.checks import is_count
from tflite_export.files import check_version, misread, read_arrays, replacing

Fields: TypeAlias = dict[str, Any]
"""Name of a dataclass' field -> its value."""

WRITER = "SelectionPaths.save"

FORMAT = 3
"""The version of the file's layout. Files of keras_greedy 0.1.0 do not tell one.

Since 2 a divergence may be measured at width 0, since 3 it tells what counts as none.
"""

OF_ALL = ("format", "examples", "step")
"""The entries that are of the whole search; the others are of a group or consumer."""

KINDS = ("path", "divergence", "scatter")
"""The first parts of the names of those others: `kind/group/field`."""

INTEGER_KINDS = "iu"
"""NumPy's letters for the dtypes int and unsigned int."""


@dataclasses.dataclass(frozen=True, eq=False)
class SavedSearch:
    """A search without its model and data.

    Attributes:
        moments: Of the inputs of every consumer.
        paths: Group name -> the order its channels are added in.
        divergence: Group name -> measured output divergence at a few widths.
        step: Name of the step rule.
    """

    moments: Moments
    paths: dict[str, SelectionPath]
    divergence: dict[str, Divergence]
    step: str

    def write(self, path: str | Path) -> None:
        """Writes an `.npz` file, whole or not at all.

        Raises:
            FileNotFoundError: When the folder does not exist.
            ValueError: When `path` is no file's name.
        """
        arrays: Fields = {
            "format": FORMAT,
            "examples": self.moments.examples,
            "step": self.step,
        }
        for name, selected in self.paths.items():
            arrays |= _entries(f"path/{name}", selected)
            arrays |= _entries(f"divergence/{name}", self.divergence[name])
        for name, scatter in self.moments.scatters.items():
            arrays |= _entries(f"scatter/{name}", scatter)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: str | Path) -> "SavedSearch":
        """Reads the file that `write` wrote, and checks all of it.

        Raises:
            FileNotFoundError: When there is no such file.
            ValueError: When it is another one; names the entry that is wrong.
        """
        arrays = read_arrays(path, WRITER)
        try:
            return cls._of(arrays)
        except ValueError as error:
            raise misread(path, WRITER, error) from None

    def check_model(self, graph: ChannelGraph) -> None:
        """Raises a ValueError when the search was made on another model.

        Args:
            graph: The traced model, with the groups of the search.
        """
        widths = {name: len(path.order) for name, path in self.paths.items()}
        _check_same("group", graph.widths, widths)
        expected = {}
        for name, consumer in consumers_of(graph).items():
            expected[name] = (consumer.folds, len(consumer.features))
        rows = {name: own.mean.shape for name, own in self.moments.scatters.items()}
        _check_same("input of layer", expected, rows)
        for name, divergence in self.divergence.items():
            if 0 in divergence.widths and name not in graph.branches.ends:
                raise ValueError(
                    "Expected `model` to be the one the search was made on. Received: "
                    f"a model whose group '{name}' ends no branch that may go, as in "
                    "the search"
                )

    @classmethod
    def _of(cls, arrays: dict[str, np.ndarray]) -> "SavedSearch":
        if "format" in arrays:
            check_version(_count(arrays, "format", minimum=1), FORMAT)
        examples = _count(arrays, "examples", minimum=1)
        step = _step(arrays)
        saved = _by_kind(arrays)
        scatters = {}
        for name, own in saved["scatter"].items():
            scatters[name] = _scatter(f"scatter/{name}", own)
        paths = {}
        divergences = {}
        for name, own in saved["path"].items():
            paths[name] = _path(f"path/{name}", own)
            size = len(paths[name].order)
            measured = saved["divergence"].pop(name, {})
            divergences[name] = _divergence(f"divergence/{name}", measured, size)
        for name in saved["divergence"]:
            raise ValueError(f"there is a 'divergence/{name}' and no 'path/{name}'")
        return cls(Moments(scatters, examples), paths, divergences, step)


def _check_same(what: str, of_model: dict[str, Any], of_search: dict[str, Any]) -> None:
    """Raises a ValueError that names the first size that differs."""
    for name in [*of_search, *of_model]:
        size = of_model.get(name, "no")
        searched = of_search.get(name, "no")
        if size != searched:
            raise ValueError(
                "Expected `model` to be the one the search was made on. Received: a "
                f"model with {what} '{name}' of {size} channels, where the search had "
                f"{searched}"
            )


def _entries(prefix: str, instance: Any) -> Fields:
    """Returns the fields of a dataclass, named `prefix/field`."""
    names = [field.name for field in dataclasses.fields(instance)]
    return {f"{prefix}/{name}": getattr(instance, name) for name in names}


def _by_kind(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, Fields]]:
    """Returns kind -> name of a group or consumer -> field -> array."""
    saved: dict[str, dict[str, Fields]] = {kind: {} for kind in KINDS}
    for key, array in arrays.items():
        if key in OF_ALL:
            continue
        kind, _, name_and_field = key.partition("/")
        # Names of layers in nested models have slashes of their own.
        name, _, field = name_and_field.rpartition("/")
        if kind not in KINDS or not name:
            raise ValueError(f"it has an unknown entry {key!r}")
        saved[kind].setdefault(name, {})[field] = array
    return saved


def _count(arrays: dict[str, np.ndarray], name: str, minimum: int) -> int:
    """Returns an entry that is a single integer of at least `minimum`."""
    array = arrays.get(name)
    value = None if array is None or array.ndim else array.item()
    if value is None or not is_count(value, minimum):
        raise ValueError(
            f"its entry {name!r} is no integer of at least {minimum}, or missing"
        )
    return int(value)


def _step(arrays: dict[str, np.ndarray]) -> str:
    step = str(arrays.get("step", "missing"))
    if step not in STEP_RULES:
        raise ValueError(f"its entry 'step' is {step!r:.100}, not of {[*STEP_RULES]}")
    return step


def _scatter(prefix: str, fields: Fields) -> Scatter:
    fields = _exactly(prefix, fields, Scatter)
    mean = _finite(f"{prefix}/mean", fields["mean"])
    scatter = _finite(f"{prefix}/scatter", fields["scatter"])
    if mean.ndim != 2 or scatter.shape != (mean.shape[1], mean.shape[1]):
        raise ValueError(
            f"its entries of {prefix!r} are of shapes that do not fit, mean "
            f"{mean.shape} and scatter {scatter.shape}"
        )
    if (np.diag(scatter) < 0).any():
        raise ValueError(f"its entry '{prefix}/scatter' has negative variances")
    return Scatter(_count(fields, "count", minimum=0), mean, scatter)


def _path(prefix: str, fields: Fields) -> SelectionPath:
    """Returns the path of a group; the steps of a mixture are saved with it."""
    is_mixture = "picks" in fields
    fields = _exactly(prefix, fields, MixturePath if is_mixture else SelectionPath)
    order = fields["order"]
    size = order.size
    is_integer = order.dtype.kind in INTEGER_KINDS
    if not is_integer or not np.array_equal(np.sort(order), np.arange(size)):
        raise ValueError(
            f"its entry '{prefix}/order' is not each channel from 0 on, once"
        )
    errors = _finite(f"{prefix}/errors", fields["errors"], (size + 1,))
    if not is_mixture:
        return SelectionPath(order, errors)
    picks = _integers(f"{prefix}/picks", fields["picks"], 0, size - 1)
    sizes = _finite(f"{prefix}/sizes", fields["sizes"], picks.shape)
    steps = _integers(f"{prefix}/steps", fields["steps"], 0, len(picks))
    if len(steps) != size + 1:
        raise ValueError(f"its entry '{prefix}/steps' has not {size + 1} numbers")
    return MixturePath(order, errors, picks, sizes, steps)


def _divergence(prefix: str, fields: Fields, size: int) -> Divergence:
    fields = _exactly(prefix, {"free": np.array(FREE), **fields}, Divergence)
    widths = _integers(f"{prefix}/widths", fields["widths"], 0, size - 1)
    if (np.diff(widths) <= 0).any():
        raise ValueError(f"its entry '{prefix}/widths' does not increase")
    values = _finite(f"{prefix}/values", fields["values"], widths.shape)
    free = _finite(f"{prefix}/free", fields["free"], ())
    return Divergence(widths, values, float(free))


def _exactly(prefix: str, fields: Fields, kind: type) -> Fields:
    """Returns the fields, if they are those of a dataclass."""
    expected = {field.name for field in dataclasses.fields(kind)}
    if set(fields) != expected:
        raise ValueError(
            f"its entries of {prefix!r} are {sorted(fields)!s:.200}, not "
            f"{sorted(expected)}"
        )
    return fields


def _integers(name: str, array: np.ndarray, least: int, most: int) -> np.ndarray:
    """Returns an array `(n,)` of integers from `least` to `most`."""
    is_row = array.ndim == 1 and array.dtype.kind in INTEGER_KINDS
    if not is_row or (array < least).any() or (array > most).any():
        raise ValueError(
            f"its entry {name!r} is no row of integers from {least} to {most}"
        )
    return array


def _finite(
    name: str,
    array: np.ndarray,
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Returns an array of finite numbers, of a shape if one is given."""
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"its entry {name!r} has NaN or infinity, or no numbers")
    if shape is not None and array.shape != shape:
        raise ValueError(
            f"its entry {name!r} is of shape {array.shape}, not of {shape}"
        )
    return array
