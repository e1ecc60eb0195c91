"""The latency of a model at any widths, from that of its blocks at a few."""

import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from keras_greedy.graph.costs import Cost, Widths
from keras_greedy.latency.interpolation import BlockTimes, PackedBlocks
from keras_greedy.latency.timer import Timer
from tflite_export.checks import check_file, check_number, is_count, is_number, shown
from tflite_export.files import check_version, misread, replacing

WRITER = "LatencyTable.save"

FORMAT = 1
"""The version of the file's layout. Files of keras_greedy 0.1.0 do not tell one."""


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyTable:
    """The latency of a model at any widths, from that of its blocks at a few.

    The blocks' latencies are interpolated, bilinearly, and added up. The sum is
    scaled such that the full model takes as long as it was measured to.

    Attributes:
        full_ms: The latency of the full model in milliseconds.
        sizes: Group name -> its number of channels.
        blocks: Name of a block -> its `BlockTimes`.
        saving: The saving of a cut, as a multiple of that of the blocks.
        timer: Gives the milliseconds of each of a list of `.tflite` files. With one,
            the predicted latency of a compact model is checked.

    Example:

    ```python
    import keras
    import keras_greedy

    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(16, 3, activation="relu", name="first"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    timer = keras_greedy.LocalTimer(runs=10)
    keras_greedy.measure_latencies(model, timer).save("latencies.json")
    table = keras_greedy.LatencyTable.load("latencies.json")
    print(table.ms(), table.ms({"first": 8}))
    ```
    """

    full_ms: float
    sizes: dict[str, int]
    blocks: dict[str, BlockTimes] = dataclasses.field(repr=False)
    saving: float = 1.0
    timer: Timer | None = None

    def __post_init__(self) -> None:
        # Here, not at first use: a table of nonsense is an error where it is made or
        # loaded, not after a search.
        self._check()

    def __repr__(self) -> str:
        return (
            f"<LatencyTable of {len(self.sizes)} groups in {len(self.blocks)} blocks, "
            f"{self.full_ms:.3g} ms>"
        )

    def _check(self) -> None:
        """Raises a ValueError that names the field that is none of a table."""
        for name in ("full_ms", "saving"):
            value = getattr(self, name)
            check_number(name, value, "a positive number", _is_positive(value))
        is_dict = isinstance(self.sizes, dict)
        if not is_dict or not all(map(is_count, self.sizes.values())):
            raise ValueError(
                "Expected `sizes` to be a dict of positive integers. "
                f"Received: sizes={shown(self.sizes)}"
            )
        if not isinstance(self.blocks, dict) or not self.blocks:
            raise ValueError(
                "Expected `blocks` to be a dict of BlockTimes. "
                f"Received: blocks={shown(self.blocks)}"
            )
        for name, block in self.blocks.items():
            try:
                block.check(self.sizes)
            except (AttributeError, TypeError, ValueError) as error:
                raise ValueError(
                    f"Expected `blocks` to be BlockTimes. Received: {name!r}: {error}"
                ) from None
        # The latency at other widths is a share of it.
        if not self._full_total > 0:
            raise ValueError(
                "Expected `blocks` to take time. Received: blocks of 0 milliseconds"
            )

    def ms(self, widths: Widths | None = None) -> Cost:
        """Returns the latency when the named groups have these widths, the others all.

        Args:
            widths: Group name -> width, or an array of widths to try.

        Returns:
            Milliseconds: a float, or an array when a width is one.
        """
        widths = widths or {}
        shapes = [np.shape(width) for width in widths.values()]
        shape = np.broadcast_shapes(*shapes)
        # (G, K): a row per group of the model, a column per choice of widths.
        choices = math.prod(shape)
        chosen = np.empty((len(self.sizes), choices))
        for row, name in enumerate(self.sizes):
            width = widths.get(name, self.sizes[name])
            chosen[row] = np.broadcast_to(width, shape).ravel()
        # (K,): only the ratio counts, as blocks that run one by one do not take
        # exactly as long as within the model.
        share = self._packed.total(chosen) / self._full_total
        saved = self.saving * (1 - share)
        ms = self.full_ms * (1 - saved)
        if not shape:
            return float(ms[0])
        return ms.reshape(shape)

    def save(self, path: str | Path) -> None:
        """Writes a JSON file, all but the timer.

        Args:
            path: The file to write; its folder must exist.

        Raises:
            FileNotFoundError: When the folder does not exist.
        """
        blocks = {}
        for name, block in self.blocks.items():
            blocks[name] = dataclasses.asdict(block)
        fields = {
            "format": FORMAT,
            "full_ms": self.full_ms,
            "sizes": self.sizes,
            "blocks": blocks,
            "saving": self.saving,
        }
        text = json.dumps(fields, indent=1)
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(
        cls,
        path: str | Path,
        timer: Timer | None = None,
    ) -> "LatencyTable":
        """Reads a file that `save` wrote.

        Args:
            path: The file.
            timer: See above. It must be of the device that the table is of.

        Returns:
            The `LatencyTable`.

        Raises:
            FileNotFoundError: When there is no such file.
            ValueError: When the file is no table of latencies.
        """
        path = check_file(path, f"a file that {WRITER} wrote")
        try:
            fields = _read_fields(path)
            return cls(**fields, timer=timer)
        except ValueError as error:
            raise misread(path, WRITER, error) from None

    def check(self, sizes: dict[str, int]) -> None:
        """Raises a ValueError unless the table is of a model with such groups.

        A policy may allow only some of them.

        Args:
            sizes: Group name -> its number of channels, of the groups to prune.
        """
        if not sizes.items() <= self.sizes.items():
            raise ValueError(
                "Expected the budget's `table` to be of the model that is pruned, "
                f"with groups of the sizes {shown(sizes)}. Received: a table of a "
                f"model with {shown(self.sizes)}. Measure it: "
                "keras_greedy.measure_latencies(model)"
            )

    @functools.cached_property
    def _packed(self) -> PackedBlocks:
        # Cached, as an allocation asks for the latency of thousands of widths.
        names = list(self.sizes)
        blocks = list(self.blocks.values())
        return PackedBlocks(names, blocks)

    @functools.cached_property
    def _full_total(self) -> np.ndarray:
        """`(1,)` milliseconds of all blocks when every group is whole."""
        sizes = list(self.sizes.values())
        full = np.array(sizes, float)
        return self._packed.total(full[:, None])


def _is_positive(value: object) -> bool:
    """Returns whether a value is a positive, finite number."""
    return is_number(value) and 0 < value < math.inf  # type: ignore[operator]


def _read_fields(path: Path) -> dict[str, Any]:
    """Returns the fields of a table but the timer."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    expected = {"full_ms", "sizes", "blocks", "saving"}
    if not isinstance(fields, dict) or {*fields, "format"} != {*expected, "format"}:
        raise ValueError(f"it has not the fields {sorted(expected)} alone")
    check_version(fields.pop("format", FORMAT), FORMAT)
    blocks = {}
    try:
        for name, block in fields["blocks"].items():
            blocks[name] = BlockTimes(**block)
    except (AttributeError, TypeError):
        raise ValueError("its 'blocks' are not those of a table") from None
    return fields | {"blocks": blocks}
