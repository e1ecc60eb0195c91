"""Examples of a data set, as arrays."""

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Inputs: TypeAlias = np.ndarray | dict[str, np.ndarray]
"""One array of inputs `(n, ...)`, or several by the names of the model's inputs."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of a model, with their labels where there are any.

    Attributes:
        x: The inputs `(n, ...)`; for several inputs a dict of them by name.
        y: The labels `(n, ...)`, or `None`.
        class_names: The names of the classes 0, 1..., where the data tell them.

    Example:

    ```python
    import numpy as np
    from keras_greedy.datasets import Examples

    examples = Examples(np.zeros((10, 8, 8, 3)), np.arange(10))
    assert len(examples) == 10
    x, y = examples.part(0, 4).data
    assert len(x) == len(y) == 4
    ```
    """

    x: Inputs
    y: np.ndarray | None = None
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        arrays = self.x.values() if isinstance(self.x, dict) else [self.x]
        return len(next(iter(arrays)))

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else "labels"
        return f"<Examples: {len(self):,} with {labels}>"

    @property
    def data(self) -> Inputs | tuple[Inputs, np.ndarray]:
        """Returns `x`, or `(x, y)` where there are labels, as `prune` takes them."""
        return self.x if self.y is None else (self.x, self.y)

    def part(self, start: int, stop: int | None) -> "Examples":
        """Returns some of the examples in a row, as views of the arrays.

        Args:
            start: The number of the first one, from 0.
            stop: The number behind the last one; `None` takes all that follow.
        """
        rows = slice(start, stop)
        y = None if self.y is None else self.y[rows]
        return dataclasses.replace(self, x=_each(self.x, lambda x: x[rows]), y=y)

    def without_labels(self) -> "Examples":
        """Returns the same inputs alone."""
        return dataclasses.replace(self, y=None, class_names=())

    def map_inputs(self, function: Callable[[np.ndarray], np.ndarray]) -> "Examples":
        """Returns the examples with a function applied to each array of inputs.

        Args:
            function: Maps an array `(n, ...)` to one of as many rows.
        """
        return dataclasses.replace(self, x=_each(self.x, function))


def _each(x: Inputs, function: Callable[[np.ndarray], np.ndarray]) -> Inputs:
    if isinstance(x, dict):
        return {name: function(array) for name, array in x.items()}
    return function(x)
