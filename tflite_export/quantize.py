"""How the numbers of a `.tflite` file are stored: settings of the converter."""

import numpy as np

from tflite_export.checks import check_count
from tflite_export.data import take_samples
from tflite_export.runtime import import_runtime

QUANTIZE = (None, "float16", "dynamic", "int8", "int8_full")
CALIBRATED = ("int8", "int8_full")


def check_quantize(quantize, representative_data):
    """Raises a `ValueError` if the two are not known, or do not fit together."""
    if quantize not in QUANTIZE:
        raise ValueError(
            f"Expected `quantize` to be one of {QUANTIZE}. "
            f"Received: quantize={quantize!r}"
        )
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


def read_representative(model, data, limit, batch_size):
    """Returns batches of `data`: dicts of arrays by the names of the inputs.

    By name, since the converter has an order of its own for lists.

    Args:
        model: the Keras model.
        data: see `take_samples`.
        limit: how many samples to read at most.
        batch_size: how many go in a batch. The last batch is filled up with the
            first samples.

    Raises:
        ValueError: if `limit` is no positive integer, or `data` does not fit `model`.
    """
    limit = check_count("representative_samples", limit, minimum=1)
    shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs}
    samples = take_samples(data, limit, shapes, "representative_data")
    count = len(samples[model.inputs[0].name])
    rows = np.arange(count + -count % batch_size) % count
    return [
        {
            each.name: samples[each.name][some].astype(each.dtype)
            for each in model.inputs
        }
        for some in rows.reshape(-1, batch_size)
    ]


def check_straight(traced, name):
    """Raises a `ValueError` for loops and branches: calibration crashes on them.

    Args:
        traced: the `tf.function`'s concrete function.
        name: the model's, for the error.
    """
    types = {operation.type for operation in traced.graph.get_operations()}
    found = sorted(types & {"While", "StatelessWhile", "If", "StatelessIf"})
    if found:
        raise ValueError(
            "Expected a model without loops and branches, which int8 does not take. "
            f"Received: model {name!r}, with {', '.join(found)}. Build recurrent "
            'layers with `unroll=True`, or use quantize="dynamic".'
        )


def check_integers(content, name):
    """Raises a `ValueError` if a file computes in anything but integers.

    The converter does not: it writes float operations where there are no others.

    Args:
        content: the file.
        name: the model's, for the error.
    """
    interpreter = import_runtime().Interpreter(model_content=content)
    floats = {
        each["index"]
        for each in interpreter.get_tensor_details()
        if np.issubdtype(each["dtype"], np.floating)
    }
    needed = {
        each["op_name"]
        for each in interpreter._get_ops_details()
        if floats & {*each["inputs"], *each["outputs"]}
    } - {"QUANTIZE", "DEQUANTIZE"}
    if needed:
        raise ValueError(
            "Expected a model that int8 operations can compute. Received: model "
            f'{name!r}, which needs {", ".join(sorted(needed))}. `quantize="int8"` '
            "computes these in float32."
        )


def configure(converter, quantize, batches):
    """Sets a `tf.lite.TFLiteConverter` to store numbers as `quantize` says.

    Args:
        converter: the converter; changed.
        quantize: one of `QUANTIZE`.
        batches: for those in `CALIBRATED`, what `read_representative` gave.
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
        # The kernel for those is newer than tflite-runtime 2.14, the last one there is.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    else:
        converter.representative_dataset = lambda: iter(batches)
        converter.target_spec.supported_ops = [integers, builtins]
    if quantize == "int8_full":
        converter.target_spec.supported_ops = [integers]
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
