"""The user's data as the arguments of `fit`, for as many epochs as it asks for."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import keras

from keras_greedy.batch_arrays import unpacked
from keras_greedy.batches import Batches
from keras_greedy.data_forms import Data, is_array_like, is_arrays, with_tuples

FIT_BATCH_SIZE = 32
"""That of `fit`, for arrays, where none is given."""


def training_arguments(batches: Batches, functional: keras.Model) -> dict[str, Any]:
    """Returns the data with their labels as arguments of `fit`.

    Args:
        batches: The data.
        functional: The Functional whose inputs and outputs they fit.
    """
    data = batches.data
    if is_arrays(data):
        x, y, weights = unpacked(data)
        arguments = {"x": batches.of_the_inputs(x), "y": y, "sample_weight": weights}
        size = batches.fixed_size
        return _cut(arguments, size) if size else arguments
    if batches.fixed_size:
        examples, steps = _rebatched(batches, functional)
    elif hasattr(data, "cardinality") and _is_plain(batches):
        return {"x": data, "shuffle": False}
    elif isinstance(data, keras.utils.PyDataset) and _is_plain(batches):
        return {"x": data}
    else:
        examples = _for_ever(batches)
        steps = sum(1 for _ in batches.as_given())
    return {"x": examples, "steps_per_epoch": steps, "shuffle": False}


def steps_in_an_epoch(arguments: dict[str, Any], batches: Batches) -> int:
    """Returns how many batches `fit` makes of these arguments.

    Args:
        arguments: From `training_arguments`, with a `batch_size` if there is one.
        batches: The data.
    """
    steps = arguments.get("steps_per_epoch")
    if steps is not None:
        return steps
    if is_arrays(batches.data):
        size = arguments.get("batch_size") or FIT_BATCH_SIZE
        return math.ceil(batches.examples() / size)
    # `fit` takes a data set's own batches, of whatever size.
    return sum(1 for _ in batches.as_given())


def validation_batches(
    data: Data | Batches | None,
    functional: keras.Model,
) -> Batches | None:
    """Returns the batches of `validation_data`, read only if they are none yet.

    Args:
        data: As given by the user.
        functional: The Functional whose inputs they fit.
    """
    if data is None or isinstance(data, Batches):
        return data
    return Batches(data, functional, name="validation_data")


def evaluation_arguments(batches: Batches, functional: keras.Model) -> dict[str, Any]:
    """Returns the data with their labels as arguments of `evaluate`.

    Args:
        batches: As for `training_arguments`.
        functional: As for `training_arguments`.
    """
    arguments = training_arguments(batches, functional)
    arguments.pop("shuffle", None)
    if "steps_per_epoch" in arguments:
        arguments["steps"] = arguments.pop("steps_per_epoch")
    return arguments


def _for_ever(batches: Batches) -> Iterator[tuple]:
    """Yields `(x, y)` as `fit` takes them: it reads an iterable once only."""
    for _ in itertools.count():
        for batch in batches.as_given():
            x, y, weights = unpacked(batch)
            x = batches.of_the_inputs(x)
            parts = (x, y) if weights is None else (x, y, weights)
            yield with_tuples(parts)


def _rebatched(
    batches: Batches,
    functional: keras.Model,
) -> tuple[Iterator[tuple], int]:
    """Returns `(x, y)` of the model's own batch size, for ever, and their number."""
    labelled = batches.labelled()
    outputs = len(functional.outputs)

    def examples() -> Iterator[tuple]:
        while True:
            for inputs, targets in labelled.pairs():
                parts = [keras.tree.pack_sequence_as(functional.input, inputs)]
                # Behind the labels there may be weights of the examples.
                for own in (targets[:outputs], targets[outputs:]):
                    if own:
                        part = keras.tree.pack_sequence_as(functional.output, own)
                        parts.append(part)
                yield with_tuples(parts)

    return examples(), sum(1 for _ in labelled)


def _cut(arguments: dict[str, Any], size: int) -> dict[str, Any]:
    """Returns arrays without the examples that do not fill a batch of a fixed size."""
    examples = len(keras.tree.flatten(arguments["x"])[0])
    whole = examples - examples % size
    cut = keras.tree.map_structure(
        lambda array: None if array is None else array[:whole],
        arguments,
    )
    return cut | {"batch_size": size}


def _is_plain(batches: Batches) -> bool:
    """Returns whether `fit` takes the first batch of a data set as it is."""
    batch = batches.first_as_given()
    x, _, _ = unpacked(batch)
    if batches.of_the_inputs(x) is not x:
        return False
    parts = batch if isinstance(batch, list | tuple) else [batch]
    leaves = [leaf for leaf in keras.tree.flatten(parts) if leaf is not None]
    has_lists = any(isinstance(part, list) for part in parts)
    return not has_lists and all(is_array_like(leaf) for leaf in leaves)
