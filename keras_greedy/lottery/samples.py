"""The random weights that stand for those of a layer."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from keras_greedy.lottery.targets import Target
from tflite_export.checks import shown

Distribution: TypeAlias = Callable[
    [np.random.Generator, tuple[int, ...]],
    np.ndarray,
]

DISTRIBUTIONS: dict[str, Distribution] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
}

# Weights into the neurons and out of them come from generators of their own: more of
# the ones leave the others as they are.
INCOMING, OUTGOING = range(2)


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Random weights into groups of neurons, one for each input, and out of them.

    Each weight of the layer is to be a sum of some of its own `redundancy` products of
    a weight into a neuron of its input's group and one out of it: of those with a
    positive weight in for positive inputs, and where inputs may be negative, of those
    with a negative one for negative inputs.

    Attributes:
        incoming: `(redundancy, signs, inputs)`: positive ones for the first sign,
            negative ones for the second. That there are as many of both is not left
            to chance.
        outgoing: `(redundancy, signs, positions, inputs, outputs)`.
        weights: `(signs, positions, inputs, outputs)`: the weights to make of them.
    """

    incoming: np.ndarray
    outgoing: np.ndarray
    weights: np.ndarray

    @classmethod
    def draw(
        cls,
        target: Target,
        redundancy: int,
        distribution: str | Distribution,
        seed: Sequence[int],
    ) -> "Samples":
        """Draws random weights, of which fewer are the first of more.

        Args:
            target: The linear map they are to make.
            redundancy: How many products there are for each of its weights.
            distribution: A name in `DISTRIBUTIONS`, or a function like those.
            seed: Of the generators.

        Raises:
            ValueError: When the function draws other shapes or no finite numbers.
        """
        if isinstance(distribution, str):
            distribution = DISTRIBUTIONS[distribution]
        weights = target.weights_by_sign
        signs, positions, inputs, outputs = weights.shape
        shape_in = (redundancy, signs, inputs)
        shape_out = (redundancy, signs, positions, inputs, outputs)
        incoming = _drawn(distribution, [*seed, INCOMING], shape_in)
        outgoing = _drawn(distribution, [*seed, OUTGOING], shape_out)
        # The first sign's neurons fire for positive inputs, the second's for negative.
        incoming = np.abs(incoming)
        incoming[:, 1:] *= -1
        # Rounded before the subset sums are solved: the layers compute in float32.
        return cls(incoming.astype("float32"), outgoing.astype("float32"), weights)

    def first(self, redundancy: int) -> "Samples":
        """Returns the first ones, `redundancy` for each weight of the layer."""
        return Samples(
            self.incoming[:redundancy],
            self.outgoing[:redundancy],
            self.weights,
        )

    def problems(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns `(problems, redundancy)` products and the `(problems,)` weights.

        A weight of 0 is no problem: nothing makes it.
        """
        # A neuron's weight in is the same for all positions and outputs: it becomes
        # (redundancy, signs, 1, inputs, 1), to multiply all of its weights out.
        incoming = self.incoming[:, :, None, :, None].astype(float)
        products = np.moveaxis(incoming * self.outgoing, 0, -1)
        return products[self._wanted], self.weights[self._wanted]

    def masks(self, solutions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the masks of `incoming` and of `outgoing`.

        Args:
            solutions: `(problems, redundancy)` masks of the problems.
        """
        # (signs, positions, inputs, outputs, redundancy), False for weights of 0.
        masks = np.zeros((*self.weights.shape, len(self.incoming)), bool)
        masks[self._wanted] = solutions
        out_of = np.moveaxis(masks, -1, 0)
        # A neuron that no position of no output reads is not connected to its input.
        into = np.any(out_of, axis=(2, 4))
        return into, out_of

    @property
    def _wanted(self) -> np.ndarray:
        """The mask of the weights that are not 0, in the order of the problems."""
        return self.weights != 0


def _drawn(
    distribution: Distribution,
    seed: list[int],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Returns an array of this shape, drawn by a generator of its own."""
    drawn = np.asarray(distribution(np.random.default_rng(seed), shape))
    is_real = drawn.dtype.kind in "iuf"
    if drawn.shape != shape or not is_real or not np.isfinite(drawn).all():
        raise ValueError(
            f"Expected `distribution` to draw finite numbers of shape {shape}. "
            f"Received: {shown(drawn)}"
        )
    return drawn
