"""The random weights that stand for those of a layer."""

import dataclasses

import numpy as np

from keras_greedy.lottery.targets import Target

DISTRIBUTIONS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
}


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
    def draw(cls, target: Target, redundancy: int, distribution, seed: list):
        """Random weights, of which fewer are the first of more."""
        random = DISTRIBUTIONS.get(distribution, distribution)
        into, out_of = (np.random.default_rng([*seed, part]) for part in (0, 1))
        weights = target.weights_by_sign
        signs, positions, inputs, outputs = weights.shape
        shape = redundancy, signs, positions, inputs, outputs
        incoming = np.abs(_drawn(random, into, (redundancy, signs, inputs)))
        incoming[:, 1:] *= -1
        outgoing = _drawn(random, out_of, shape)
        # In float32, as the layers have them.
        return cls(incoming.astype("float32"), outgoing.astype("float32"), weights)

    def first(self, redundancy: int) -> "Samples":
        """Fewer of them."""
        fewer = self.incoming[:redundancy], self.outgoing[:redundancy]
        return Samples(*fewer, self.weights)

    def problems(self) -> tuple[np.ndarray, np.ndarray]:
        """`(problems, redundancy)` products and the `(problems,)` weights to make.

        A weight of 0 is no problem: nothing makes it.
        """
        incoming = self.incoming[:, :, None, :, None].astype(float)
        products = np.moveaxis(incoming * self.outgoing, 0, -1)
        return products[self._wanted], self.weights[self._wanted]

    def masks(self, solutions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The masks of `incoming` and `outgoing`, from those of the problems."""
        masks = np.zeros((*self.weights.shape, len(self.incoming)), bool)
        masks[self._wanted] = solutions
        masks = np.moveaxis(masks, -1, 0)
        return masks.any(axis=(2, 4)), masks

    @property
    def _wanted(self) -> np.ndarray:
        return self.weights != 0


def _drawn(random, rng, shape) -> np.ndarray:
    drawn = np.asarray(random(rng, shape))
    if drawn.shape != shape or not np.isfinite(drawn).all():
        raise ValueError(
            f"Expected `distribution` to draw finite numbers of shape {shape}. "
            f"Received: {drawn!r} of shape {drawn.shape}"
        )
    return drawn
