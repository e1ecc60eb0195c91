"""The layers of a file whose weights can be stored in 4 bits at little cost."""

from collections.abc import Mapping, Sequence

import numpy as np

from tflite_export.biases import with_means_kept
from tflite_export.calibration import Ranges, apply_rules
from tflite_export.data import Samples
from tflite_export.recipes import FOUR_BITS, Operation, Rules, rules_by_scope
from tflite_export.runtime import import_runtime

MEASURED_BATCHES = 64
"""Most batches to measure errors on."""

MOST_ERROR = 1.5
"""The squared error of the file, over that of one with all weights in 8 bits."""


def choose_four_bits(
    content: bytes,
    operations: Sequence[Operation],
    ranges: Ranges,
    means: Mapping[str, np.ndarray],
    batches: Sequence[Samples],
) -> Rules:
    """Returns rules of int4 for layers that bear it, and of int8 for all others.

    Each layer is measured alone in 4 bits. In the order of the error that each byte
    saved costs, as many are taken as leave the squared error of the outputs within
    `MOST_ERROR` times that of int8.

    Args:
        content: The content of a float file with a signature.
        operations: Its operations.
        ranges: The ranges of its activations.
        means: The mean of each channel of them.
        batches: Arrays by the names of the inputs.
    """
    batches = batches[:MEASURED_BATCHES]
    expected = _outputs(content, batches)

    def rules_with(layers: Sequence[str]) -> Rules:
        eight = {operation.scope: "int8" for operation in operations}
        return rules_by_scope(eight | dict.fromkeys(layers, "int4"))

    def error(layers: Sequence[str]) -> tuple[float, int]:
        """Returns the squared error with these layers in 4 bits, and the size."""
        rules = rules_with(layers)
        made = apply_rules(with_means_kept(content, rules, means), rules, ranges)
        found = _outputs(made, batches)
        squares = [np.sum((found[name] - expected[name]) ** 2.0) for name in expected]
        return float(sum(squares)), len(made)

    least, size = error([])
    costs = {}
    for operation in operations:
        if operation.kind in FOUR_BITS:
            alone, smaller = error([operation.scope])
            if smaller < size:
                costs[operation.scope] = (alone - least) / (size - smaller)
    layers = sorted(costs, key=lambda scope: costs[scope])
    # The largest number of layers that is within, by halving.
    within, beyond = 0, len(layers) + 1
    while beyond - within > 1:
        middle = (within + beyond) // 2
        if error(layers[:middle])[0] <= MOST_ERROR * least:
            within = middle
        else:
            beyond = middle
    return rules_with(layers[:within])


def _outputs(content: bytes, batches: Sequence[Samples]) -> Samples:
    """Returns output name -> what a file gives for all batches."""
    interpreter = import_runtime().Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    found = [runner(**batch) for batch in batches]
    return {name: np.stack([each[name] for each in found]) for name in found[0]}
