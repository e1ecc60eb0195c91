"""The loss to second order around a mixture, good for steps from others near it.

With s the gradient of the loss at the mixture a0, and d_x that of -log p of a label
drawn from the network's own output for example x, the loss at a is

    L(a0) + <s, a - a0> + 1/2 mean over x of <d_x, a - a0>^2.

That is a quadratic function of a: its derivatives are known wherever the steps go,
and stay right as long as a is near a0.
"""

import dataclasses

import numpy as np
from keras import ops

from keras_greedy.devices import gathered
from keras_greedy.processes import own_generator, total_of_processes
from keras_greedy.selection.output.step_sizes import Expansion
from keras_greedy.selection.output.suffix import Suffix


@dataclasses.dataclass(frozen=True, eq=False)
class Around:
    """The loss to second order around a mixture.

    Attributes:
        weights: `(N,)` the mixture a0.
        slopes: `(N,)` the gradient of the mean loss there, of all processes.
        draws: `(n, N)` the gradients of -log p of the drawn labels, of this process.
        examples: Their number in all processes.
    """

    weights: np.ndarray
    slopes: np.ndarray
    draws: np.ndarray
    examples: int

    def towards_each(self, weights: np.ndarray) -> Expansion:
        """Returns the loss on the way from a mixture to each channel.

        Args:
            weights: `(N,)` the mixture, near a0.
        """
        # (n,): how far each example's log p has moved.
        moved = self.draws @ (weights - self.weights)
        slopes = self.slopes + self._mean(moved @ self.draws)
        # Along d_i = e_i - a: the i-th entry less the derivative along a itself.
        along = self.draws - (self.draws @ weights)[:, None]
        curvatures = self._mean(np.square(along).sum(axis=0))
        return Expansion(slopes - slopes @ weights, curvatures)

    def _mean(self, total: np.ndarray) -> np.ndarray:
        """Returns the mean over all examples of a sum over those of this process."""
        return total_of_processes(total) / self.examples


def expanded(
    suffix: Suffix,
    batches: list[tuple[list, list]],
    weights: np.ndarray,
    rng: np.random.Generator,
) -> Around:
    """Returns the loss to second order around a mixture.

    Args:
        suffix: Evaluates mixtures.
        batches: The `(live, targets)` to evaluate them on.
        weights: `(N,)` the mixture.
        rng: Source of the drawn labels, the same in all processes.
    """
    own = own_generator(rng)
    slopes_of_batches, draws_of_batches = [], []
    for live, targets in batches:
        slopes, draws = suffix.slopes(live, targets, weights, own)
        counts = _weights_of_examples(suffix, targets)
        if counts is not None:
            # The second derivative of a weighed loss is the weighed information.
            draws = draws * np.sqrt(counts)[:, None]
        slopes_of_batches.append(slopes)
        draws_of_batches.append(draws)
    draws = np.concatenate(draws_of_batches)
    examples = total_of_processes(len(draws))
    total = total_of_processes(np.concatenate(slopes_of_batches).sum(axis=0))
    return Around(weights.copy(), total / examples, draws, examples)


def _weights_of_examples(suffix: Suffix, targets: list) -> np.ndarray | None:
    """Returns the `(n,)` weights of the examples, `None` where they have none."""
    outputs = len(suffix.kinds)
    weights = [ops.convert_to_numpy(each) for each in gathered(targets[outputs:])]
    if not weights:
        return None
    # Of several outputs, or positions, the mean counts.
    rows = [each.reshape(len(each), -1).mean(axis=1) for each in weights]
    return np.mean(rows, axis=0)
