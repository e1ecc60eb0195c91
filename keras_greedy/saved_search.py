"""The file of a search: arrays without pickle, one for each field."""

import dataclasses
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from keras_greedy.selection.measured import Divergence
from keras_greedy.selection.moments import Moments, Scatter
from keras_greedy.selection.path import MixturePath, SelectionPath
from tflite_export.files import replacing

Fields: TypeAlias = dict[str, Any]
"""Name of a dataclass' field -> its value."""

OF_ALL = ("examples", "step")
"""The entries that are of the whole search; the others are of a group or consumer."""


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
        """
        arrays: Fields = {"examples": self.moments.examples, "step": self.step}
        for name, selected in self.paths.items():
            arrays |= _entries(f"path/{name}", selected)
            arrays |= _entries(f"divergence/{name}", self.divergence[name])
        for name, scatter in self.moments.scatters.items():
            arrays |= _entries(f"scatter/{name}", scatter)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: str | Path) -> "SavedSearch":
        """Reads the file that `write` wrote."""
        saved: dict[str, dict[str, Fields]] = {
            "path": {},
            "divergence": {},
            "scatter": {},
        }
        with np.load(path, allow_pickle=False) as file:
            examples = int(file["examples"])
            step = str(file["step"])
            for key in file.files:
                if key not in OF_ALL:
                    # Names of layers in nested models have slashes of their own.
                    kind, name_and_field = key.split("/", 1)
                    name, field = name_and_field.rsplit("/", 1)
                    saved[kind].setdefault(name, {})[field] = file[key]
        scatters = {name: Scatter(**own) for name, own in saved["scatter"].items()}
        paths = {name: _path_of(own) for name, own in saved["path"].items()}
        divergence = {n: Divergence(**own) for n, own in saved["divergence"].items()}
        return cls(Moments(scatters, examples), paths, divergence, step)


def _entries(prefix: str, instance: Any) -> Fields:
    """Returns the fields of a dataclass, named `prefix/field`."""
    names = [field.name for field in dataclasses.fields(instance)]
    return {f"{prefix}/{name}": getattr(instance, name) for name in names}


def _path_of(fields: Fields) -> SelectionPath:
    # The steps of a mixture are saved with its path.
    return MixturePath(**fields) if "picks" in fields else SelectionPath(**fields)
