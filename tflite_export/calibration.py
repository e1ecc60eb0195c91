"""Calls of litert-quantizer: the ranges of activations, and a file made with them."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from tflite_export.data import Samples
from tflite_export.kernels import span_of
from tflite_export.recipes import Rules, manager_of
from tflite_export.runtime import import_runtime

Ranges: TypeAlias = dict[str, dict[str, Any]]
"""Name of a tensor -> the statistics that its scale is made of."""

SIGNATURE = "serving_default"

SMALLEST_SPAN = 1e-6
"""Of an activation; one that is 0 on all data has a smaller one."""


def ranges_of(content: bytes, rules: Rules, batches: Sequence[Samples]) -> Ranges:
    """Returns the smallest and the largest value of each activation.

    litert-quantizer's own default is a moving average over the batches, which cuts off
    what few samples have.

    Args:
        content: The content of a file with a signature.
        rules: What is to be quantized.
        batches: Arrays by the names of the inputs.

    Raises:
        ValueError: When there are activations that it cannot observe.
    """
    from litert_quantizer.calibrator import Calibrator
    from litert_quantizer.utils.qsv_utils import min_max_update

    with _quiet():
        calibrator = Calibrator(content, qsv_update_func=min_max_update)
        try:
            calibrator.calibrate({signature_of(content): batches}, manager_of(rules))
        except ValueError as error:
            raise ValueError(
                "Expected a file whose activations litert-quantizer can observe. "
                "Received: one with others, as in recurrent layers and loops: "
                f'{error}. Use "dynamic".'
            ) from error
    return {
        name: _with_span(each) for name, each in calibrator.get_model_qsvs().items()
    }


def _with_span(found: dict[str, Any]) -> dict[str, Any]:
    """Returns a range that is not empty: one that is would have a scale of 0."""
    if "max" in found and span_of(found) < SMALLEST_SPAN:
        return found | {"max": np.ones_like(found["max"])}
    return found


def own_statistics(content: bytes, rules: Rules, batches: Sequence[Samples]) -> Ranges:
    """Returns what the algorithms of rules ask for, which may be more than ranges.

    Args:
        content: The content of a file with a signature.
        rules: What is to be quantized.
        batches: Arrays by the names of the inputs.
    """
    from litert_quantizer.quantizer import Quantizer

    with _quiet():
        tool = Quantizer(content, rules)
        return tool.calibrate({signature_of(content): batches})


def apply_rules(content: bytes, rules: Rules, ranges: Ranges | None) -> bytes:
    """Returns the content of the file that rules make of a float one.

    Args:
        content: The content of a file with a signature.
        rules: What is to be quantized.
        ranges: Those of its activations, where the rules need them.
    """
    from litert_quantizer.quantizer import Quantizer

    with _quiet():
        tool = Quantizer(content, rules)
        result = tool.quantize(ranges, enable_progress_report=False)
    return bytes(result.quantized_model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops progress bars, and warnings about how litert-quantizer uses the runtime."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def signature_of(content: bytes) -> str | None:
    """Returns the name of the first signature of a file, if there is one."""
    interpreter = import_runtime().Interpreter(model_content=content)
    return next(iter(interpreter.get_signature_list()), None)


def with_signature(content: bytes) -> bytes:
    """Returns a file with a signature, whose names are those of the tensors.

    Args:
        content: The content of a file, which may have one already.
    """
    if signature_of(content) is not None:
        return content
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    maps = []
    for indices in (graph.inputs, graph.outputs):
        names = [graph.tensors[index].name for index in indices]
        pairs = zip(names, indices, strict=True)
        maps.append([schema.TensorMapT(name, index) for name, index in pairs])
    model.signatureDefs = [schema.SignatureDefT(*maps, SIGNATURE.encode(), 0)]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
