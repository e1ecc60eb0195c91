"""A pruned random network, and what is known about it."""

import dataclasses
import json
import zipfile
from pathlib import Path

import keras
import numpy as np

from keras_greedy.lottery.layers import Masked
from tflite_export.files import replacing

FIGURES = "ticket.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Ticket:
    """A pruned random network that computes what a target network does.

    Attributes:
        model: The network, an ordinary Keras model. Its weights are random kernels,
            never trained, and binary masks.
        redundancy: How many random products each weight of the target is made of,
            masked ones included, for inputs of one sign.
        max_error: The largest distance of a weight of the target to what it is made
            of.
        target_size: How many weights the target network has, its BatchNorms folded
            into the layers before them.

    Example:

    ```python
    ticket = keras_greedy.lottery.find_ticket(model)
    ticket.save("ticket.keras")
    ticket = keras_greedy.lottery.Ticket.load("ticket.keras")
    ```
    """

    model: keras.Model
    redundancy: int
    max_error: float
    target_size: int

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """Layer name -> mask of its kernel, True for the weights that are left."""
        return {
            layer.name: keras.ops.convert_to_numpy(layer.mask)
            for layer in self.model.layers
            if isinstance(layer, Masked)
        }

    @property
    def sparsity(self) -> float:
        """The share of the random weights that is pruned."""
        left = sum(int(mask.sum()) for mask in self.masks.values())
        return 1 - left / self._size

    @property
    def overparameterization(self) -> float:
        """Random weights, those pruned included, per weight of the target."""
        return self._size / self.target_size

    @property
    def _size(self) -> int:
        return sum(mask.size for mask in self.masks.values())

    def __str__(self):
        return (
            f"Ticket of {self._size:,} random weights, {1 - self.sparsity:.1%} of them "
            f"left, for {self.target_size:,} of the target "
            f"({self.overparameterization:.1f} x); {self.redundancy} products for "
            f"each, max. error {self.max_error:.1e}"
        )

    def save(self, path) -> None:
        """Writes a `.keras` file, which `keras.saving.load_model` reads as well.

        Args:
            path: Where to; ends in `.keras`. The folder must exist.

        Raises:
            ValueError: For any other path.
        """
        if Path(path).suffix != ".keras":
            raise ValueError(
                f"Expected `path` to end in '.keras'. Received: path={str(path)!r}"
            )
        figures = {name: getattr(self, name) for name in _FIELDS}
        with replacing(path) as temporary:
            self.model.save(temporary)
            with zipfile.ZipFile(temporary, "a") as file:
                file.writestr(FIGURES, json.dumps(figures))

    @classmethod
    def load(cls, path) -> "Ticket":
        """Reads what `save` wrote.

        Raises:
            ValueError: When the file is of something else.
        """
        try:
            with zipfile.ZipFile(path) as file:
                figures = json.loads(file.read(FIGURES))
        except (KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                "Expected `path` to be a file that Ticket.save wrote. Received: "
                f"path={str(path)!r}: {error}"
            ) from None
        return cls(keras.saving.load_model(path), **figures)


_FIELDS = [f.name for f in dataclasses.fields(Ticket) if f.name != "model"]
