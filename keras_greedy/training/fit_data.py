"""The user's data as the arguments of `fit`, for as many epochs as it asks for."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import keras

from keras_greedy.batch_arrays import unpacked
from keras_greedy.batches import Batches
from keras_greedy.data_forms import Data, is_array_like, is_arrays, with_tuples
from keras_greedy.devices import device_count, is_under_strategy, whole_number

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
        if batches.fixed_size:
            return _cut(arguments, batches.fixed_size, batches.fixed_size)
        if device_count() > 1:
            batches.for_devices()  # Raises where there are too few.
            return _cut(arguments, device_count(), whole_number(FIT_BATCH_SIZE))
        return arguments
    takes_any_size = not batches.fixed_size and device_count() == 1
    if takes_any_size and hasattr(data, "cardinality") and _is_plain(batches):
        return {"x": data, "shuffle": False}
    is_sequence = isinstance(data, keras.utils.PyDataset)
    if takes_any_size and is_sequence and _is_plain(batches):
        return {"x": data}
    if takes_any_size and not is_under_strategy():
        examples = _for_ever(batches)
        steps = sum(1 for _ in batches.as_given())
    else:
        make, steps = _rebatched(batches, functional)
        examples = for_fit(make, functional)
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
        return math.ceil(_count(arguments) / size)
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


def for_fit(
    make: Callable[[], Iterator[tuple]],
    functional: keras.Model,
) -> Any:
    """Returns examples as `fit` takes them, under a strategy, too.

    There it has two readers, in threads of their own, which would disturb each other at
    one generator: each gets one from a data set.

    Args:
        make: Returns a generator of `(x,)`, `(x, y)` or `(x, y, sample_weight)`, which
            gives the same each time.
        functional: The Functional whose inputs x fits.
    """
    if not is_under_strategy():
        return make()
    import tensorflow as tf

    def spec_of(leaf: Any, known: tuple) -> Any:
        # Where a model takes any size, each batch may have another one.
        sizes = zip(leaf.shape[1:], known[1:], strict=True)
        shape = (None, *(None if fixed is None else size for size, fixed in sizes))
        return tf.TensorSpec(shape, leaf.dtype)

    x, *others = next(make())
    leaves = zip(keras.tree.flatten(x), functional.inputs, strict=True)
    specs = [spec_of(leaf, tensor.shape) for leaf, tensor in leaves]
    of_x = keras.tree.pack_sequence_as(x, specs)
    of_others = keras.tree.map_structure(lambda leaf: spec_of(leaf, leaf.shape), others)
    return tf.data.Dataset.from_generator(make, output_signature=(of_x, *of_others))


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
) -> tuple[Callable[[], Iterator[tuple]], int]:
    """Returns what yields `(x, y)` of a size that all devices take, and their number.

    That is the model's own batch size, or about that of the data.
    """
    x, _, _ = unpacked(batches.first_as_given())
    labelled = batches.for_devices().labelled(_count({"x": x}))
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

    return examples, sum(1 for _ in labelled)


def _cut(
    arguments: dict[str, Any],
    multiple: int,
    batch_size: int,
) -> dict[str, Any]:
    """Returns arrays without the last examples, and a batch size.

    Args:
        arguments: Of `fit`.
        multiple: What is left are so many examples, or some times as many.
        batch_size: As for `fit`.
    """
    examples = _count(arguments)
    whole = examples - examples % multiple
    cut = keras.tree.map_structure(
        lambda array: None if array is None else array[:whole],
        arguments,
    )
    return cut | {"batch_size": batch_size}


def _count(arguments: dict[str, Any]) -> int:
    """Returns how many examples there are in arrays."""
    return len(keras.tree.flatten(arguments["x"])[0])


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
