"""A pruned random network, and the figures that describe it."""

import dataclasses
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_greedy.lottery.layers import Masked
from tflite_export.checks import check_file, check_target, is_count, is_number
from tflite_export.files import check_version, misread, replacing

# The file of the figures inside the .keras file, which is a ZIP archive.
FIGURES = "ticket.json"

WRITER = "Ticket.save"

FORMAT = 1
"""The version of the figures' layout. Files of keras_greedy 0.1.0 do not tell one."""

ERROR_CHARACTERS = 200
"""Of Keras' message for a model that cannot be read: more is a trace."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """A pruned random network that computes the same as a target network.

    Attributes:
        model: The network, an ordinary Keras model. Its weights are random kernels,
            never trained, and binary masks.
        redundancy: How many random products each weight of the target is made of,
            masked ones included, for inputs of one sign.
        max_error: The largest distance of a weight of the target to the sum that it
            is made of.
        target_size: How many weights the target network has, its BatchNorms folded
            into the layers before them.

    Example:

    ```python
    import keras
    import keras_greedy

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    ticket = keras_greedy.lottery.find_ticket(model, redundancy=12, verbose=0)
    ticket.save("ticket.keras")
    ticket = keras_greedy.lottery.Ticket.load("ticket.keras")
    print(ticket)
    ```
    """

    model: keras.Model
    redundancy: int
    max_error: float
    target_size: int

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Returns the mask of each layer's kernel, True for the weights left."""
        masks = {}
        for layer in self.model.layers:
            if isinstance(layer, Masked):
                masks[layer.name] = keras.ops.convert_to_numpy(layer.mask)
        return masks

    @property
    def sparsity(self) -> float:
        """Returns the share of the random weights that is pruned."""
        left = sum(int(mask.sum()) for mask in self.masks.values())
        return 1 - left / self._size

    @property
    def overparameterization(self) -> float:
        """Returns the random weights, pruned ones included, per target's weight."""
        return self._size / self.target_size

    @property
    def _size(self) -> int:
        """Returns how many random weights there are, pruned ones included."""
        return sum(mask.size for mask in self.masks.values())

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        return (
            f"Ticket of {self._size:,} random weights, {1 - self.sparsity:.1%} of them "
            f"left, for {self.target_size:,} of the target "
            f"({self.overparameterization:.1f} x); {self.redundancy} products for "
            f"each, max. error {self.max_error:.1e}"
        )

    def save(self, path: str | Path) -> None:
        """Writes a `.keras` file, which `keras.saving.load_model` reads as well.

        Args:
            path: The file; its name ends in `.keras`. The folder must exist.

        Raises:
            FileNotFoundError: When the folder does not exist.
            ValueError: For any other name, or that of a folder.
        """
        path = check_target(path, ".keras")
        figures = {
            "format": FORMAT,
            "redundancy": self.redundancy,
            "max_error": self.max_error,
            "target_size": self.target_size,
        }
        with replacing(path) as temporary:
            self.model.save(temporary)
            with zipfile.ZipFile(temporary, "a") as file:
                file.writestr(FIGURES, json.dumps(figures))

    @classmethod
    def load(cls, path: str | Path) -> "Ticket":
        """Reads a file that `save` wrote.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: When there is no such file.
            ValueError: When the file is of something else, or damaged; says which part.
        """
        path = check_file(path, f"a file that {WRITER} wrote")
        try:
            return cls(_read_model(path), **_read_figures(path))
        except ValueError as error:
            raise misread(path, WRITER, error) from None


def _read_figures(path: Path) -> dict[str, Any]:
    """Returns the fields of a ticket but the model."""
    try:
        with zipfile.ZipFile(path) as file:
            figures = json.loads(file.read(FIGURES))
    except zipfile.BadZipFile:
        raise ValueError("it is no archive, or cut off") from None
    except KeyError:
        raise ValueError(f"there is no {FIGURES} in it") from None
    except ValueError:
        raise ValueError(f"its {FIGURES} is no JSON") from None
    expected = {"redundancy", "max_error", "target_size"}
    if not isinstance(figures, dict) or {*figures, "format"} != {*expected, "format"}:
        raise ValueError(f"its {FIGURES} has not the fields {sorted(expected)} alone")
    check_version(figures.pop("format", FORMAT), FORMAT)
    for name in ("redundancy", "target_size"):
        if not is_count(figures[name]):
            raise ValueError(f"{name!r} in its {FIGURES} is no positive integer")
    error = figures["max_error"]
    if not is_number(error) or not 0 <= error < math.inf:
        raise ValueError(f"'max_error' in its {FIGURES} is no number of at least 0")
    return figures


def _read_model(path: Path) -> keras.Model:
    try:
        model = keras.saving.load_model(path)
    # Keras has no common class of errors for files that are damaged.
    except Exception as error:
        text = " ".join(str(error).split())
        raise ValueError(
            f"Keras does not read its model: {type(error).__name__}: "
            f"{text:.{ERROR_CHARACTERS}}"
        ) from None
    if not any(isinstance(layer, Masked) for layer in model.layers):
        raise ValueError("its model has no masks")
    for variable in model.variables:
        if not np.isfinite(keras.ops.convert_to_numpy(variable)).all():
            raise ValueError(f"its weight {variable.path!r} has NaN or infinity")
    return model
