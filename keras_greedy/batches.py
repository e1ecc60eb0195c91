"""Reads the user's data as checked batches of a bounded size, as often as needed.

The data pass this door once per call of the library: what is made of them here is
handed on, and the rooms behind it ask for other batch sizes or for the labels.
"""

import copy
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_greedy.batch_arrays import (
    NUMBERS,
    Arrays,
    NamedInputs,
    as_dtype,
    bare,
    fits,
    joined,
    unbatched_hint,
    unpacked,
    with_channel_axis,
    without_last_one,
)
from keras_greedy.data_forms import (
    Data,
    Source,
    is_array_like,
    is_arrays,
    repeatable,
    to_numpy,
)
from keras_greedy.data_parts import Part, one_of
from keras_greedy.devices import check_fixed_size, device_count, whole_number

BATCH_SIZE = 32


class Batches:
    """Inputs of a model, in batches of at most `batch_size`.

    Accepts arrays, an `(x, y)` pair of arrays, `tf.data.Dataset`,
    `keras.utils.PyDataset`, or any iterable of `x` or `(x, y)` batches; for several
    inputs x is a dict by their names, or a list. A one-shot iterator is read into
    memory, since the search reads the data more than once.

    A model of a fixed batch size gets batches of that size, whatever is asked for; the
    examples that do not fill one are left out.

    Args:
        data: See above.
        model: The Functional whose inputs the data must fit.
        batch_size: Most examples in a batch; rounded up to what all devices share.
        name: Of the argument that the data are, for the errors.

    Attributes:
        data: The data as given, what is like an array being one; the list of batches of
            a one-shot iterator.
        name: As given.
        first: The first batch, one array per model input.
        fixed_size: The batch size of the model, if it has one.

    Raises:
        ValueError: When there is no data, or it does not fit the model.
    """

    def __init__(
        self,
        data: Data,
        model: keras.Model,
        batch_size: int = BATCH_SIZE,
        name: str = "data",
    ):
        self._model = model
        self._inputs = model.inputs
        self.name = name
        self._named = NamedInputs(model, name)
        sizes = [tensor.shape[0] for tensor in self._inputs if tensor.shape]
        self.fixed_size: int | None = next((size for size in sizes if size), None)
        check_fixed_size(self.fixed_size)
        self._batch_size = self.fixed_size or whole_number(batch_size)
        self._shuffle: np.random.Generator | None = None
        self._times_parted = 0
        # Of the examples in a batch.
        self._multiple = 1
        self.data = repeatable(data, name)
        is_one_batch = self._is_one_array_per_input(self.data)
        whole = (self.data,) if is_one_batch else self.data
        self._source: Source | Part = Source(whole, name)
        first = next(self._read(), None)
        if first is None:
            least = self.fixed_size
            batch = f"batch of {least} examples" if least else "batch"
            raise ValueError(
                f"Expected `{name}` to hold at least one {batch}. Received none."
            )
        self.first: Arrays = first

    @classmethod
    def of(
        cls,
        data: "Data | Batches",
        model: keras.Model,
        batch_size: int = BATCH_SIZE,
    ) -> "Batches":
        """Returns the batches of `data`, which is read only if it is none yet.

        Args:
            data: As for the constructor, or `Batches` made of it for this model or for
                one with the same inputs.
            model: As for the constructor.
            batch_size: As for the constructor.
        """
        if isinstance(data, Batches):
            return data.of_size(batch_size)
        return cls(data, model, batch_size)

    def of_size(self, batch_size: int) -> "Batches":
        """Returns the same data in batches of another size."""
        size = self.fixed_size or whole_number(batch_size)
        return self._changed(_batch_size=size)

    def for_devices(self) -> "Batches":
        """Returns the same data in batches that all devices share equally.

        The last examples, fewer than there are devices, are left out.

        Raises:
            ValueError: When there are fewer examples than devices.
        """
        devices = device_count()
        if len(self.first[0]) < devices:
            raise ValueError(
                f"Expected `{self.name}` to hold at least an example for each of the "
                f"{devices} devices. Received: {len(self.first[0])} examples"
            )
        return self._changed(_multiple=devices)

    def shuffled(self, rng: np.random.Generator) -> "Batches":
        """Returns the same data, shuffled anew in each pass.

        Args:
            rng: Shuffles as much as the source hands over at once: whole arrays, or
                each of a dataset's own batches.
        """
        other = self._changed(_shuffle=rng)
        other.first = next(iter(other))
        return other

    def held_apart(self) -> "tuple[Batches, Batches] | None":
        """Returns most of the examples to learn from, and the others to judge by.

        `None` where they are too few for that.
        """
        examples = self.examples()
        every = one_of(examples)
        if every is None:
            return None
        # Those of the first turn are no longer in what is left to part again.
        turn = self._times_parted
        held = Part(self._source, every, turn, is_held=True, name=self.name)
        rest = Part(self._source, every, turn, is_held=False, name=self.name)
        count = held.examples()
        # Of many copies of one example all are on the same side.
        if min(count, examples - count) < (self.fixed_size or 1):
            return None
        return self._of_part(rest), self._of_part(held)

    def examples(self) -> int:
        """Returns how many examples there are; reads the data for it."""
        return sum(len(batch[0]) for batch in self)

    @property
    def batches_told(self) -> int | None:
        """The number of the source's own batches, if it tells it; 1 of whole arrays."""
        return self._source.length

    def labelled(self, batch_size: int = BATCH_SIZE) -> "LabelledBatches":
        """Returns the same data with labels.

        Args:
            batch_size: As for the constructor.

        Raises:
            ValueError: When there are no labels that fit.
        """
        other = LabelledBatches(self.data, self._model, batch_size, self.name)
        # Which knows already whether they end.
        other._source = self._source
        other._multiple = self._multiple
        return other

    def first_as_given(self) -> Any:
        """Returns the first of the source's own batches, or all of whole arrays."""
        return next(self._source(), None)

    def first_labels(self) -> Any:
        """Returns the labels of the first batch as given, or of all of whole arrays."""
        _, labels, _ = unpacked(self.first_as_given(), self.name)
        return labels

    def of_the_inputs(self, x: Any) -> Any:
        """Returns a dict without the entries that are no inputs of the model."""
        return self._named.alone(x) if isinstance(x, dict) else x

    def check_ends(self) -> None:
        """Raises a ValueError when the data may never end; reads them once for it."""
        self._source.check_ends()

    def as_given(self) -> Iterator[Any]:
        """Yields the source's own batches, x or `(x, y)`; whole arrays are one.

        Raises:
            ValueError: When there is none any more.
        """
        is_empty = True
        for batch in self._source():
            is_empty = False
            yield batch
        if is_empty:
            self._raise_empty()

    def __iter__(self) -> Iterator[Arrays]:
        """Yields one array per model input, `(n, ...)` each, of the input's dtype.

        Raises:
            ValueError: When the data give nothing any more.
        """
        is_empty = True
        for batch in self._read():
            is_empty = False
            yield batch
        if is_empty:
            self._raise_empty()

    def take(self, limit: int) -> Iterator[Arrays]:
        """Yields the first `limit` examples, but for a last batch that is not full."""
        full = None
        for batch in self:
            size = len(batch[0])
            full = size if full is None else full
            # A divergence is scaled by the variance of the batch, and that of a few
            # examples says nothing.
            if size < full:
                return
            yield batch if self.fixed_size else [x[:limit] for x in batch]
            limit -= size
            if limit <= 0:
                return

    def _read(self) -> Iterator[Arrays]:
        waiting: list[Arrays] = []
        size = 0
        for batch in self._source():
            arrays = self._in_order(self._checked(batch))
            waiting.append(arrays)
            size += len(arrays[0])
            while size >= self._batch_size:
                whole = joined(waiting)
                yield self._converted([x[: self._batch_size] for x in whole])
                waiting = [[x[self._batch_size :] for x in whole]]
                size -= self._batch_size
        size -= size % self._multiple
        if size and not self.fixed_size:
            yield self._converted([x[:size] for x in joined(waiting)])

    def _raise_empty(self) -> None:
        raise ValueError(
            f"Expected `{self.name}` to give its batches as often as they are read. "
            "Received: none this time, though there were some before. Give an object "
            "whose `__iter__` begins anew each time, or a list of the batches."
        )

    def _of_part(self, part: Part) -> "Batches":
        if is_arrays(self.data):
            other = Batches(part.of_arrays(self.data), self._model, name=self.name)
        else:
            other = self._changed(data=part, _source=part)
            other.first = next(iter(other))
        other._times_parted = self._times_parted + 1
        return other

    def _changed(self, **attributes: Any) -> "Batches":
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def _is_one_array_per_input(self, data: Data) -> bool:
        """Returns whether a list is one array for each of several inputs."""
        if not isinstance(data, list) or len(self._inputs) == 1:
            return False
        return len(data) == len(self._inputs) and all(map(is_array_like, data))

    def _in_order(self, arrays: Arrays) -> Arrays:
        if self._shuffle is None:
            return arrays
        order = self._shuffle.permutation(len(arrays[0]))
        return [array[order] for array in arrays]

    def _checked(self, batch: Any) -> Arrays:
        """Returns the inputs of a batch of the source, checked against the model."""
        x, _, _ = unpacked(batch, self.name)
        if isinstance(x, dict):
            x = self._named.in_order(x)
        arrays = [to_numpy(leaf) for leaf in keras.tree.flatten(x)]
        expected = [tuple(tensor.shape) for tensor in self._inputs]
        if len(arrays) == len(expected):
            arrays = [*map(with_channel_axis, arrays, expected)]
        received = [array.shape for array in arrays]
        has_all = len(received) == len(expected)
        if not has_all or not all(map(fits, received, expected)):
            raise ValueError(
                f"Expected `{self.name}` to give batches of shape {bare(expected)}, "
                f"as the model's input. Received: a batch of shape {bare(received)}."
                + unbatched_hint(received, expected)
            )
        if len({len(array) for array in arrays}) > 1:
            raise ValueError(
                f"Expected `{self.name}` to give as many examples for each of the "
                f"model's inputs. Received: a batch of shape {bare(received)}."
            )
        return arrays

    def _converted(self, arrays: Arrays) -> Arrays:
        """Returns the arrays in the dtypes of the model's inputs."""
        converted = []
        for array, tensor in zip(arrays, self._inputs, strict=True):
            converted.append(as_dtype(array, tensor.dtype, self.name))
        return converted


