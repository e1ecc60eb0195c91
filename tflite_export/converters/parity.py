"""Checks that a converted model computes what the model itself computes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tflite_export.model_checks import import_keras, structure_of
from tflite_export.runtime import TfliteFile

if TYPE_CHECKING:
    import keras

TOLERANCE = 1e-3
"""The largest difference of an output, over the largest output."""


def computed(
    model: "keras.Model",
    examples: int,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns random inputs of a model, integers being 0 or 1, and its outputs.

    Args:
        model: A Functional or Sequential Keras model.
        examples: How many, unless the model's inputs say it.
    """
    keras = import_keras()
    rng = np.random.default_rng(0)
    inputs = []
    for tensor in model.inputs:
        shape = (tensor.shape[0] or examples, *tensor.shape[1:])
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        is_float = "float" in dtype
        values = rng.normal(size=shape) if is_float else rng.integers(0, 2, shape)
        inputs.append(values.astype(dtype))
    return inputs, outputs_of(model, inputs)


def outputs_of(model: "keras.Model", inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns a model's outputs at inference, in a row.

    Args:
        model: A Functional or Sequential Keras model.
        inputs: An array for each of its inputs.
    """
    keras = import_keras()
    tensors = [keras.ops.convert_to_tensor(array) for array in inputs]
    given = keras.tree.pack_sequence_as(structure_of(model), tensors)
    made = keras.tree.flatten(model(given, training=False))
    return [keras.ops.convert_to_numpy(output) for output in made]


def check_file(
    path: Path,
    model: "keras.Model",
    batch_size: int,
    converter: str,
) -> None:
    """Raises a ValueError unless the plain runtime computes what the model does.

    It has no Flex operations. A file of several inputs, whose order it does not tell,
    is opened, and not run.

    Args:
        path: A file of float32.
        model: The model.
        batch_size: That of the file.
        converter: What has converted it, for the error.
    """
    file = TfliteFile(path)
    if len(file.inputs) > 1:
        return
    (x,), expected = computed(model, batch_size)
    found = file.run({file.inputs[0].name: x})
    check_equal(list(found.values()), expected, converter)


def check_equal(
    found: Sequence[np.ndarray],
    expected: Sequence[np.ndarray],
    converter: str,
) -> None:
    """Raises a ValueError unless outputs are those expected.

    Args:
        found: What was computed on the way to the file.
        expected: What the model computes on its own backend.
        converter: What converts it, for the error.
    """
    for values, wanted in zip(found, expected, strict=True):
        largest = np.max(np.abs(wanted), initial=0, where=np.isfinite(wanted))
        tolerance = TOLERANCE * largest
        if not np.allclose(values, wanted, rtol=0, atol=tolerance, equal_nan=True):
            error = np.max(np.abs(values - wanted))
            raise ValueError(
                f"Expected the model to compute the same by {converter}, which "
                f"converts it. Received: an output that differs by {error:.3g}, where "
                f"the largest is {largest:.3g}"
            )
