"""Quantization: the settings of the converter, and the data it calibrates on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from tflite_export.checks import check_choice, check_count
from tflite_export.data import Samples, cast, full_batches, take_samples
from tflite_export.data_forms import Data, Inputs
from tflite_export.model_checks import keys_of
from tflite_export.runtime import import_runtime

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Quantization: TypeAlias = Literal["float16", "dynamic", "int8", "int8_full"]
"""The ways to store numbers in fewer bits; `convert` says how each computes."""

QUANTIZE = (None, "float16", "dynamic", "int8", "int8_full")
CALIBRATED = ("int8", "int8_full")

# Samples to calibrate on: enough typical ones to meet the range of each activation.
REPRESENTATIVE_SAMPLES = 128

CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}
"""Operations between floats and integers, which compute nothing."""


def check_quantize(quantize: str | None, representative_data: Data) -> None:
    """Raises an error if a quantization is unknown, or does not fit the data given.

    Args:
        quantize: The quantization that the caller gave.
        representative_data: The data to calibrate on, or `None`.

    Raises:
        ValueError: When `quantize` is unknown, needs data that are missing, or has no
            use for those given.
    """
    check_choice("quantize", quantize, QUANTIZE)
    if quantize in CALIBRATED and representative_data is None:
        raise ValueError(
            f"Expected `representative_data` with quantize={quantize!r}: a hundred "
            "typical inputs, pre-processed as for the model, that tell the range of "
            "every activation. Received: representative_data=None"
        )
    if quantize not in CALIBRATED and representative_data is not None:
        raise ValueError(
            f"Expected `representative_data` only with quantize in {CALIBRATED}. "
            f"Received: quantize={quantize!r} and representative_data"
        )


def read_representative(
    model: "keras.Model",
    data: Data,
    limit: int,
    batch_size: int,
) -> list[Samples]:
    """Returns batches of `data`: dicts of arrays by the names of the inputs.

    By name, since the converter has an order of its own for lists.

    Args:
        model: The Keras model.
        data: The samples, see `take_samples`.
        limit: Most samples to read.
        batch_size: Number of samples in each batch. The last batch is filled up with
            the first samples.

    Returns:
        The batches, each of them full.

    Raises:
        ValueError: When `limit` is no positive integer, or `data` does not fit
            `model`.
    """
    limit = check_count("representative_samples", limit, minimum=1)
    name = "representative_data"
    shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs}
    inputs = Inputs(shapes, keys_of(model), is_ordered=True)
    samples = take_samples(data, limit, inputs, name)
    for tensor in model.inputs:
        samples[tensor.name] = cast(samples[tensor.name], tensor.dtype, name)
    return list(full_batches(samples, batch_size))


def check_integers(content: bytes, model_name: str) -> None:
    """Raises an error if a file computes in anything but integers.

    The converter does not: it writes float operations where there are no others.

    Args:
        content: The content of the file.
        model_name: The model's name, for the error.

    Raises:
        ValueError: When an operation reads or writes floats; names all of them.
    """
    interpreter = import_runtime().Interpreter(model_content=content)
    floats = set()
    for tensor in interpreter.get_tensor_details():
        if np.issubdtype(tensor["dtype"], np.floating):
            floats.add(tensor["index"])
    needed = set()
    for operation in interpreter._get_ops_details():
        touched = {*operation["inputs"], *operation["outputs"]}
        if touched & floats:
            needed.add(operation["op_name"])
    needed -= CONVERSIONS
    if needed:
        raise ValueError(
            "Expected a model that int8 operations can compute. Received: model "
            f"{model_name!r}, which needs {', '.join(sorted(needed))}. "
            '`quantize="int8"` computes these in float32.'
        )


def configure(
    converter: "tf.lite.TFLiteConverter",
    quantize: str | None,
    batches: Sequence[Samples],
) -> None:
    """Sets a converter to store numbers as `quantize` says.

    Args:
        converter: The converter; changed.
        quantize: One of `QUANTIZE`.
        batches: The result of `read_representative`; empty for those that are not in
            `CALIBRATED`.
    """
    import tensorflow as tf

    builtins = tf.lite.OpsSet.TFLITE_BUILTINS
    integers = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
    converter.target_spec.supported_ops = [builtins]
    if quantize is None:
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif quantize == "dynamic":
        # The kernel for dense layers with a scale per channel is newer than
        # tflite-runtime 2.14, the last one there is.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    else:
        converter.representative_dataset = lambda: iter(batches)
        # Integers where there is an operation for them, floats elsewhere.
        converter.target_spec.supported_ops = [integers, builtins]
    if quantize == "int8_full":
        converter.target_spec.supported_ops = [integers]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
