"""Quantization of a float `.tflite` file, whoever made it, by litert-quantizer."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tflite_export.activations import narrowed, observable, observe
from tflite_export.biases import with_means_kept, with_own_biases
from tflite_export.calibration import (
    apply_rules,
    own_statistics,
    ranges_of,
    with_signature,
)
from tflite_export.checks import check_count, check_file, check_target, shown
from tflite_export.data import Samples, cast, full_batches, take_samples
from tflite_export.data_forms import Data
from tflite_export.files import replacing
from tflite_export.four_bits import choose_four_bits
from tflite_export.kernels import with_wide_kernels
from tflite_export.metadata import with_files_of
from tflite_export.quantization import REPRESENTATIVE_SAMPLES, check_integers
from tflite_export.recipes import (
    CHOSEN,
    INTEGERS_ONLY,
    ROUNDED,
    Recipe,
    check_recipe,
    manager_of,
    operations_of,
    rules_of,
)
from tflite_export.rounded_layers import rules_of_rounded
from tflite_export.runtime import TfliteFile, import_runtime
from tflite_export.samples import SUFFIX, load_samples

PACKAGE = "litert_quantizer"
DATA = "representative_data"


def quantize(
    path: str | Path,
    target: str | Path,
    recipe: Recipe = "int8",
    representative_data: Data = None,
    representative_samples: int = REPRESENTATIVE_SAMPLES,
) -> Path:
    """Writes a float `.tflite` file anew, with numbers of fewer bits.

    It needs no Keras and no TensorFlow, but `pip install litert-quantizer`, and takes
    files of any converter.

    | `recipe` | weights | computes in | inputs and outputs |
    |---|---|---|---|
    | `"float16"` | float16 | float32 | float32 |
    | `"dynamic"` | int8 | int8 and float32 | float32 |
    | `"int8"` | int8 | int8, float32 where there is no int8 operation | float32 |
    | `"int8_full"` | int8 | int8 only, or an error | int8 |
    | `"int16x8"` | int8 | int16, float32 where there is no int16 operation | float32 |
    | `"int4"` | int4 in layers that bear it, else int8 | as `"int8"` | float32 |
    | `"rounded"` | int4 where rounded already, else int8 | as `"int8"` | float32 |

    Weights have a scale per output channel, activations the range that rounds those on
    the data best, the inputs and outputs all of theirs. Biases make up for the mean of
    what rounding the weights changes. `"int4"` measures each convolution and dense
    layer on 64 batches of the data, and takes as many as add half to the squared
    error of `"int8"`; `{".*": "int4"}` takes all. `"rounded"` takes those whose
    weights are multiples of a step per channel that 4 bits hold as they are, which
    `keras_greedy.Budget(precision=("int8", "int4"))` makes. The metadata stay in the
    file.

    Args:
        path: The file, of float32.
        target: The file to write: a name ending in `.tflite`, in an existing folder.
        recipe: A kind of the table; or a dict of such kinds, or `None` for float32, by
            patterns: regular expressions, looked for in the kind of each operation
            (`SOFTMAX`...) and the names of its outputs and weights, of which the last
            one that matches holds; or a list of rules of litert-quantizer's own.
        representative_data: For the integer kinds but `"dynamic"`, typical inputs, as
            for `convert`; by default those that `save_samples` wrote beside `path`.
        representative_samples: Most of these to read, the first ones.

    Returns:
        The path of the file written.

    Raises:
        FileNotFoundError: When there is no such file, or no folder to write to.
        ImportError: When litert-quantizer is not installed; says how to.
        ValueError: When the file is none, or not of float32; when a pattern matches no
            operation, or none that can be stored so; when data are missing, do not
            fit the file or are not finite.

    Example:

    ```python
    import keras
    import numpy as np
    import tflite_export

    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, name="head")])
    path = tflite_export.convert(model, "model.tflite")
    x = np.random.default_rng(0).random((100, 8))
    tflite_export.quantize(path, "int8.tflite", "int8", x)
    tflite_export.quantize(path, "own.tflite", {".*": "int8", "head": "int4"}, x)
    print(tflite_export.verify(model, "own.tflite", x))
    ```
    """
    path = check_file(path, "an existing .tflite file")
    target = check_target(target, ".tflite", "target")
    limit = check_count("representative_samples", representative_samples, minimum=1)
    check_recipe(recipe)
    check_installed()
    file = TfliteFile(path)
    content = path.read_bytes()
    _check_float(content, path)
    rules = rules_of(recipe, operations_of(content))
    batches: list[Samples] = []
    if manager_of(rules).need_calibration():
        batches = _read_batches(file, representative_data, limit)
    elif representative_data is not None:
        raise ValueError(
            f"Expected `{DATA}` only with a recipe of integer activations. Received: "
            f"recipe={shown(recipe)} and {DATA}"
        )
    quantized = quantized_bytes(content, recipe, batches)
    with replacing(target) as temporary:
        temporary.write_bytes(quantized)
    return target


def quantized_bytes(
    content: bytes,
    recipe: Recipe,
    batches: Sequence[Samples],
) -> bytes:
    """Returns the content of a quantized file.

    Args:
        content: The content of a file of float32.
        recipe: A recipe that `check_recipe` has passed.
        batches: What to calibrate on, where that is needed: arrays by input name.

    Raises:
        ValueError: When a pattern of the recipe matches nothing, the runtime has no
            operations for what comes out, or, for `"int8_full"`, floats are left.
    """
    signed = with_signature(content)
    operations = operations_of(signed)
    rules = rules_of(recipe, operations)
    if recipe == ROUNDED:
        rules = rules_of_rounded(content, operations)
    ranges = None
    if batches and isinstance(recipe, (str, Mapping)):
        ranges = ranges_of(signed, rules, batches)
        signed = with_wide_kernels(with_own_biases(signed), ranges)
        seen = observe(observable(signed), list(ranges), batches)
        ranges = narrowed(signed, rules, ranges, seen.values)
        if recipe == CHOSEN:
            rules = choose_four_bits(signed, operations, ranges, seen.means, batches)
        signed = with_means_kept(signed, rules, seen.means)
    elif batches:
        ranges = own_statistics(signed, rules, batches)
    # flatbuffers, which it imports, comes with litert-quantizer.
    from tflite_export.shared_vectors import with_shared_vectors

    made = with_shared_vectors(apply_rules(signed, rules, ranges))
    quantized = with_files_of(made, content)
    interpreter = import_runtime().Interpreter(model_content=quantized)
    try:
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            "Expected a recipe that the operations of the runtime can compute. "
            f"Received: recipe={shown(recipe)}: {error}"
        ) from error
    if recipe == INTEGERS_ONLY:
        check_integers(quantized, "of the file")
    return quantized


def check_installed() -> None:
    """Raises an ImportError where litert-quantizer is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ImportError(
            "Expected litert-quantizer, which quantizes .tflite files. Received: an "
            "environment without it: `pip install litert-quantizer`"
        )


def _check_float(content: bytes, path: Path) -> None:
    interpreter = import_runtime().Interpreter(model_content=content)
    for tensor in interpreter.get_tensor_details():
        scales = tensor["quantization_parameters"]["scales"]
        if len(scales) or tensor["dtype"] == np.float16:
            raise ValueError(
                "Expected a file of float32, which is not quantized yet. Received: "
                f"path={str(path)!r}, with {tensor['name']!r} of "
                f"{np.dtype(tensor['dtype'])}"
            )


def _read_batches(file: TfliteFile, data: Data, limit: int) -> list[Samples]:
    """Returns batches to calibrate on, of the user's data or those beside the file."""
    if data is None:
        beside = Path(file.path).with_suffix(SUFFIX)
        if not beside.is_file():
            raise ValueError(
                f"Expected `{DATA}`, a hundred typical inputs, or samples beside the "
                f"file, which `save_samples` writes. Received: {DATA}=None, and there "
                f"is no {str(beside)!r}"
            )
        data, _ = load_samples(beside)
    samples = take_samples(data, limit, file.samples, DATA)
    for port in file.inputs:
        samples[port.name] = cast(samples[port.name], port.dtype, DATA)
    return list(full_batches(samples, file.batch_size))
