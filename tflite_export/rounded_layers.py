"""The layers of a float file whose weights can be stored in 4 bits as they are."""

from collections.abc import Sequence

import numpy as np

from tflite_export.recipes import FOUR_BITS, Operation, Rules, rules_by_scope
from tflite_export.user_warnings import warn_user

LEVELS = 7
"""The integers of a symmetric kernel of int4 go from -7 to 7."""

NEARLY_WHOLE = 1e-3
"""So far from an integer a weight in steps may be: BatchNorm was folded in float32."""

KERNEL = 1
"""Its place among the inputs of an operation; its channels are on the first axis."""


def rules_of_rounded(content: bytes, operations: Sequence[Operation]) -> Rules:
    """Returns rules of int4 for layers whose weights are so already, else of int8.

    Args:
        content: The content of a float file.
        operations: Its operations.
    """
    kinds: dict[str, str | None] = {each.scope: "int8" for each in operations}
    rounded = dict.fromkeys(_scopes_rounded(content), "int4")
    if not rounded:
        warn_user(
            'No weights of the file are in 4 bits already: recipe="rounded" is "int8". '
            "Training undoes the rounding; `keras_greedy.round_kernels` does it again."
        )
    return rules_by_scope(kinds | rounded)


def _scopes_rounded(content: bytes) -> list[str]:
    """Returns the scopes of the operations whose weights are in 4 bits already."""
    from litert_quantizer.utils import tfl_flatbuffer_utils as utils

    model = utils.read_model(content)
    scopes = []
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex].builtinCode
            kind = utils.TFL_OP_CODE_TO_NAME.get(code)
            if kind is None or kind.value not in FOUR_BITS:
                continue
            kernel = graph.tensors[operation.inputs[KERNEL]]
            data = model.buffers[kernel.buffer].data
            if data is not None and is_in_four_bits(data.view("float32"), kernel.shape):
                scopes.append(utils.get_op_scope(operation, graph.tensors))
    return scopes


def is_in_four_bits(weights: np.ndarray, shape: Sequence[int]) -> bool:
    """Returns whether weights are multiples, up to 7, of a step per channel.

    Args:
        weights: All in a row.
        shape: Theirs, the channels first.
    """
    rows = weights.reshape(shape[0], -1)
    step = np.abs(rows).max(axis=1, keepdims=True) / LEVELS
    in_steps = rows / np.where(step > 0, step, 1)
    return bool((np.abs(in_steps - np.rint(in_steps)) < NEARLY_WHOLE).all())
