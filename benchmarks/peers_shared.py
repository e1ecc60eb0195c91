"""The network, the methods and the files that `peers.py` and `peers_torch.py` share.

It imports neither TensorFlow nor PyTorch: each of the two runs without the other.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

BUDGETS = (0.85, 0.73, 0.6, 0.5)
CHECKED_IMAGES = 8
"""The first images, on which both frameworks must compute the same."""

FULL = "full"
OUTPUTS = "outputs"
IMAGES_FILE = "images.npy"
LABELS_FILE = "labels.npy"

STRIDES = (1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1)
"""Of the depthwise convolutions of the 17 blocks."""

ADDING = (2, 4, 5, 7, 8, 9, 11, 12, 14, 15)
"""The blocks that add their input to their output."""

Weights = dict[str, list[np.ndarray]]
"""Keras layer name -> its arrays, shaped and ordered as in Keras."""


@dataclasses.dataclass(frozen=True)
class Block:
    """An inverted residual block of MobileNetV2.

    Attributes:
        index: Its number; the first, 0, does not expand.
        stride: Of its depthwise convolution.
        adds: Whether its input is added to its output.
    """

    index: int
    stride: int
    adds: bool

    @property
    def prefix(self) -> str:
        """How the names of its layers begin in keras.applications."""
        return f"block_{self.index}_" if self.index else "expanded_conv_"


BLOCKS = tuple(
    Block(index, stride, index in ADDING) for index, stride in enumerate(STRIDES)
)

PROJECTING = tuple(f"{block.prefix}project" for block in BLOCKS)
ON_STREAMS = tuple(f"block_{index}_project" for index in range(1, 16))
"""The convolutions whose outputs are added to others; blocks 0 and 16 stand alone."""

PEER = "Torch-Pruning 1.6.1"
CRITERIA = {"l1": "L1", "taylor": "Taylor (labels)", "bn": "BN scale"}
RANKINGS = ("local", "global", "isomorphic")
SCOPES = {
    "expanded": "expanded channels",
    "hidden": "hidden channels",
    "all": "all channels",
}
IGNORED = {
    "expanded": ("Conv1", *PROJECTING, "Conv_1", "predictions"),
    "hidden": (*ON_STREAMS, "predictions"),
    "all": ("predictions",),
}
"""Scope -> the layers whose outputs are not pruned."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A way in which the peer prunes.

    Attributes:
        criterion: A key of `CRITERIA`.
        ranking: One of `RANKINGS`: channels are compared within a layer, among all,
            or among layers that are placed alike.
        scope: A key of `SCOPES`: the channels inside of the blocks alone; all but the
            residual streams, which are those that keras_greedy prunes; or all.
    """

    criterion: str
    ranking: str
    scope: str

    @property
    def name(self) -> str:
        """Its name on the command line and in file names."""
        return f"torch_pruning-{self.criterion}-{self.ranking}-{self.scope}"

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{CRITERIA[self.criterion]}, {self.ranking}, {SCOPES[self.scope]}"


def _methods() -> Iterator[Method]:
    for scope in SCOPES:
        for criterion in CRITERIA:
            for ranking in RANKINGS:
                yield Method(criterion, ranking, scope)


METHODS = {method.name: method for method in _methods()}


def weights_file(work: Path, name: str, budget: float = 1.0) -> Path:
    """Returns the file of the weights of a method, or of the full network."""
    return work / f"{name}-{budget:g}.npz"


def save_weights(file: Path, weights: Weights, outputs: np.ndarray) -> None:
    """Writes a network.

    Args:
        file: A `.npz` file; it appears only when it is complete.
        weights: Of all layers.
        outputs: The softmax on the first `CHECKED_IMAGES` images.
    """
    arrays = {OUTPUTS: outputs}
    for layer, of_layer in weights.items():
        for index, array in enumerate(of_layer):
            arrays[f"{layer}/{index}"] = array
    unfinished = file.with_suffix(".unfinished.npz")
    np.savez(unfinished, **arrays)
    os.replace(unfinished, file)


def load_weights(file: Path) -> tuple[Weights, np.ndarray]:
    """Returns the weights and the outputs that `save_weights` wrote."""
    weights: Weights = {}
    with np.load(file) as arrays:
        for key in arrays.files:
            if key != OUTPUTS:
                # The arrays of a layer come in the order they were written in.
                weights.setdefault(key.split("/")[0], []).append(arrays[key])
        return weights, arrays[OUTPUTS]


def relative_error(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value expected."""
    return float(np.abs(outputs - expected).max() / np.abs(expected).max())
