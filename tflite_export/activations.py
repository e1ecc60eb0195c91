"""Activations on data: their means, and the ranges that round them best."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tflite_export.data import Samples
from tflite_export.recipes import Rules, manager_of
from tflite_export.runtime import Interpreter, import_runtime

SAMPLED_VALUES = 2**16
"""Values of each activation that its range is chosen on."""

SHARES = np.linspace(1, 0.3, 29)
"""Of the whole range; the largest one wins among equals."""

SEED = 0


@dataclasses.dataclass(frozen=True)
class Activations:
    """Means and values of the activations of a file on data, by their names.

    Attributes:
        means: The mean of each channel: of each place on the last axis.
        values: Values drawn at random.
    """

    means: dict[str, np.ndarray]
    values: dict[str, np.ndarray]


def observable(content: bytes) -> Interpreter:
    """Returns an interpreter that keeps all activations, as one with delegates cannot.

    Args:
        content: The content of a file.
    """
    runtime = import_runtime()
    resolver = runtime.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return runtime.Interpreter(
        model_content=content,
        experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=resolver,
    )


def observe(
    interpreter: Interpreter,
    names: Sequence[str],
    batches: Sequence[Samples],
) -> Activations:
    """Returns means and values of activations on data.

    Args:
        interpreter: Of a float file with a signature, that keeps all activations.
        names: Those of the activations.
        batches: Arrays by the names of the inputs.
    """
    run = interpreter.get_signature_runner()
    indices = {}
    for tensor in interpreter.get_tensor_details():
        if tensor["name"] in names and len(tensor["shape"]):
            indices[tensor["name"]] = tensor["index"]
    rng = np.random.default_rng(SEED)
    count = max(SAMPLED_VALUES // len(batches), 1)
    sums: dict[str, Any] = dict.fromkeys(indices, 0)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in indices}
    for batch in batches:
        run(**batch)
        for name, index in indices.items():
            array = interpreter.get_tensor(index)
            rows = array.reshape(-1, array.shape[-1])
            sums[name] = sums[name] + rows.mean(axis=0, dtype="float64")
            drawn[name].append(rng.choice(array.ravel(), count))
    return Activations(
        means={name: total / len(batches) for name, total in sums.items()},
        values={name: np.concatenate(parts) for name, parts in drawn.items()},
    )


def narrowed(
    content: bytes,
    rules: Rules,
    ranges: Mapping[str, dict[str, Any]],
    values: Mapping[str, np.ndarray],
) -> dict[str, dict[str, Any]]:
    """Returns ranges that round activations with the least squared error.

    A few large values make the steps of all others wide. What lies beyond a narrower
    range is cut off; the range is taken that costs the least, both together. The
    inputs and outputs of the file keep all of theirs.

    Args:
        content: The content of the file.
        rules: What is to be quantized.
        ranges: The smallest and largest value of each activation.
        values: Values of activations.
    """
    from litert_quantizer.utils import tfl_flatbuffer_utils as utils

    result = dict(ranges)
    manager = manager_of(rules)
    model = utils.read_model(content)
    for graph in model.subgraphs:
        for operation in graph.operators:
            code = model.operatorCodes[operation.opcodeIndex].builtinCode
            kind = utils.TFL_OP_CODE_TO_NAME.get(code)
            scope = utils.get_op_scope(operation, graph.tensors)
            _, config = manager.get_quantization_configs(kind, scope)
            stored = getattr(config, "activation_tensor_config", None)
            for index in operation.outputs:
                name = utils.get_tensor_name(graph.tensors[index])
                is_seen = name in values and "min" in ranges.get(name, {})
                if stored is not None and is_seen and index not in graph.outputs:
                    steps = 2**stored.num_bits - 1
                    result[name] = _narrowed(ranges[name], values[name], steps)
    return result


def _narrowed(
    found: dict[str, Any],
    values: np.ndarray,
    steps: int,
) -> dict[str, Any]:
    """Returns the share of a range that rounds values with the least squared error.

    Both ends come nearer by the same share: each end alone cuts off more, which is
    no worse here and makes the outputs worse, as what is cut off has a mean.

    Args:
        found: The smallest and the largest value of an activation.
        values: Values of it.
        steps: Into which the range is divided.
    """
    low = np.minimum(found["min"], 0)
    high = np.maximum(found["max"], 0)
    errors = [_error(values, low * share, high * share, steps) for share in SHARES]
    share = SHARES[np.argmin(errors)]
    return {**found, "min": low * share, "max": high * share}


def _error(
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    steps: int,
) -> np.floating:
    """Returns the mean squared error of values that are rounded in a range."""
    step = max(np.ptp([low, high]), np.finfo("float32").tiny) / steps
    rounded = np.clip(np.round(values / step) * step, low, high)
    return np.mean((rounded - values) ** 2)