class LabelledBatches(Batches):
    """Inputs of a model and their labels: each batch gives first those, then these.

    Arguments and errors are those of `Batches`; labels are arrays of `(n, ...)`, one
    for each output, by its name if they come as a dict. Behind them are the weights of
    the examples, if the data are `(x, y, sample_weight)`: as many as labels.
    """

    def __init__(
        self,
        data: Data,
        model: keras.Model,
        batch_size: int = BATCH_SIZE,
        name: str = "data",
    ) -> None:
        self._outputs = output_keys(model)
        super().__init__(data, model, batch_size, name)

    @property
    def has_weights(self) -> bool:
        """Whether there are weights of the examples."""
        return len(self.first) > len(self._inputs) + len(self._outputs)

    def pairs(self) -> Iterator[tuple[Arrays, Arrays]]:
        """Yields the inputs of each batch, and its labels, with weights behind them."""
        inputs = len(self._inputs)
        for batch in self:
            yield batch[:inputs], batch[inputs:]

    def _checked(self, batch: Any) -> Arrays:
        inputs = super()._checked(batch)
        _, y, sample_weight = unpacked(batch, self.name)
        examples = len(inputs[0])
        labels = self._for_each_output(y, "labels", examples)
        if sample_weight is None:
            return [*inputs, *labels]
        leaves = keras.tree.flatten(sample_weight)
        is_for_all = len(leaves) == 1 and not isinstance(sample_weight, dict)
        if is_for_all:
            sample_weight = leaves * len(self._outputs)
        weights = self._for_each_output(sample_weight, "sample weights", examples)
        for array in weights:
            # Of a NaN neither is true.
            if array.dtype.kind not in NUMBERS or not (array >= 0).all():
                raise ValueError(
                    f"Expected `{self.name}` to give sample weights of at least 0. "
                    f"Received: {array.min() if array.size else array} among them."
                )
        return [*inputs, *labels, *map(without_last_one, weights)]

    def _for_each_output(self, structure: Any, what: str, examples: int) -> Arrays:
        """Returns one array for each output, of as many examples as the inputs."""
        if isinstance(structure, dict) and set(self._outputs) <= set(structure):
            structure = [structure[name] for name in self._outputs]
        arrays = [to_numpy(leaf) for leaf in keras.tree.flatten(structure)]
        lengths = [len(array) if array.shape else None for array in arrays]
        if lengths != [examples] * len(self._outputs):
            named = [*structure] if isinstance(structure, dict) else ""
            shapes = [array.shape for array in arrays]
            raise ValueError(
                f"Expected `{self.name}` to give {what}, as many as examples, for each "
                f"output {self._outputs}. Received: {what} {named} of shape {shapes} "
                f"for {examples} examples."
            )
        return arrays

    def _converted(self, arrays: Arrays) -> Arrays:
        inputs = super()._converted(arrays[: len(self._inputs)])
        return [*inputs, *arrays[len(self._inputs) :]]


def output_keys(functional: keras.Model) -> list[str]:
    """Returns the key of each output in a dict of losses or labels."""
    if not isinstance(functional.output, dict):
        return list(functional.output_names)
    keys = {tensor: key for key, tensor in functional.output.items()}
    return [keys[tensor] for tensor in keras.tree.flatten(functional.output)]
